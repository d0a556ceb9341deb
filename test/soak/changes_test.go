// SPDX-License-Identifier: Apache-2.0

package soak

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/vishvananda/netlink"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/topology"
	"replypath/test/traffic"
)

// wildcardPort is where the server is asked at addresses that come and go.
const wildcardPort = 8

// knownWithin is how long the daemon may take to know a new address or interface, or
// another MAC of a gateway: until then, what is asked is answered as before.
const knownWithin = time.Second

// second are addresses beside those of the network: of eth1, and of the routers as another gateway.
var (
	secondOwn = prefixes("10.2.0.50/24", "2001:db8:2::50/64")
	second    = map[string][]netip.Prefix{
		"production": prefixes("10.1.0.2/24", "2001:db8:1::2/64"), "replication": prefixes("10.2.0.2/24", "2001:db8:2::2/64"),
	}
	first = map[string][]netip.Prefix{
		"production": prefixes("10.1.0.1/24", "2001:db8:1::1/64"), "replication": prefixes("10.2.0.1/24", "2001:db8:2::1/64"),
	}
	// The networks of an interface that comes and goes.
	lateOwn, lateRouter = prefixes("10.5.0.2/24", "2001:db8:5::2/64"), prefixes("10.5.0.1/24", "2001:db8:5::1/64")
)

func prefixes(v4, v6 string) []netip.Prefix {
	return []netip.Prefix{netip.MustParsePrefix(v4), netip.MustParsePrefix(v6)}
}

// changes are what can happen, by name.
var changes = []struct {
	name  string
	apply func(*soak)
}{
	{"reload", (*soak).reload},
	{"address", (*soak).changeAddress},
	{"interface", (*soak).changeInterface},
	{"gateway mac", (*soak).changeGatewayMAC},
	{"default gateway", (*soak).changeDefault},
	{"route", (*soak).changeRoute},
	{"reading commands", (*soak).read},
	{"second default route", (*soak).changeSecondDefault},
	{"default route gone and back", (*soak).loseDefault},
	{"carrier of eth0 lost and back", (*soak).loseCarrier},
}

// change makes one of the changes, each of them before any comes again, and asks at the addresses that come and go.
func (s *soak) change() {
	s.t.Helper()
	if len(s.order) == 0 {
		s.order = s.rng.Perm(len(changes))
	}
	c := changes[s.order[0]]
	s.order = s.order[1:]
	c.apply(s)
	s.report.events[c.name]++
	s.visitPresent("after event " + c.name)
}

// visitPresent asks at the addresses that come and go, with a new connection each.
func (s *soak) visitPresent(when string) {
	s.t.Helper()
	for _, address := range s.present {
		visitor := &traffic.Asker{Kind: traffic.TCP, From: s.n.Client, To: netip.AddrPortFrom(address, wildcardPort), Fresh: true, Bulk: bulk}
		if err := s.load.Visit(visitor); err != nil {
			s.report.fail(fmt.Sprintf("%s, %s: %v", visitor, when, err))
		}
	}
}

// prepareChanges sets up what changes refer to.
func (s *soak) prepareChanges() {
	s.t.Helper()
	traffic.ServeAt(s.t, s.n.Server.Host, netip.AddrPortFrom(netip.IPv6Unspecified(), wildcardPort))
	for _, router := range []*topology.Interface{s.n.Server.Eth0.Peer(), s.n.Server.Eth1.Peer()} {
		for _, address := range second[router.Host.Name] {
			await.Must(s.t, router.AddAddress(address))
		}
		// A gateway with another MAC says so, as routers do.
		for _, key := range []string{"net/ipv4/conf/%s/arp_notify", "net/ipv6/conf/%s/ndisc_notify"} {
			await.Must(s.t, router.Host.SetSysctl(fmt.Sprintf(key, router.Name), "1"))
		}
	}
	// With `follow: pinned` a flow goes along to another MAC of its gateway only where a route
	// tells of that gateway, also while there is no default route. These lead to nobody who asks.
	for destination, via := range map[string]netip.Prefix{
		"10.201.0.0/16": first["replication"][0], "2001:db8:201::/48": first["replication"][1],
		"10.202.0.0/16": first["production"][0], "2001:db8:202::/48": first["production"][1],
		"10.203.0.0/16": second["production"][0], "2001:db8:203::/48": second["production"][1],
	} {
		await.Must(s.t, s.n.Server.AddRoute(topology.Route{Destination: netip.MustParsePrefix(destination), Via: via.Addr()}))
	}
	core := await.Must1[*topology.Interface](s.t)(s.n.Replication.Interface("core"))
	for _, own := range lateOwn {
		via := core.Address(topology.FamilyOf(own.Addr()))
		await.Must(s.t, s.n.Core.AddRoute(topology.Route{Destination: own.Masked(), Via: via}))
	}
}

// configurations are in force in turn. One of them is refused.
var configurations = []string{
	"",
	"follow: latest\n",
	"exclude: [192.0.2.0/24]\n",
	"mode: enforcing\n",
	"follow: pinned\n",
	"flow_table: {max_entries: 65536}\n",
	"interfaces: [{name: 'eth*'}]\nlog: {format: json}\n",
}

