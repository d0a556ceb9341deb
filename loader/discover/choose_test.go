// SPDX-License-Identifier: Apache-2.0

package discover

import (
	"fmt"
	"net"
	"slices"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"replypath/loader/config"
	"replypath/test/await"
)

// lan is a made-up namespace, of devices that not every kernel can make.
type lan struct{ network }

// add adds a link with a global address.
func (l *lan) add(link netlink.Link, attrs netlink.LinkAttrs) {
	attrs.Index = len(l.links) + 1
	if attrs.EncapType == "" {
		attrs.EncapType = "ether"
	}
	*link.Attrs() = attrs
	l.links = append(l.links, link)
	l.addresses = append(l.addresses, netlink.Addr{
		IPNet:     &net.IPNet{IP: net.IPv4(10, 0, byte(attrs.Index), 1).To4(), Mask: net.CIDRMask(24, 32)},
		LinkIndex: attrs.Index,
	})
}

// device adds a physical NIC.
func (l *lan) device(name string, altNames ...string) {
	l.add(&netlink.Device{}, netlink.LinkAttrs{Name: name, AltNames: altNames})
}

// TestIgnoredByDefault: each default name or glob keeps discovery from a device that has an address and such a name.
func TestIgnoredByDefault(t *testing.T) {
	var l lan
	l.device("eth0")
	bridges := []string{"br-ex", "br-lan", "br-wan", "br-01234567", "br-storage-lan1"} // not Docker's
	for _, name := range bridges {
		l.device(name)
	}
	want := make(map[string]string)
	for _, device := range []struct{ pattern, name string }{
		{"docker*", "docker_gwbridge"}, {"br-????????????", "br-0123456789ab"}, {"virbr*", "virbr0"}, {"cni*", "cni0"},
		{"flannel*", "flannel.1"}, {"cilium*", "cilium_vxlan"}, {"kube*", "kube-ipvs0"}, {"cali*", "cali0123456789a"},
		{"vxlan.calico", "vxlan.calico"}, {"vxlan-v6.calico", "vxlan-v6.calico"},
		{"wireguard.cali", "wireguard.cali"}, {"wg-v6.cali", "wg-v6.cali"},
		{"tailscale*", "tailscale0"}, {"podman*", "podman0"}, {"lxdbr*", "lxdbr0"}, {"incusbr*", "incusbr0"},
	} {
		l.device(device.name)
		want[device.name] = fmt.Sprintf("ignore_interfaces %q", device.pattern)
	}
	cfg := config.Default()
	r := l.evaluate(cfg)
	if got := names(r); !slices.Equal(got, append([]string{"eth0"}, bridges...)) {
		t.Errorf("managed: %q", got)
	}
	if diff := gocmp.Diff(want, reasons(r)); diff != "" || len(want) != len(cfg.IgnoreInterfaces) {
		t.Errorf("unmanaged, by %q (-want +got):\n%s", cfg.IgnoreInterfaces, diff)
	}
}

