// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"

	"replypath/test/await"
	testhost "replypath/test/host"
	"replypath/test/product"
	"replypath/test/short"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// Sizes of the tests below.
const (
	narrowMTU    = 1400 // of the flow's interface
	transferSize = 10_000_000
)

// tooLarge counts the packets that were left alone, or turned into word of their size, since the product was started.
func tooLarge(p *product.Product) float64 {
	return p.Metrics().Sum("replypath_uncorrected_packets_total", "reason=mtu", "from_interface=eth0", "to_interface=eth1")
}

// corrected counts the packets of a family that were moved.
func corrected(p *product.Product, f topology.Family) float64 {
	return p.Metrics().Sum("replypath_corrected_packets_total", "family="+f.String(), "protocol=tcp")
}

// wantFitting wants no frame that is larger than its interface takes, where they are cut before they leave.
func wantFitting(t *testing.T, frames []*topology.Frame) {
	t.Helper()
	for _, frame := range frames {
		if frame.Length > 14+narrowMTU {
			t.Errorf("too large: %s", frame)
			return
		}
	}
}

// sequence is what a packet has of a connection's bytes: their numbers, from first to before end.
type sequence struct {
	time       time.Time
	first, end uint32
	size       int // of the IP packet
}

func sequenceOf(at time.Time, packet gopacket.Packet) sequence {
	s := sequence{time: at}
	switch ip := packet.NetworkLayer().(type) {
	case *layers.IPv4:
		s.size = int(ip.Length)
	case *layers.IPv6:
		s.size = int(ip.Length) + 40
	}
	tcp := packet.Layer(layers.LayerTypeTCP).(*layers.TCP)
	headers := len(packet.NetworkLayer().LayerContents()) + len(tcp.Contents)
	s.first, s.end = tcp.Seq, tcp.Seq+uint32(s.size-headers)
	return s
}

// quotedBy returns what stands in a message that a packet is too large.
func quotedBy(frame *topology.Frame) sequence {
	packet, kind := frame.Packet(), gopacket.Decoder(layers.LayerTypeIPv4)
	quote := packet.NetworkLayer().LayerPayload()[8:] // after the header of ICMP
	if packet.NetworkLayer().LayerType() == layers.LayerTypeIPv6 {
		kind = layers.LayerTypeIPv6
	}
	return sequenceOf(frame.Time, gopacket.NewPacket(quote, kind, gopacket.Default))
}

// wantSentAgain wants a host to have been told by its eth0 what fits, and whatever was lost until then, as the packet
// that became the message or as routed, to leave by eth1 afterwards. It returns how often the host was told, and the
// size of the largest packet that it was told of.
func wantSentAgain(t *testing.T, atEth0 *topology.Capture, routed, eth1 []*topology.Frame) (told, largest int) {
	t.Helper()
	var lost, left []sequence
	for _, frame := range atEth0.Frames(tooBig) {
		s := quotedBy(frame)
		lost, told, largest = append(lost, s), told+1, max(largest, s.size)
	}
	for _, frame := range routed {
		lost = append(lost, sequenceOf(frame.Time, frame.Packet()))
	}
	for _, frame := range eth1 {
		left = append(left, sequenceOf(frame.Time, frame.Packet()))
	}
	if told == 0 {
		t.Error("nobody was told what fits")
	}
	for _, l := range lost {
		for number := l.first; number != l.end; number++ {
			if !slices.ContainsFunc(left, func(s sequence) bool {
				return s.time.After(l.time) && number-s.first < s.end-s.first
			}) {
				t.Errorf("of the bytes from %d to %d that were lost %d did not leave again by eth1", l.first, l.end, number)
				break
			}
		}
	}
	return told, largest
}

// forgetSizes has a host know nothing of what fits on the way to others.
func forgetSizes(t *testing.T, host *topology.Host) {
	t.Helper()
	testhost.Shell(t, host, "ip -4 route flush cache; ip -6 route flush cache")
}

