// SPDX-License-Identifier: Apache-2.0

package hostsettings

import (
	"errors"
	"io/fs"
	"strconv"
	"testing"

	"github.com/vishvananda/netlink"

	"replypath/test/await"
	"replypath/test/topology"
	"replypath/test/traffic"
)

// host returns a host whose interfaces are lo and the named bridges.
func host(t *testing.T, names ...string) *topology.Host {
	t.Helper()
	h := traffic.NewHost(t)
	for _, name := range names {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = name
		if err := h.Netlink().LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
			t.Fatalf("add %s: %v", name, err)
		}
	}
	return h
}

// inside runs fn in the host's network namespace.
func inside(t *testing.T, h *topology.Host, fn func() error) {
	t.Helper()
	await.Must(t, h.Do(fn))
}

// set sets rp_filter of an interface, or of "all".
func set(t *testing.T, h *topology.Host, name string, value int) {
	t.Helper()
	await.Must(t, h.SetSysctl("net/ipv4/conf/"+name+"/rp_filter", strconv.Itoa(value)))
}

// get returns what the kernel holds.
func get(t *testing.T, h *topology.Host, name string) string {
	t.Helper()
	value, err := h.Sysctl("net/ipv4/conf/" + name + "/rp_filter")
	await.Must(t, err)
	return value
}

func loosen(t *testing.T, h *topology.Host, name string) *Change {
	t.Helper()
	var change *Change
	inside(t, h, func() (err error) {
		change, err = PlanRPFilter(name)
		if change == nil || err != nil {
			return err
		}
		return change.Make()
	})
	return change
}

func restore(t *testing.T, h *topology.Host, c Change) bool {
	t.Helper()
	var restored bool
	inside(t, h, func() (err error) {
		restored, err = Restore(c)
		return err
	})
	return restored
}

func indexIn(t *testing.T, h *topology.Host, name string) int {
	t.Helper()
	link := await.Must1[netlink.Link](t)(h.Netlink().LinkByName(name))
	return link.Attrs().Index
}

func TestPlanRPFilter(t *testing.T) {
	for _, test := range []struct {
		all, device, effective int
		after                  string
		changed                bool
	}{
		{all: 0, device: 0, effective: 0, after: "0"},
		{all: 0, device: 1, effective: 1, after: "2", changed: true},
		{all: 0, device: 2, effective: 2, after: "2"},
		{all: 1, device: 0, effective: 1, after: "2", changed: true},
		{all: 1, device: 1, effective: 1, after: "2", changed: true},
		{all: 1, device: 2, effective: 2, after: "2"},
		{all: 2, device: 0, effective: 2, after: "0"},
		{all: 2, device: 1, effective: 2, after: "1"},
		{all: 2, device: 2, effective: 2, after: "2"},
	} {
		t.Run(strconv.Itoa(test.all)+strconv.Itoa(test.device), func(t *testing.T) {
			h := host(t, "eth1")
			set(t, h, "all", test.all)
			set(t, h, "eth1", test.device)
			inside(t, h, func() error {
				device, all, effective, err := RPFilter("eth1")
				if device != test.device || all != test.all || effective != test.effective {
					t.Errorf("RPFilter: device %d, all %d, effective %d, want effective %d", device, all, effective, test.effective)
				}
				return err
			})

			var want *Change
			if test.changed {
				want = &Change{
					Interface: indexIn(t, h, "eth1"),
					Key:       "net.ipv4.conf.eth1.rp_filter",
					Before:    strconv.Itoa(test.device),
					After:     "2",
				}
			}
			change := loosen(t, h, "eth1")
			await.Same(t, "change", want, change)
			await.Same(t, "rp_filter", test.after, get(t, h, "eth1"))
			await.Same(t, `rp_filter of "all"`, strconv.Itoa(test.all), get(t, h, "all"))

			await.Same(t, "the second change", nil, loosen(t, h, "eth1"))
			if change == nil {
				return
			}
			if !restore(t, h, *change) {
				t.Error("not restored")
			}
			await.Same(t, "rp_filter, restored", strconv.Itoa(test.device), get(t, h, "eth1"))
		})
	}
}

func TestPlan(t *testing.T) {
	h := host(t, "eth1")
	inside(t, h, func() error {
		key := Key("ipv4", "eth1", "arp_ignore")
		if change, err := Plan(key, "0"); change != nil || err != nil {
			t.Errorf("it is 0 already: %v, %v", change, err)
		}
		change, err := Plan(key, "1")
		if err != nil {
			return err
		}
		want := &Change{Interface: indexIn(t, h, "eth1"), Key: key, Before: "0", After: "1"}
		await.Same(t, "values", want, change)
		if value, err := Read(key); value != "0" || err != nil {
			t.Errorf("planning it has made it %s, %v", value, err)
		}
		if err := change.Make(); err != nil {
			return err
		}
		if value, err := ReadNumber(key); value != 1 || err != nil {
			t.Errorf("it is %d, %v", value, err)
		}
		all, err := Plan(Key("ipv4", "all", "arp_ignore"), "2")
		if err != nil || all.Interface != 0 {
			t.Errorf("of all: %v, %v", all, err)
		}
		if change, err := Plan(Key("ipv4", "eth7", "arp_ignore"), "1"); change != nil || !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("of no interface: %v, %v", change, err)
		}
		return nil
	})
}

// TestForwardsNothing: each setting by which the kernel forwards what comes in by an interface, and those that are others'.
func TestForwardsNothing(t *testing.T) {
	for setting, want := range map[string][2]bool{
		"":                                     {true, true},
		"net/ipv4/conf/eth1/forwarding":        {false, true},
		"net/ipv4/ip_forward":                  {false, true},
		"net/ipv6/conf/eth1/forwarding":        {true, false},
		"net/ipv6/conf/all/forwarding":         {true, false},
		"net/ipv4/conf/eth0/forwarding":        {true, true},
		"net/ipv6/conf/eth0/forwarding":        {true, true},
		"net/ipv6/conf/lo/accept_source_route": {true, true},
	} {
		h := host(t, "eth0", "eth1")
		if setting != "" {
			await.Must(t, h.SetSysctl(setting, "1"))
		}
		inside(t, h, func() error {
			ipv4, ipv6 := ForwardsNothing("eth1")
			await.Same(t, "with "+setting, want, [2]bool{ipv4, ipv6})
			return nil
		})
	}
	inside(t, host(t), func() error {
		if ipv4, ipv6 := ForwardsNothing("eth7"); ipv4 || ipv6 {
			t.Error("an interface that is gone is said to forward nothing")
		}
		return nil
	})
}