func TestDiscoveryOfDeviceKinds(t *testing.T) {
	var l lan
	l.add(&netlink.Device{}, netlink.LinkAttrs{Name: "lo", Flags: net.FlagLoopback, EncapType: "loopback"})
	l.add(&netlink.Bond{}, netlink.LinkAttrs{Name: "bond0"})
	l.add(&netlink.Device{}, netlink.LinkAttrs{Name: "eth0", MasterIndex: 2})
	l.add(&netlink.GenericLink{LinkType: "team"}, netlink.LinkAttrs{Name: "team0"})
	l.add(&netlink.Device{}, netlink.LinkAttrs{Name: "eth1", MasterIndex: 4})
	l.add(&netlink.Vrf{}, netlink.LinkAttrs{Name: "blue"})
	l.add(&netlink.Device{}, netlink.LinkAttrs{Name: "eth2", MasterIndex: 6})
	l.add(&netlink.Dummy{}, netlink.LinkAttrs{Name: "dummy0"})
	l.add(&netlink.Vlan{}, netlink.LinkAttrs{Name: "eth2.100", ParentIndex: 7})
	l.add(&netlink.Wireguard{}, netlink.LinkAttrs{Name: "wg0", EncapType: "none"})
	l.add(&netlink.GenericLink{LinkType: "wwan"}, netlink.LinkAttrs{Name: "wwan0", EncapType: "unknown519"})
	l.add(&netlink.Device{}, netlink.LinkAttrs{Name: "ib0", EncapType: "infiniband"})
	l.add(&netlink.Device{}, netlink.LinkAttrs{Name: "eth3", MasterIndex: 99})

	r := l.evaluate(config.Default())
	if got, want := names(r), []string{"bond0", "team0", "eth2", "eth2.100", "wg0", "wwan0"}; !slices.Equal(got, want) {
		t.Errorf("managed %q, want %q", got, want)
	}
	want := map[string]string{
		"lo":     "loopback",
		"eth0":   "a port of bond0, which counts in its place",
		"eth1":   "a port of team0, which counts in its place",
		"blue":   "a VRF: its ports count",
		"dummy0": "dummy device",
		"ib0":    "link type infiniband is not supported",
		"eth3":   "a port of interface 99, which counts in its place",
	}
	await.Same(t, "unmanaged", want, reasons(r))
	l.addresses = nil
	if got, want := names(l.evaluate(config.Default())), []string{"bond0", "team0", "eth2", "eth2.100"}; !slices.Equal(got, want) {
		t.Errorf("managed without an address %q, want %q", got, want)
	}
	for _, own := range r.Own {
		isLoopback := own.Address == address("10.0.1.1") || own.Address == address("10.0.8.1")
		if own.LoopbackOnly != isLoopback {
			t.Errorf("%s: only on loopback: %v", own.Address, own.LoopbackOnly)
		}
	}
}

