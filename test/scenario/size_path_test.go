// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket/layers"

	"replypath/test/harness"
	"replypath/test/topology"
)

// steps is a network in which the way back to the client gets narrower twice, and
// the way there as well:
//
//	        ┌─ eth0 ─ production ───────────────────────┐
//	server ─┤                                          core ─ client
//	        └─ eth1 ─ r1 ─1400─ r2 ─1300─ r3 ─1400──────┘
//
// All other cables take 1500 bytes. The server's default route is by eth0, where
// the router checks sources.
type steps struct {
	*topology.Network
	server *topology.Server
	client *topology.Interface
}

// place is the address of a host in a network of steps, in both families.
func place(network, host int) []netip.Prefix {
	return []netip.Prefix{
		netip.MustParsePrefix(fmt.Sprintf("10.%d.0.%d/24", network, host)),
		netip.MustParsePrefix(fmt.Sprintf("2001:db8:%d::%d/64", network, host)),
	}
}

// The networks of steps; the cables between routers are numbered by their upper
// end.
const (
	stepsProduction = iota + 1
	stepsReplication
	stepsR1
	stepsR2
	stepsR3
	stepsCore
	stepsClient
)

func newSteps(t *testing.T) *steps {
	t.Helper()
	s := &steps{Network: harness.NewNetwork(t)}
	host := harness.Must1[*topology.Host](t)
	router := harness.Must1[*topology.Router](t)
	s.server = &topology.Server{Host: host(s.Host("server"))}
	client := host(s.Host("client"))
	production := router(s.Router("production", topology.StrictSource))
	var free []*topology.Router // routers that forward everything
	for _, name := range []string{"r1", "r2", "r3", "core"} {
		free = append(free, router(s.Router(name, topology.AnySource)))
	}
	r1, r2, r3, core := free[0].Host, free[1].Host, free[2].Host, free[3].Host

	// The first host of each cable is number 2, the second number 1.
	cable := func(network, mtu int, from *topology.Host, fromName string, to *topology.Host, toName string) *topology.Interface {
		offloads := topology.Offloads{NoSegmentation: true}
		nic, _, err := s.Connect(
			topology.NIC{Host: from, Name: fromName, MTU: mtu, Addresses: place(network, 2), Offloads: offloads},
			topology.NIC{Host: to, Name: toName, MTU: mtu, Addresses: place(network, 1), Offloads: offloads})
		harness.Must(t, err)
		return nic
	}
	s.server.Eth0 = cable(stepsProduction, 1500, s.server.Host, "eth0", production.Host, "server")
	s.server.Eth1 = cable(stepsReplication, 1500, s.server.Host, "eth1", r1, "server")
	cable(stepsR1, 1400, r1, "up", r2, "down")
	cable(stepsR2, 1300, r2, "up", r3, "down")
	cable(stepsR3, 1400, r3, "up", core, "r3")
	cable(stepsCore, 1500, production.Host, "up", core, "production")
	s.client = cable(stepsClient, 1500, client, "eth0", core, "client")

	for up, h := range map[int]*topology.Host{
		stepsProduction: s.server.Host, stepsR1: r1, stepsR2: r2, stepsR3: r3,
		stepsCore: production.Host, stepsClient: client,
	} {
		for _, gateway := range place(up, 1) {
			harness.Must(t, h.AddRoute(topology.Route{Via: gateway.Addr()}))
		}
	}
	down := func(h *topology.Host, via int, networks ...int) {
		for _, network := range networks {
			for i, destination := range place(network, 0) {
				harness.Must(t, h.AddRoute(topology.Route{Destination: destination.Masked(), Via: place(via, 2)[i].Addr()}))
			}
		}
	}
	down(core, stepsCore, stepsProduction)
	down(core, stepsR3, stepsReplication, stepsR1, stepsR2)
	down(r3, stepsR2, stepsReplication, stepsR1)
	down(r2, stepsR1, stepsReplication)

	ctx := harness.Within(t, harness.AnswerTime)
	harness.Must(t, s.WaitReady(ctx))
	for _, f := range s.Families() {
		harness.Must(t, s.server.Eth0.Resolve(ctx, s.server.Eth0.Gateway(f)))
	}
	return s
}

