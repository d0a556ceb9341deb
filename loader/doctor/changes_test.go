package doctor

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"replypath/loader/config"
	"replypath/loader/discover"
	"replypath/loader/flows"
	"replypath/loader/nexthop"
	"replypath/loader/pins"
)

// set sets a sysctl of the fixture.
func set(keysAndValues map[string]int) func(*Host) {
	return func(h *Host) {
		for key, value := range keysAndValues {
			h.Settings[key] = value
		}
	}
}

// sameSubnet gives eth1 an address in eth0's network (S5).
func sameSubnet(h *Host) {
	h.Devices[2].Addresses = prefixes("10.3.0.101/24")
	h.Interfaces[1].Addresses = h.Devices[2].Addresses
	h.Own[2] = discover.OwnAddress{Address: address("10.3.0.101")}
	h.OnLink[2].Prefix = prefix("10.3.0.0/24")
}

// lastHopOnEth1 is what a configuration for S2 says.
func lastHopOnEth1(h *Host) { h.Interfaces[1].Settings.NextHop = config.NextHopLastHop }

// and makes several changes.
func and(changes ...func(*Host)) func(*Host) {
	return func(h *Host) {
		for _, change := range changes {
			change(h)
		}
	}
}

// enforces has replypath correct replies on both interfaces.
func enforces(h *Host) {
	h.Attached, h.Enforcing = true, map[int]bool{eth0: true, eth1: true}
	for _, device := range []int{eth0, eth1} {
		h.Hooks = append(h.Hooks, hook(device, false, true, "replypath_in", true), hook(device, true, true, "replypath_out", true))
	}
}

// rule adds a rule to the fixture, and a table whose default route leaves by eth1.
func rule(r Rule) func(*Host) {
	return func(h *Host) {
		if r.Family == 0 {
			r.Family = unix.AF_INET
		}
		h.Rules = append(h.Rules, r)
		h.Routes = append(h.Routes, inTable(via("10.4.0.1", eth1), 100), inTable(via("2001:db8:4::1", eth1), 100))
	}
}

// route adds a route to the fixture.
func route(r Route) func(*Host) { return func(h *Host) { h.Routes = append(h.Routes, r) } }

// refusing is a route of the main table that refuses.
func refusing(kind int, dst string) Route {
	p := prefix(dst)
	return Route{Family: familyOf(p), Type: kind, Table: unix.RT_TABLE_MAIN, Dst: p, Protocol: unix.RTPROT_BOOT}
}

func hook(device int, egress, tcx bool, name string, ours bool) Hook {
	return Hook{Interface: device, Egress: egress, TCX: tcx, Name: name, Ours: ours}
}

// naming has the file name an interface beside eth0, flagged the command line.
func naming(name string) func(*Host) {
	return func(h *Host) { h.Config.Interfaces = []config.Interface{{Name: "eth0"}, {Name: name}} }
}

func flagged(name string) func(*Host) {
	return func(h *Host) {
		naming(name)(h)
		h.Config.Flags.Interfaces = []string{"eth0", name}
	}
}

// chains gives the fixture a firewall.
func chains(list ...Chain) func(*Host) { return func(h *Host) { h.Firewall.Chains = list } }

func mac(text string) net.HardwareAddr {
	m, err := net.ParseMAC(text)
	if err != nil {
		panic(err)
	}
	return m
}

// throughBalancer is S2: a flow of an on-link client that has the balancer's MAC.
func throughBalancer(h *Host) {
	h.Flows = []flows.Flow{
		{Protocol: "tcp", Peer: "10.4.0.55", Interface: new("eth1"), NextHopMAC: new(balancerMAC)},
		{Protocol: "udp", Peer: "10.4.0.55", Interface: new("eth1"), NextHopMAC: new(balancerMAC)},
	}
	h.Neighbours = []Neighbour{
		{Interface: eth1, Address: address("10.4.0.1"), MAC: mac(balancerMAC)},
		{Interface: eth1, Address: address("10.4.0.55"), MAC: mac(clientMAC)},
	}
}

