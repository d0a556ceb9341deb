// SPDX-License-Identifier: Apache-2.0

package checks

import (
	"fmt"
	"testing"

	"replypath/loader/config"
	"replypath/loader/doctor/snapshot"
	"replypath/loader/finding"
	"replypath/loader/status"
	"replypath/test/testhost"
)

func TestRPFilter(t *testing.T) {
	const (
		dropped = ": what arrives there is dropped if the route back leads by another interface"
		mend    = " => sysctl -w net.ipv4.conf."
		strict  = dropped + "; enforcing makes it loose" + mend

		observes = "; replypath only observes here and leaves it: it does not see what is dropped"
		drops    = "; 7 packets were dropped so in this network namespace since it began"
	)
	onEth1 := testhost.Set(map[string]int{"net.ipv4.conf.eth1.rp_filter": 1})
	testhost.Check(t, RPFilter, []testhost.Wants{
		{"device", testhost.Set(map[string]int{"net.ipv4.conf.eth1.rp_filter": 1}), []string{
			"ok eth0: rp_filter: all 0, device 0, effective 0",
			"warning eth1: rp_filter of eth1 is strict (all 0, device 1)" + strict + "eth1.rp_filter=2",
		}},
		{"left to the host", func(h *snapshot.Host) { onEth1(h); h.Config.ManageRPFilter = false }, []string{
			"ok eth0: rp_filter: all 0, device 0, effective 0",
			"warning eth1: rp_filter of eth1 is strict (all 0, device 1)" + dropped + mend + "eth1.rp_filter=2",
		}},
		{"packets were dropped", func(h *snapshot.Host) { onEth1(h); h.RPFilterDrops = new(uint64(7)) }, []string{
			"ok eth0: rp_filter: all 0, device 0, effective 0",
			"error eth1: rp_filter of eth1 is strict (all 0, device 1)" + dropped + drops + "; enforcing makes it loose" + mend + "eth1.rp_filter=2",
		}},
		{"left to the host, where the default route leads", func(h *snapshot.Host) {
			h.Settings["net.ipv4.conf.eth0.rp_filter"], h.Config.ManageRPFilter = 1, false
		}, []string{
			"warning eth0: rp_filter of eth0 is strict (all 0, device 1)" + dropped + mend + "eth0.rp_filter=2",
			"ok eth1: rp_filter: all 0, device 0, effective 0",
		}},
		{"observing", func(h *snapshot.Host) { onEth1(h); h.Attached = true }, []string{
			"ok eth0: rp_filter: all 0, device 0, effective 0",
			"note eth1: rp_filter of eth1 is strict (all 0, device 1)" + dropped + observes + mend + "eth1.rp_filter=2",
		}},
		{"observing, others' packets were dropped", func(h *snapshot.Host) { onEth1(h); h.Attached, h.RPFilterDrops = true, new(uint64(7)) }, []string{
			"ok eth0: rp_filter: all 0, device 0, effective 0",
			"note eth1: rp_filter of eth1 is strict (all 0, device 1)" + dropped + observes + drops + mend + "eth1.rp_filter=2",
		}},
		{"observing, and requests are dropped", func(h *snapshot.Host) {
			onEth1(h)
			h.Attached, h.RPFilterDrops = true, new(uint64(7))
			h.Status = &status.Status{Unanswered: []finding.Finding{finding.Seen(finding.Error, "eth1", "no reply", "ss")}}
		}, []string{
			"ok eth0: rp_filter: all 0, device 0, effective 0",
			"error eth1: rp_filter of eth1 is strict (all 0, device 1)" + dropped + observes + drops + mend + "eth1.rp_filter=2",
		}},
		{"all", testhost.Set(map[string]int{"net.ipv4.conf.all.rp_filter": 1, "net.ipv4.conf.eth1.rp_filter": 2}), []string{
			"warning eth0: rp_filter of eth0 is strict (all 1, device 0)" + strict + "eth0.rp_filter=2",
			"ok eth1: rp_filter: all 1, device 2, effective 2",
		}},
		{"loose by all", testhost.Set(map[string]int{"net.ipv4.conf.all.rp_filter": 2, "net.ipv4.conf.eth1.rp_filter": 1}), []string{
			"ok eth0: rp_filter: all 2, device 0, effective 2",
			"ok eth1: rp_filter: all 2, device 1, effective 2",
		}},
		{"an interface with a dot", func(h *snapshot.Host) {
			h.Interfaces = h.Interfaces[:1]
			h.Interfaces[0].Name = "eth0.7"
			h.Settings["net.ipv4.conf.eth0/7.rp_filter"] = 1
		}, []string{"warning eth0.7: rp_filter of eth0.7 is strict (all 0, device 1)" + strict + "eth0/7.rp_filter=2"}},
	})
}

// secondAddress gives eth1 one in eth0's network beside its own.
func secondAddress(h *snapshot.Host) {
	h.Devices[2].Addresses = append(h.Devices[2].Addresses, testhost.Prefix("10.3.0.101/32"))
}

// macvlan has one device stand on another.
func macvlan(upper, lower int) func(*snapshot.Host) {
	return func(h *snapshot.Host) { h.Managed(upper).Lower = lower }
}