// dialTransfers opens a connection of each family for transfers with an address of the server.
func dialTransfers(t *testing.T, n *topology.TwoNIC, at *topology.Interface) map[topology.Family]net.Conn {
	t.Helper()
	conns := make(map[topology.Family]net.Conn)
	for _, f := range n.Families() {
		conns[f] = traffic.DialTransfer(t, n.Client, traffic.ServeTransfers(t, n.Server.Host, at.Address(f)))
		t.Cleanup(func() { conns[f].Close() })
		traffic.TransferBothWays(t, conns[f], traffic.TransferBlock)
	}
	return conns
}

// sentTo matches what the server sends by a connection.
func sentTo(conn net.Conn) topology.Filter {
	return topology.All(topology.TCP, topology.FromPort(netip.MustParseAddrPort(conn.RemoteAddr().String()).Port()))
}

// TestSizeOfConnections has 10 MB cross in either direction where the flow's interface takes less than the one that the
// kernel builds replies for: by connections that begin so, and by those that began before its MTU was lowered.
func TestSizeOfConnections(t *testing.T) {
	for _, mtu := range []int{1500, 9000} {
		for _, noSegmentation := range []bool{false, true} {
			if short.Run(t) && noSegmentation == (mtu == 9000) {
				continue
			}
			t.Run(fmt.Sprintf("eth0 at %d, tso off %t", mtu, noSegmentation), func(t *testing.T) {
				testSizeOfConnections(t, topology.TwoNICOptions{
					Policy: topology.StrictSource, ProductionMTU: mtu, ClientMTU: mtu, ReplicationMTU: mtu,
					Offloads: topology.Offloads{NoSegmentation: noSegmentation},
				})
			})
		}
	}
}

func testSizeOfConnections(t *testing.T, options topology.TwoNICOptions) {
	n := traffic.NewTwoNIC(t, options)
	p, daemon := product.StartOn(t, n.Server.Host)
	live := dialTransfers(t, n, n.Server.Eth1)
	daemon.Stop(unix.SIGTERM)
	await.Must(t, n.Server.Eth1.SetMTU(narrowMTU))
	await.Must(t, n.Server.Eth1.Peer().SetMTU(narrowMTU))
	p.Start()
	for f, conn := range dialTransfers(t, n, n.Server.Eth1) {
		t.Run("new/"+f.String(), func(t *testing.T) {
			wires := wire.Tap(t, n.Server)
			traffic.TransferBothWays(t, conn, transferSize)
			frames := wires.WantEth1("the transfers", sentTo(conn))
			if options.Offloads.NoSegmentation {
				wantFitting(t, frames)
			}
		})
	}
	await.Same(t, "packets that were too large, although the handshake said what fits", 0, tooLarge(p))
	for f, conn := range live {
		t.Run("live/"+f.String(), func(t *testing.T) {
			already, correctedBefore := tooLarge(p), corrected(p, f)
			wires, errors := wire.Tap(t, n.Server), wire.Capture(t, n.Server.Eth0)
			traffic.TransferBothWays(t, conn, transferSize)
			eth0, eth1 := wires.Left(sentTo(conn))
			told, largest := wantSentAgain(t, errors, eth0, eth1)
			if options.Offloads.NoSegmentation { // else the wire has seen packets, not segments
				wantFitting(t, eth1)
				await.Eventually(t, "the last acknowledgement", func() error {
					_, eth1 := wires.Left(sentTo(conn))
					if moved := int(corrected(p, f) - correctedBefore); moved != len(eth1) {
						return fmt.Errorf("%d packets were counted as corrected, %d left by eth1", moved, len(eth1))
					}
					return nil
				})
			}
			// The first becomes word of its size; others may be under way by then.
			counted := int(tooLarge(p) - already)
			t.Logf("the server was told %d times what fits, of %d bytes at most; %d segments were too large",
				told, largest, counted)
			if len(eth0) > max(counted-told, 0) {
				t.Errorf("%d packets were counted as too large, as routed left %s", counted, wire.Describe(eth0))
			}
			if largest <= options.ReplicationMTU {
				t.Errorf("the server was told of %d bytes at most: of no packet of several segments", largest)
			}
		})
	}
}