// tooBig matches what a router says about a packet that is too large.
func tooBig(f *topology.Frame) bool {
	return topology.Protocol(layers.IPProtocolICMPv4)(f) && f.ICMPType == layers.ICMPv4TypeDestinationUnreachable && f.ICMPCode == layers.ICMPv4CodeFragmentationNeeded ||
		topology.Protocol(layers.IPProtocolICMPv6)(f) && f.ICMPType == layers.ICMPv6TypePacketTooBig
}

// TestPathMTU has the routers of the corrected way tell the server how large its
// packets may be: they reach the right socket, and move nothing. What the server
// learns from one connection would serve the next: each kind has its own network.
func TestPathMTU(t *testing.T) {
	for kind, test := range map[string]func(*steps, *testing.T, topology.Family){
		"tcp": (*steps).testStream,
		"udp": (*steps).testDatagrams,
	} {
		t.Run(kind, func(t *testing.T) {
			s := newSteps(t)
			s.wantBroken(t)
			p := harness.On(t, s.server.Host)
			p.Start()
			for _, f := range s.Families() {
				t.Run(f.String(), func(t *testing.T) { test(s, t, f) })
			}
			metrics := p.Metrics()
			if n := metrics.Sum("replypath_uncorrected_packets_total"); n != 0 {
				t.Errorf("%v packets were not corrected", n)
			}
			if n := metrics.Sum("replypath_flow_moves_total") + metrics.Sum("replypath_flow_moves_refused_total"); n != 0 {
				t.Errorf("%v moves", n)
			}
		})
	}
}

// wantBroken wants answers by eth0, and none to arrive.
func (s *steps) wantBroken(t *testing.T) {
	t.Helper()
	for _, f := range s.Families() {
		harness.Serve(t, s.server.Host, s.server.Eth1.Address(f))
		c := harness.NewConversation(t, harness.TCP, s.client, s.server.Eth1.Address(f))
		wires := harness.Tap(t, s.server)
		if err := harness.AskInVain(t, c, wires.Eth0); err == nil {
			t.Errorf("%s: an answer without replypath", f)
		}
		wires.WantEth0("without replypath", c.Answers())
	}
}

func (s *steps) testStream(t *testing.T, f topology.Family) {
	l := harness.ServeTransfers(t, s.server.Host, s.server.Eth1.Address(f))
	wires, errors := harness.Tap(t, s.server), harness.Capture(t, s.server.Eth1)
	conn := harness.Must1[net.Conn](t)(s.client.Host.Dial(harness.Within(t, harness.AnswerTime), "tcp", l.Addr().String()))
	defer conn.Close()
	harness.TransferBothWays(t, conn, 200_000)
	port := topology.FromPort(uint16(l.Addr().(*net.TCPAddr).Port))
	wires.WantEth1("the transfers", topology.All(topology.TCP, port))
	s.wantSteps(t, f, errors)
}

// wantSteps wants word from both routers, and nothing of it to be our own.
func (s *steps) wantSteps(t *testing.T, f topology.Family, at *topology.Capture) {
	t.Helper()
	index := map[topology.Family]int{topology.IPv4: 0, topology.IPv6: 1}[f]
	for name, router := range map[string]netip.Prefix{"r1": place(stepsReplication, 1)[index], "r2": place(stepsR1, 1)[index]} {
		if at.Count(topology.All(tooBig, topology.From(router.Addr()))) == 0 {
			t.Errorf("no word from %s", name)
		}
	}
	if own := at.Frames(topology.All(tooBig, topology.FromMAC(s.server.Eth1.MAC))); len(own) != 0 {
		t.Errorf("of our own making: %s", harness.Describe(own))
	}
}

// testDatagrams has the errors end up at a connected socket.
func (s *steps) testDatagrams(t *testing.T, f topology.Family) {
	asked := askDatagrams(t, s.client, s.server.Eth1, f)
	wires, errors := harness.Tap(t, s.server), harness.Capture(t, s.server.Eth1)
	asked.send(t, 1500)
	asked.wantTooLarge(t)
	asked.send(t, 1400)
	asked.wantTooLarge(t)
	asked.send(t, 1300)
	asked.wantArrival(t, 1300)
	wires.WantEth1("the answers", topology.All(topology.UDP, topology.From(s.server.Eth1.Address(f))))
	s.wantSteps(t, f, errors)
}