func TestARPIgnore(t *testing.T) {
	const (
		apart    = ": wrong where these are reached by their own interface, right where they are not"
		balanced = ": wrong where a balancer has it (lvs direct routing), right where this host alone has it"
	)
	warns := func(device, stranger string, value int, why, todo string) string {
		return fmt.Sprintf("warning %s: %[1]s answers arp requests for %s: arp_ignore: all %d, device 0, effective %[3]d%s"+todo, device, stranger, value, why, device)
	}
	mended := func(device, stranger string) string {
		return warns(device, stranger, 0, "", " => sysctl -w net.ipv4.conf.%[5]s.arp_ignore=1")
	}
	shown := func(device, stranger string, value int, why string) string {
		return warns(device, stranger, value, why, " ?? sysctl net.ipv4.conf.all.arp_ignore net.ipv4.conf.%[5]s.arp_ignore")
	}
	testhost.Check(t, ARPIgnore, []testhost.Wants{
		{"separate networks", nil, nil},
		{"two in one network", testhost.SameSubnet, []string{mended("eth0", "10.3.0.101 of eth1"), mended("eth1", "10.3.0.100 of eth0")}},
		{"set by all", func(h *snapshot.Host) { testhost.SameSubnet(h); h.Settings["net.ipv4.conf.all.arp_ignore"] = 1 }, []string{
			"ok eth0: arp_ignore: all 1, device 0, effective 1", "ok eth1: arp_ignore: all 1, device 0, effective 1",
		}},
		{"scope host is not enough", func(h *snapshot.Host) { testhost.SameSubnet(h); h.Settings["net.ipv4.conf.all.arp_ignore"] = 3 }, []string{shown("eth0", "10.3.0.101 of eth1", 3, ""), shown("eth1", "10.3.0.100 of eth0", 3, "")}},
		{"a second network's address, by its own wire or not", secondAddress, []string{shown("eth0", "10.3.0.101 of eth1", 0, apart)}},
		{"a second network's address, by its own wire", func(h *snapshot.Host) {
			secondAddress(h)
			h.Neighbours = []snapshot.Neighbour{{Interface: testhost.Eth1, Address: testhost.Address("10.3.0.7"), MAC: testhost.MAC("02:00:00:00:07:01")}}
		}, []string{mended("eth0", "10.3.0.101 of eth1")}},
		{"two in one network, one without a carrier", func(h *snapshot.Host) { testhost.SameSubnet(h); h.Interfaces[1].Up = false }, []string{shown("eth0", "10.3.0.101 of eth1", 0, apart), mended("eth1", "10.3.0.100 of eth0")}},
		{"a macvlan above it", macvlan(testhost.Eth1, testhost.Eth0), []string{mended("eth0", "10.4.0.100 of eth1")}},
		{"a macvlan above what has no address", func(h *snapshot.Host) {
			macvlan(testhost.Eth1, testhost.Eth0)(h)
			h.Interfaces = h.Interfaces[1:]
			h.Devices[1].Addresses = nil
		}, []string{shown("eth0", "10.4.0.100 of eth1", 0, "")}},
		{"an ipvlan above it", func(h *snapshot.Host) {
			macvlan(testhost.Eth1, testhost.Eth0)(h)
			h.Devices[1].MAC = h.Interfaces[1].MAC
		}, nil},
		{"without arp", func(h *snapshot.Host) {
			testhost.SameSubnet(h)
			h.Interfaces[0].NoARP, h.Interfaces[1].NoARP = true, true
		}, nil},
		{"virtual, in the network", func(h *snapshot.Host) {
			testhost.AddVirtual(h, "10.3.0.5")
			h.Settings["net.ipv4.conf.eth1.arp_ignore"] = 2
		}, []string{shown("eth0", "10.3.0.5 of lo", 0, balanced), "ok eth1: arp_ignore: all 0, device 2, effective 2"}},
		{"virtual, from elsewhere", func(h *snapshot.Host) {
			testhost.AddVirtual(h, "192.0.2.5")
			h.Settings["net.ipv4.conf.eth1.arp_ignore"] = 8
		}, []string{shown("eth0", "192.0.2.5 of lo", 0, balanced), "ok eth1: arp_ignore: all 0, device 8, effective 8"}},
	})
}

func TestLoopbackAddresses(t *testing.T) {
	testhost.Check(t, LoopbackAddresses, []testhost.Wants{
		{"none", nil, nil},
		{"kernel", func(h *snapshot.Host) { testhost.AddVirtual(h, "192.0.2.5") }, []string{
			"ok: 192.0.2.5 is on lo or a dummy device only: its replies follow the routing table, as lvs direct routing needs" +
				" (loopback_addresses: kernel; symmetric sends them by the interface of the request)",
		}},
		{"symmetric", func(h *snapshot.Host) {
			testhost.AddVirtual(h, "192.0.2.5")
			h.Config.LoopbackAddresses = config.LoopbackSymmetric
		}, []string{
			"ok: 192.0.2.5 is on lo or a dummy device only: its replies go by the interface of the request" +
				" (loopback_addresses: symmetric; lvs direct routing needs kernel)",
		}},
	})
}