// reload puts the next configuration in force.
func (s *soak) reload() {
	s.t.Helper()
	s.configuration = (s.configuration + 1) % len(configurations)
	await.Must(s.t, os.WriteFile(s.config, []byte(configurations[s.configuration]), 0o644))
	s.d.Reload()
}

// changeAddress gives eth1 a second address of each family, or takes them away.
func (s *soak) changeAddress() {
	s.t.Helper()
	eth1 := s.n.Server.Eth1
	if s.hasSecond = !s.hasSecond; !s.hasSecond {
		for _, own := range secondOwn {
			s.present = slices.DeleteFunc(s.present, func(a netip.Addr) bool { return a == own.Addr() })
			await.Must(s.t, eth1.RemoveAddress(own))
		}
		return
	}
	for _, own := range secondOwn {
		s.judge.home[own.Addr()] = eth1.Name
		s.judge.excuse("a new address", knownWithin, own.Addr())
		await.Must(s.t, eth1.AddAddress(own))
		s.present = append(s.present, own.Addr())
	}
	await.Must(s.t, eth1.WaitReady(await.Within(s.t, await.AnswerTime)))
}

// changeInterface plugs an interface in, renames it, or deletes it.
func (s *soak) changeInterface() {
	s.t.Helper()
	if s.late == nil {
		s.plugIn()
		return
	}
	link := await.Must1[netlink.Link](s.t)(s.n.Server.Netlink().LinkByIndex(s.late.Index))
	if link.Attrs().Name == lateName {
		await.Must(s.t, s.n.Server.Netlink().LinkSetName(link, lateName+"x"))
		return
	}
	for _, own := range lateOwn {
		s.present = slices.DeleteFunc(s.present, func(a netip.Addr) bool { return a == own.Addr() })
		s.judge.excuse("no interface", 0, own.Addr())
	}
	s.judge.unwatch(s.t, lateName)
	await.Must(s.t, s.n.Server.Netlink().LinkDel(link))
	s.late = nil
}

const lateName = "eth7"

func (s *soak) plugIn() {
	s.t.Helper()
	s.judge.endExcuses("no interface")
	for _, own := range lateOwn {
		s.judge.home[own.Addr()] = lateName
		s.judge.excuse("a new interface", knownWithin, own.Addr())
		s.present = append(s.present, own.Addr())
	}
	var err error
	server, router := net.HardwareAddr{2, 0, 0, 1, 0, 1}, net.HardwareAddr{2, 0, 0, 1, 0, 2}
	s.late, _, err = s.n.Connect(
		topology.NIC{Host: s.n.Server.Host, Name: lateName, Addresses: lateOwn, MAC: server},
		topology.NIC{Host: s.n.Replication.Host, Name: "late", Addresses: lateRouter, MAC: router})
	await.Must(s.t, err)
	s.judge.watch(s.t, s.late)
	await.Must(s.t, s.late.WaitReady(await.Within(s.t, await.AnswerTime)))
}

// changeGatewayMAC replaces a router by another machine with the same addresses.
func (s *soak) changeGatewayMAC() {
	s.t.Helper()
	nic := []*topology.Interface{s.n.Server.Eth0, s.n.Server.Eth1}[s.rng.IntN(2)]
	s.macs++
	mac := net.HardwareAddr{2, 0, 0, 2, byte(s.macs >> 8), byte(s.macs)}
	await.Must(s.t, nic.Peer().SetMAC(mac))
	s.judge.routerChanged(nic.Name, mac)
}

// changeDefault has the default routes lead by eth0's other gateway.
func (s *soak) changeDefault() {
	s.t.Helper()
	s.otherDefault = !s.otherDefault
	s.setDefault()
}

// setDefault has the default routes lead by the present gateway of eth0.
func (s *soak) setDefault() {
	s.t.Helper()
	gateways := first["production"]
	if s.otherDefault {
		gateways = second["production"]
	}
	for _, via := range gateways {
		host.Shell(s.t, s.n.Server.Host, fmt.Sprintf("ip route replace default via %s dev eth0", via.Addr()))
	}
}

// changeRoute gives eth1 a second gateway, or takes it away.
func (s *soak) changeRoute() {
	s.t.Helper()
	do := s.n.Server.AddRoute
	if s.hasRoute {
		do = s.n.Server.RemoveRoute
	}
	for i, destination := range prefixes("10.200.0.0/16", "2001:db8:200::/48") {
		await.Must(s.t, do(topology.Route{Destination: destination, Via: second["replication"][i].Addr()}))
	}
	s.hasRoute = !s.hasRoute
}

// read runs the commands that only look.
func (s *soak) read() {
	s.t.Helper()
	status := s.p.Status()
	if len(status.Errors) > 0 {
		s.report.fail(fmt.Sprintf("errors in the status: %q", status.Errors))
	}
	if len(s.p.Flows("--limit", "100")) == 0 {
		s.report.fail("there are no flows")
	}
	peer, self := s.n.ClientEth0.Address(topology.IPv4), s.n.Server.Eth1.Address(topology.IPv4)
	// Of one flow: without a protocol it would be thousands.
	s.p.Explain("--peer", peer.String(), "--self", self.String(), "--protocol", "icmp")
}
