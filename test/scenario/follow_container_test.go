// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"replypath/test/harness"
	"replypath/test/topology"
)

// detour takes the client's way to eth1's addresses through the production
// router, so that it comes in by eth0, or takes it back.
func detour(t *testing.T, n *topology.TwoNIC, f topology.Family, on bool) {
	t.Helper()
	server := netip.PrefixFrom(n.Server.Eth1.Address(f), n.Server.Eth1.Address(f).BitLen())
	core, err := n.Production.Interface("core")
	harness.Must(t, err)
	routes := map[*topology.Host]topology.Route{
		n.Core.Host:       {Destination: server, Via: core.Address(f)},
		n.Production.Host: {Destination: server, Via: n.Server.Eth0.Address(f)},
	}
	for host, route := range routes {
		if on {
			harness.Must(t, host.AddRoute(route))
		} else {
			harness.Must(t, host.RemoveRoute(route))
		}
	}
}

// TestContainerMoves changes the way that a client's segments come in: a
// container's TCP flow follows at once, one without connections after the second
// in which nothing came by its old way.
func TestContainerMoves(t *testing.T) {
	s, _ := newS7(t, topology.AnySource)
	p := harness.On(t, s.Server.Host)
	p.Start()
	harness.EachQuestionOf(t, s.Families(), "moves", func(t *testing.T, f topology.Family, kind harness.Kind) {
		c := published(t, s, kind, s.Server.Eth1, f)
		harness.WantBy(t, s.Server, c, true)
		for _, on := range []bool{true, false} {
			detour(t, s.TwoNIC, f, on)
			wires := harness.Tap(t, s.Server)
			harness.Ask(t, c)
			if kind != harness.TCP {
				// The present way is up and was in use a moment ago.
				harness.Eventually(t, "the flow moves", func() error { return movedTo(t, wires, c, !on) })
				continue
			}
			if on {
				wires.WantEth0("after the detour", c.Answers())
			} else {
				wires.WantEth1("after the way back", c.Answers())
			}
		}
	})
	if moves := p.Metrics().Sum("replypath_flow_moves_total", "protocol=tcp"); moves != 4 {
		t.Errorf("%v moves of TCP flows were counted, not 4", moves)
	}
}

// movedTo asks once more and says whether the answer left by eth1, or eth0.
func movedTo(t *testing.T, wires *harness.Wires, c *harness.Conversation, eth1 bool) error {
	t.Helper()
	eth0Before, eth1Before := wires.Left(c.Answers())
	harness.Ask(t, c)
	byEth0, byEth1 := wires.Left(c.Answers())
	byEth0, byEth1 = byEth0[len(eth0Before):], byEth1[len(eth1Before):]
	if (len(byEth1) > 0) != eth1 {
		return fmt.Errorf("%d answers left by eth0, %d by eth1", len(byEth0), len(byEth1))
	}
	return nil
}

// forgery is a segment that somebody else sends in a conversation, relative to
// what the client sent last.
type forgery struct {
	name     string
	seq, ack uint32
	planted  bool // comes by the flow's own interface first, as if the connection were there
	moves    bool
}

// forgeries are on both sides of the bounds: 64 KiB from what the container acknowledged
// last, and from what was acknowledged of what it sent.
var forgeries = []forgery{
	{"both far", 1 << 30, 1 << 30, false, false},
	{"sequence far", 70_000, 0, false, false},
	{"sequence far behind", ^uint32(70_000), 0, false, false},
	{"acknowledgement far", 0, 70_000, false, false},
	{"acknowledgement far behind", 0, ^uint32(70_000), false, false},
	{"both far, twice", 1 << 30, 1 << 30, true, false},
	{"sequence far, twice", 70_000, 0, true, false},
	{"acknowledgement far, twice", 0, 70_000, true, false},
	{"both as expected", 0, 0, false, true},
}

// TestContainerForgedMove sends segments of a container's TCP flow by the other
// interface. Without a socket of the host they are held against what was seen
// last.
func TestContainerForgedMove(t *testing.T) {
	s, _ := newS7(t, topology.AnySource)
	p := harness.On(t, s.Server.Host)
	p.Start()
	injector := harness.NewInjector(t, s.Server.Eth0.Peer())
	own := harness.NewInjector(t, s.Server.Eth1.Peer())
	for _, f := range s.Families() {
		for _, forged := range forgeries {
			t.Run(f.String()+"/"+forged.name, func(t *testing.T) {
				wires := harness.Tap(t, s.Server)
				c := published(t, s, harness.TCP, s.Server.Eth1, f)
				harness.WantBy(t, s.Server, c, true)
				refused := contested(p)
				segment := forged.segment(t, wires, c)
				if forged.planted {
					own.Send(segment(s.Server.Eth1)...)
					harness.Settle(t, s.Replication, s.Server.Eth1)
				}
				injector.Send(segment(s.Server.Eth0)...)
				harness.Settle(t, s.Production, s.Server.Eth0)
				// The client's own questions come by eth1 and would move it back.
				flow := p.Flows("--protocol", "tcp", "--peer", c.Peer.Addr().String())
				moved := false
				for _, flow := range flow {
					if flow.PeerPort == c.Peer.Port() && flow.Interface != nil {
						moved = *flow.Interface == "eth0"
					}
				}
				if moved != forged.moves {
					t.Errorf("moved: %t, not %t", moved, forged.moves)
				}
				if n := contested(p) - refused; !forged.moves && n != 1 {
					t.Errorf("%v moves counted as contested, not 1", n)
				}
				harness.WantBy(t, s.Server, c, true)
			})
		}
	}
}

func contested(p *harness.Product) float64 {
	return p.Metrics().Sum("replypath_flow_moves_refused_total", "reason=contested")
}

// segment makes the forged ACK out of the client's last segment, as the
// router of an interface would hand it over.
func (f forgery) segment(t *testing.T, wires *harness.Wires, c *harness.Conversation) func(*topology.Interface) []gopacket.SerializableLayer {
	t.Helper()
	frames := wires.Eth1.Frames(c.Questions())
	last, ok := frames[len(frames)-1].Packet().Layer(layers.LayerTypeTCP).(*layers.TCP)
	if !ok {
		t.Fatalf("no segment: %s", frames[len(frames)-1])
	}
	tcp := &layers.TCP{
		SrcPort: last.SrcPort, DstPort: last.DstPort, Window: last.Window, ACK: true,
		Seq: last.Seq + uint32(len(last.Payload)) + f.seq, Ack: last.Ack + f.ack,
	}
	return func(nic *topology.Interface) []gopacket.SerializableLayer {
		return segmentFrame(nic.Peer().MAC, nic.MAC, c.Peer.Addr(), c.Self.Addr(), tcp)
	}
}