// throughUnnamed has peers come by eth1 through a router that no route names, while another leads to 10.50.0.0/16.
func throughUnnamed(h *Host) {
	h.Gateways[1] = nexthop.Gateway{Interface: eth1, Address: address("10.4.0.254"), State: nexthop.StateReachable, IPv4: true,
		Reach4: nexthop.Reach{Networks: []netip.Prefix{netip.MustParsePrefix("10.50.0.0/16")}}}
	h.Neighbours = []Neighbour{{Interface: eth1, Address: address("10.4.0.1"), MAC: mac("02:00:00:00:07:01")}}
	for _, peer := range []string{"10.60.0.1", "10.60.0.1", "10.4.0.55", "10.50.0.1", "10.60.0.2"} {
		h.Flows = append(h.Flows, flows.Flow{Protocol: "tcp", Peer: peer, Interface: new("eth1"), NextHopMAC: new("02:00:00:00:07:01")})
	}
}

func wrong(w WrongWay) func(*Host) {
	return func(h *Host) { h.WrongWays = append(h.WrongWays, w) }
}

// waysToWarnOf are wrong ways of every reason.
func waysToWarnOf() (hosts []func(*Host)) {
	for _, reason := range []string{reasonObserve, reasonLinkDown, "no_next_hop", "mtu", "bound_device", reasonLost, "no_header_room", "of later"} {
		hosts = append(hosts, wrong(WrongWay{From: "eth0", To: "eth1", Reason: reason, Flows: 1}))
	}
	return hosts
}

func placed(err error) func(*Host) { return func(h *Host) { h.Start.Place = err } }

var errNoBPFFS = fmt.Errorf("/sys/fs/bpf is %w: mount -t bpf bpf /sys/fs/bpf", pins.ErrNoBPFFS)

// placesToWarnOf are pin directories in which nothing can be pinned.
var placesToWarnOf = []func(*Host){
	placed(errNoBPFFS), func(h *Host) { h.PinDir = "/tmp/pins"; placed(errNoBPFFS)(h) },
	placed(pins.ErrForeignContents), placed(unix.EROFS), placed(unix.EACCES), placed(unix.ENOTDIR),
}

func featured(name string, available bool) func(*Host) {
	return func(h *Host) {
		h.Start.Features = []pins.FeatureRecord{{Name: name, Available: available, Effect: "it takes longer"}}
	}
}

var kernelsToWarnOf = []func(*Host){
	func(h *Host) { h.Start.Programs = errors.New("bpf(2) is refused") },
	featured("tcx", false), featured("fallback_route", false), featured("of later", false),
}

// inForce is a datapath by some configuration, with a daemon.
func inForce(change func(*InForce)) func(*Host) {
	return func(h *Host) {
		h.Attached, h.Daemon = true, &Daemon{PID: 7}
		h.InForce = &InForce{
			Path: "/etc/replypath/replypath.yaml", LoadedAt: time.Date(2026, time.March, 1, 12, 30, 0, 0, time.UTC), Running: true, Config: h.Config,
		}
		change(h.InForce)
		if !h.InForce.Running {
			h.Daemon = nil
		}
	}
}

func flags(f *InForce) {
	f.Config.Flags = config.Overrides{Interfaces: []string{"eth1"}, Observe: true}
}

var configurationsToWarnOf = []func(*Host){
	inForce(func(f *InForce) { f.Running = false }), inForce(func(f *InForce) { f.Refused = "x" }),
	inForce(func(f *InForce) { f.File = "changed" }), inForce(func(f *InForce) { f.File, f.Running = "changed", false }),
	inForce(func(f *InForce) { f.File, f.Wrong = "gone", true }),
}

// inTable puts a route in another table.
func inTable(r Route, table int) Route {
	r.Table = table
	return r
}

const (
	balancerMAC = "02:00:00:00:07:01"
	clientMAC   = "02:00:00:00:07:55"
)
