// SPDX-License-Identifier: Apache-2.0

package discover

import (
	"fmt"
	"net"
	"slices"
	"strings"
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
	await.Same(t, "managed", append([]string{"eth0"}, bridges...), names(r))
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
	await.Same(t, "managed", []string{"bond0", "team0", "eth2", "eth2.100", "wg0", "wwan0"}, names(r))
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
	await.Same(t, "managed without an address", []string{"bond0", "team0", "eth2", "eth2.100"}, names(l.evaluate(config.Default())))
	for _, own := range r.Own {
		isLoopback := own.Address == address("10.0.1.1") || own.Address == address("10.0.8.1")
		await.Same(t, own.Address.String()+" is only on loopback", isLoopback, own.LoopbackOnly)
	}
}

// TestNamedInterfaces: which entry holds for which interface, as "interface=entry". An entry with a ! only observes.
func TestNamedInterfaces(t *testing.T) {
	for _, test := range []struct{ name, entries, ignore, managed, warnings string }{
		{"only what is named", "eth1", "", "eth1=eth1", ""},
		{"no entries", "", "", "", ""},
		{"alternative name", "replication", "", "eth1=replication", ""},
		{"glob", "eth*", "", "eth0=eth* eth1=eth*", ""},
		{"glob of alternative names", "enp?s0", "", "eth0=enp?s0", ""},
		{"a name wins over an alternative name and a glob before it", "eth*! enp1s0! eth0", "", "eth0=eth0 eth1=eth*", ""},
		{"an alternative name wins over a glob before it", "eth*! enp1s0", "", "eth0=enp1s0 eth1=eth*", ""},
		{"the first of two globs wins, which the name or another name matches", "repl* eth*!", "", "eth0=eth* eth1=repl*", ""},
		{"several entries that say the same", "eth1 replication repl* enp* eth*", "", "eth0=enp* eth1=eth1", ""},
		{"a name overrules what discovery leaves out", "dummy0 docker0 bare0", "", "bare0=bare0 docker0=docker0 dummy0=dummy0", ""},
		{"ignore_interfaces takes single ones out of a glob", "*", "docker* eth1 b*", "dummy0=* eth0=*", ""},
		{"ignore_interfaces takes an alternative name out of a glob", "eth*", "repl*", "eth0=eth*", ""},
		{"ignore_interfaces does not swallow a glob", "docker[0-9]", "", "docker0=docker[0-9]", ""},
		{"ignored by an alternative name, but named", "eth1", "replication", "eth1=eth1", ""},
		{"nothing there yet", "eth7 ens* eth0", "", "eth0=eth0", "interface eth7 is not there yet: it is managed once it appears; eth1 is there\n" +
			`no interface matches "ens*" yet: what appears is managed then`},
		{"what cannot be managed", "port0 backup lo blue po*", "", "", "interface port0 is not managed: a port of bond0, which counts in its place\n" +
			"interface backup is not managed: a port of bond0, which counts in its place\n" +
			"interface lo is not managed: loopback\n" +
			"interface blue is not managed: a VRF: its ports count\n" +
			`no interface matches "po*" yet: what appears is managed then`},
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

			cfg := config.Default()
			cfg.Interfaces = []config.Interface{}
			for _, name := range strings.Fields(test.entries) {
				entry := config.Interface{Name: strings.TrimSuffix(name, "!")}
				if entry.Name != name {
					entry.Mode = config.ModeObserve
				}
				cfg.Interfaces = append(cfg.Interfaces, entry)
			}
			if test.ignore != "" {
				cfg.IgnoreInterfaces = strings.Fields(test.ignore)
			}
			r := l.evaluate(cfg)
			var managed []string
			for _, i := range r.Interfaces {
				managed = append(managed, i.Name+"="+i.Settings.Name)
				if !i.Named {
					t.Errorf("%s is not said to be named", i.Name)
				}
			}
			slices.Sort(managed)
			await.Same(t, "managed", test.managed, strings.Join(managed, " "))
			await.Same(t, "warnings", test.warnings, strings.Join(r.Warnings, "\n"))
			await.Same(t, "managed and unmanaged", len(l.links), len(r.Interfaces)+len(r.Unmanaged))
		})
	}
}

// TestLastHopWithoutEthernetHeader: who asks for the MAC addresses of frames that have none is warned, by whatever entry.
func TestLastHopWithoutEthernetHeader(t *testing.T) {
	for entries, warned := range map[string]string{ // entries are name=next_hop
		"wg0": "", "wg0=gateway": "", "eth0=last-hop": "", "*=last-hop wg0 tun0=gateway": "",
		"eth0=last-hop wg0=last-hop": "wg0", "office=last-hop": "wg0", "*=last-hop": "wg0 tun0", "*0=last-hop eth0": "wg0 tun0",
	} {
		cfg := config.Default()
		for entry := range strings.FieldsSeq(entries) {
			name, hop, _ := strings.Cut(entry, "=")
			cfg.Interfaces = append(cfg.Interfaces, config.Interface{Name: name, NextHop: config.NextHop(hop)})
		}
		var want []string
		for name := range strings.FieldsSeq(warned) {
			want = append(want, "interface "+name+" has no ethernet header: next_hop last-hop is served as auto there")
		}
		var l lan
		l.device("eth0")
		l.add(&netlink.Wireguard{}, netlink.LinkAttrs{Name: "wg0", AltNames: []string{"office"}, EncapType: "none"})
		l.add(&netlink.Tuntap{}, netlink.LinkAttrs{Name: "tun0", EncapType: "none"})
		l.links[0].Attrs().HardwareAddr = []byte{2, 0, 0, 0, 0, 1}
		await.Same(t, entries, want, l.evaluate(cfg).Warnings)
	}
}
