// SPDX-License-Identifier: Apache-2.0

package testhost

import (
	"fmt"
	"net"
	"time"

	"golang.org/x/sys/unix"

	"replypath/loader/config"
	"replypath/loader/discover"
	"replypath/loader/doctor/snapshot"
	"replypath/loader/flows"
	"replypath/loader/netfilter"
	"replypath/loader/pins"
)

// Set sets a sysctl of the fixture.
func Set(keysAndValues map[string]int) func(*snapshot.Host) {
	return func(h *snapshot.Host) {
		for key, value := range keysAndValues {
			h.Settings[key] = value
		}
	}
}

// SameSubnet gives eth1 an address in eth0's network (S5).
func SameSubnet(h *snapshot.Host) {
	h.Devices[2].Addresses = Prefixes("10.3.0.101/24")
	h.Interfaces[1].Addresses = h.Devices[2].Addresses
	h.Own[2] = discover.OwnAddress{Address: Address("10.3.0.101")}
	h.OnLink[2].Prefix = Prefix("10.3.0.0/24")
}

// StrongEth1 has the source of what this host opens from eth1's addresses decide.
func StrongEth1(h *snapshot.Host) { h.Interfaces[1].Settings.HostModel = config.HostModelStrong }

// And makes several changes.
func And(changes ...func(*snapshot.Host)) func(*snapshot.Host) {
	return func(h *snapshot.Host) {
		for _, change := range changes {
			change(h)
		}
	}
}

// Enforces has replypath correct replies on both interfaces.
func Enforces(h *snapshot.Host) {
	h.Attached, h.Enforcing = true, map[int]bool{Eth0: true, Eth1: true}
	for _, device := range []int{Eth0, Eth1} {
		h.Hooks = append(h.Hooks, Hook(device, false, true, "replypath_in", true), Hook(device, true, true, "replypath_out", true))
	}
}

// Rule adds a rule to the fixture, and a table whose default route leaves by eth1.
func Rule(r snapshot.Rule) func(*snapshot.Host) {
	return func(h *snapshot.Host) {
		if r.Family == 0 {
			r.Family = unix.AF_INET
		}
		h.Rules = append(h.Rules, r)
		h.Routes = append(h.Routes, InTable(Via("10.4.0.1", Eth1), 100), InTable(Via("2001:db8:4::1", Eth1), 100))
	}
}

// Route adds a route to the fixture.
func Route(r snapshot.Route) func(*snapshot.Host) {
	return func(h *snapshot.Host) { h.Routes = append(h.Routes, r) }
}

// Refusing is a route of the main table that refuses.
func Refusing(kind int, dst string) snapshot.Route {
	p := Prefix(dst)
	return snapshot.Route{Family: snapshot.FamilyOf(p), Type: kind, Table: unix.RT_TABLE_MAIN, Dst: p, Protocol: unix.RTPROT_BOOT}
}

// Hook is a program or a filter in a TC hook.
func Hook(device int, egress, tcx bool, name string, ours bool) snapshot.Hook {
	return snapshot.Hook{Interface: device, Egress: egress, TCX: tcx, Name: name, Ours: ours}
}

// Naming has the file name an interface beside eth0, flagged the command line.
func Naming(name string) func(*snapshot.Host) {
	return func(h *snapshot.Host) { h.Config.Interfaces = []config.Interface{{Name: "eth0"}, {Name: name}} }
}

// Flagged has a flag of the daemon name an interface.
func Flagged(name string) func(*snapshot.Host) {
	return func(h *snapshot.Host) {
		Naming(name)(h)
		h.Config.Flags.Interfaces = []string{"eth0", name}
	}
}

// Chains gives the fixture a firewall.
func Chains(list ...netfilter.Chain) func(*snapshot.Host) {
	return func(h *snapshot.Host) { h.Firewall.Chains = list }
}

// DropsBy adds a chain that drops what the host sends by an interface.
func DropsBy(name string) func(*snapshot.Host) {
	return func(h *snapshot.Host) {
		h.Firewall.Chains = append(h.Firewall.Chains, netfilter.Chain{
			Family: "inet", Table: "t", Name: "c", Type: "filter", Hooks: []string{"output"},
			Rules: []netfilter.Rule{{Handle: 4, OutNames: []string{name}, Refuses: true}},
		})
	}
}

// MAC parses an address of a network card.
func MAC(text string) net.HardwareAddr {
	m, err := net.ParseMAC(text)
	if err != nil {
		panic(err)
	}
	return m
}

// ThroughBalancer is S2: a flow of an on-link client that has the balancer's MAC.
func ThroughBalancer(h *snapshot.Host) {
	h.Flows = []flows.Flow{
		{Protocol: "tcp", Peer: "10.4.0.55", Interface: new("eth1"), NextHopMAC: new(BalancerMAC)},
		{Protocol: "udp", Peer: "10.4.0.55", Interface: new("eth1"), NextHopMAC: new(BalancerMAC)},
	}
	h.Neighbours = []snapshot.Neighbour{
		{Interface: Eth1, Address: Address("10.4.0.1"), MAC: MAC(BalancerMAC)},
		{Interface: Eth1, Address: Address("10.4.0.55"), MAC: MAC(ClientMAC)},
	}
}

// Wrong adds replies that go the wrong way.
func Wrong(w snapshot.WrongWay) func(*snapshot.Host) {
	return func(h *snapshot.Host) { h.WrongWays = append(h.WrongWays, w) }
}

// Placed has nothing be pinned, for a reason.
func Placed(err error) func(*snapshot.Host) { return func(h *snapshot.Host) { h.Start.Place = err } }

// ErrNoBPFFS is what a pin directory without a bpf file system gives.
var ErrNoBPFFS = fmt.Errorf("/sys/fs/bpf is %w: mount -t bpf bpf /sys/fs/bpf", pins.ErrNoBPFFS)

// Featured has the kernel have a feature, or lack it.
func Featured(name string, available bool) func(*snapshot.Host) {
	return func(h *snapshot.Host) {
		h.Start.Features = []pins.FeatureRecord{{Name: name, Available: available, Effect: "it takes longer"}}
	}
}

// InForce is a datapath by some configuration, with a daemon.
func InForce(change func(*snapshot.InForce)) func(*snapshot.Host) {
	return func(h *snapshot.Host) {
		h.Attached, h.Daemon = true, &snapshot.Daemon{PID: 7}
		h.InForce = &snapshot.InForce{
			Path: "/etc/replypath/replypath.yaml", LoadedAt: time.Date(2026, time.March, 1, 12, 30, 0, 0, time.UTC), Running: true, Config: h.Config,
		}
		change(h.InForce)
		if !h.InForce.Running {
			h.Daemon = nil
		}
	}
}

// Flags has a datapath be started with flags.
func Flags(f *snapshot.InForce) {
	f.Config.Flags = config.Overrides{Interfaces: []string{"eth1"}, Observe: true}
}

// InTable puts a route in another table.
func InTable(r snapshot.Route, table int) snapshot.Route {
	r.Table = table
	return r
}

// The MACs of a load balancer and of a client of the same network.
const (
	BalancerMAC = "02:00:00:00:07:01"
	ClientMAC   = "02:00:00:00:07:55"
)