func TestNamedInterfaces(t *testing.T) {
	observe := func(name string) config.Interface { return config.Interface{Name: name, Mode: config.ModeObserve} }
	plain := func(name string) config.Interface { return config.Interface{Name: name} }
	for _, test := range []struct {
		name       string
		interfaces []config.Interface
		ignore     []string
		managed    map[string]string // interface: the entry that holds for it
		warnings   []string
	}{
		{
			name:       "only what is named",
			interfaces: []config.Interface{plain("eth1")},
			managed:    map[string]string{"eth1": "eth1"},
		},
		{
			name:       "no entries",
			interfaces: []config.Interface{},
			managed:    map[string]string{},
		},
		{
			name:       "alternative name",
			interfaces: []config.Interface{plain("replication")},
			managed:    map[string]string{"eth1": "replication"},
		},
		{
			name:       "glob",
			interfaces: []config.Interface{plain("eth*")},
			managed:    map[string]string{"eth0": "eth*", "eth1": "eth*"},
		},
		{
			name:       "glob of alternative names",
			interfaces: []config.Interface{plain("enp?s0")},
			managed:    map[string]string{"eth0": "enp?s0"},
		},
		{
			name:       "a name wins over an alternative name and a glob before it",
			interfaces: []config.Interface{observe("eth*"), observe("enp1s0"), plain("eth0")},
			managed:    map[string]string{"eth0": "eth0", "eth1": "eth*"},
			warnings:   []string{`interface eth0 has another mode by its entry "eth0" than by "enp1s0": the former is in force`},
		},
		{
			name:       "an alternative name wins over a glob before it",
			interfaces: []config.Interface{observe("eth*"), plain("enp1s0")},
			managed:    map[string]string{"eth0": "enp1s0", "eth1": "eth*"},
		},
		{
			name:       "the first of two globs wins, which the name or another name matches",
			interfaces: []config.Interface{plain("repl*"), observe("eth*")},
			managed:    map[string]string{"eth0": "eth*", "eth1": "repl*"},
			warnings:   []string{`interface eth1 has another mode by its entry "repl*" than by "eth*": the former is in force, but the next start or reload is refused`},
		},
		{
			name:       "several entries that say the same",
			interfaces: []config.Interface{plain("eth1"), plain("replication"), plain("repl*"), plain("enp*"), plain("eth*")},
			managed:    map[string]string{"eth0": "enp*", "eth1": "eth1"},
		},
		{
			name:       "a name overrules what discovery leaves out",
			interfaces: []config.Interface{plain("dummy0"), plain("docker0"), plain("bare0")},
			managed:    map[string]string{"dummy0": "dummy0", "docker0": "docker0", "bare0": "bare0"},
		},
		{
			name:       "ignore_interfaces takes single ones out of a glob",
			interfaces: []config.Interface{plain("*")},
			ignore:     []string{"docker*", "eth1", "b*"},
			managed:    map[string]string{"eth0": "*", "dummy0": "*"},
		},
		{
			name:       "ignore_interfaces takes an alternative name out of a glob",
			interfaces: []config.Interface{plain("eth*")},
			ignore:     []string{"repl*"},
			managed:    map[string]string{"eth0": "eth*"},
		},
		{
			name:       "ignore_interfaces does not swallow a glob",
			interfaces: []config.Interface{plain("docker[0-9]")},
			managed:    map[string]string{"docker0": "docker[0-9]"},
		},
		{
			name:       "ignored by an alternative name, but named",
			interfaces: []config.Interface{plain("eth1")},
			ignore:     []string{"replication"},
			managed:    map[string]string{"eth1": "eth1"},
		},
		{
			name:       "nothing there yet",
			interfaces: []config.Interface{plain("eth7"), plain("ens*"), plain("eth0")},
			managed:    map[string]string{"eth0": "eth0"},
			warnings:   []string{"interface eth7 is not there yet: it is managed once it appears; eth1 is there", `no interface matches "ens*" yet: what appears is managed then`},
		},
		{
			name:       "what cannot be managed",
			interfaces: []config.Interface{plain("port0"), plain("backup"), plain("lo"), plain("blue"), plain("po*")},
			managed:    map[string]string{},
			warnings: []string{
				"interface port0 is not managed: a port of bond0, which counts in its place",
				"interface backup is not managed: a port of bond0, which counts in its place",
				"interface lo is not managed: loopback",
				"interface blue is not managed: a VRF: its ports count",
				`no interface matches "po*" yet: what appears is managed then`,
			},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			var l lan
			l.add(&netlink.Device{}, netlink.LinkAttrs{Name: "lo", Flags: net.FlagLoopback, EncapType: "loopback"})
			l.device("eth0", "enp1s0")
			l.device("eth1", "replication")
			l.add(&netlink.Dummy{}, netlink.LinkAttrs{Name: "dummy0"})
			l.add(&netlink.Bridge{}, netlink.LinkAttrs{Name: "docker0"})
			l.add(&netlink.Vrf{}, netlink.LinkAttrs{Name: "blue"})
			l.add(&netlink.Bond{}, netlink.LinkAttrs{Name: "bond0"})
			l.add(&netlink.Device{}, netlink.LinkAttrs{Name: "port0", AltNames: []string{"backup"}, MasterIndex: 7})
			l.device("bare0")
			l.addresses = l.addresses[:len(l.addresses)-1]

			cfg := named(test.interfaces...)
			if test.ignore != nil {
				cfg.IgnoreInterfaces = test.ignore
			}
			r := l.evaluate(cfg)
			managed := map[string]string{}
			for _, i := range r.Interfaces {
				managed[i.Name] = i.Settings.Name
				if !i.Named {
					t.Errorf("%s is not said to be named", i.Name)
				}
			}
			await.Same(t, "managed", test.managed, managed)
			await.Same(t, "warnings", test.warnings, r.Warnings)
			if len(r.Interfaces)+len(r.Unmanaged) != len(l.links) {
				t.Errorf("%d managed and %d unmanaged of %d", len(r.Interfaces), len(r.Unmanaged), len(l.links))
			}
		})
	}
}