// TestSizeOfDatagrams has answers that are too large for the flow's interface: who sends them learns of it.
func TestSizeOfDatagrams(t *testing.T) {
	s := newBed(t, topology.TwoNICOptions{Policy: topology.StrictSource, ReplicationMTU: narrowMTU})
	for _, f := range s.Families() {
		asked := askDatagrams(t, s.ClientEth0, s.Server.Eth1, f)
		wires := wire.Tap(t, s.Server)
		asked.send(t, narrowMTU)
		answers := topology.All(topology.UDP, topology.From(s.Server.Eth1.Address(f)))
		wait(t, wires.Eth0, answers)
		wires.WantEth0("without replypath", answers)
	}
	s.p.Start()
	for _, f := range s.Families() {
		for name, test := range map[string]func(bed, *testing.T, topology.Family){
			"told once": bed.toldOnce, "fragments": bed.fragments,
		} {
			forgetSizes(t, s.Server.Host)
			t.Run(name+"/"+f.String(), func(t *testing.T) { test(s, t, f) })
		}
	}
}

// toldOnce has answers by UDP that nobody may cut: who sends them learns of it, once.
func (s bed) toldOnce(t *testing.T, f topology.Family) {
	before := tooLarge(s.p)
	asked := askDatagrams(t, s.ClientEth0, s.Server.Eth1, f)
	wires, errors := wire.Tap(t, s.Server), wire.Capture(t, s.Server.Eth0)
	asked.send(t, 1500)
	asked.wantTooLarge(t)
	asked.send(t, narrowMTU)
	asked.wantArrival(t, narrowMTU)
	wires.WantEth1("what fits", topology.All(topology.UDP, topology.From(s.Server.Eth1.Address(f))))
	if told, counted := errors.Count(tooBig), tooLarge(s.p)-before; told != 1 || counted != 1 {
		t.Errorf("%d errors, %v packets were counted as too large", told, counted)
	}
}

// fragments has the first large answer tell the kernel, which cuts all others so that they fit.
func (s bed) fragments(t *testing.T, f topology.Family) {
	before := tooLarge(s.p)
	ask := func(kind traffic.Kind) *traffic.Conversation {
		return traffic.NewConversation(t, kind, s.ClientEth0, s.Server.Eth1.Address(f))
	}
	lost := ask(traffic.Ping) // what is said of it is for the kernel alone
	await.Eventually(t, "the kernel has learned the size", func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 4*await.SilenceTime)
		defer cancel()
		return lost.AskFor(ctx, largeDatagram)
	})
	if tooLarge(s.p) == before {
		t.Error("nothing was too large")
	}
	for _, c := range []*traffic.Conversation{ask(traffic.UDP), lost} {
		wires := wire.Tap(t, s.Server)
		for range 3 {
			await.Must(t, c.AskFor(await.Within(t, await.AnswerTime), largeDatagram))
		}
		wantFitting(t, wires.WantEth1(c.String(), answersOf(c)))
	}
}

// TestSizeOfSenderThatHeedsNone has a server answer many clients by sockets that heed no path MTU, as name servers
// do. Telling them would lose the first answer to each client: all go as routed, and are counted.
func TestSizeOfSenderThatHeedsNone(t *testing.T) {
	const clients = 10
	n := traffic.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.AnySource, ReplicationMTU: narrowMTU})
	p, _ := product.StartOn(t, n.Server.Host)
	for _, f := range n.Families() {
		for name, way := range map[string]int{"omit": unix.IP_PMTUDISC_OMIT, "interface": unix.IP_PMTUDISC_INTERFACE} {
			t.Run(f.String()+"/"+name, func(t *testing.T) {
				before := tooLarge(p)
				wires := wire.Tap(t, n.Server)
				for range clients {
					asked := askDatagrams(t, n.ClientEth0, n.Server.Eth1, f)
					asked.discover(t, f, way)
					for _, size := range []int{1500, narrowMTU} {
						asked.send(t, size)
						asked.wantArrival(t, size)
					}
				}
				eth0, eth1 := wires.Left(topology.All(topology.UDP, topology.From(n.Server.Eth1.Address(f))))
				if len(eth0) != clients || len(eth1) != clients {
					t.Errorf("of %d answers too large %d left by eth0, of as many that fit %d by eth1",
						clients, len(eth0), len(eth1))
				}
				await.Same(t, "packets that were counted as too large", clients, tooLarge(p)-before)
				t.Logf("%d clients, %d answers lost", clients, clients-len(eth0))
			})
		}
	}
}
