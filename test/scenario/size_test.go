// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"replypath/test/harness"
	"replypath/test/topology"
)

// Sizes of the tests below.
const (
	narrowMTU    = 1400 // of the flow's interface
	transferSize = 10_000_000
)

// narrowNetworks are those whose flows come in by an interface of narrowMTU,
// while the kernel builds replies for another one.
func narrowNetworks(t *testing.T, run func(*testing.T, topology.TwoNICOptions)) {
	for _, mtu := range []int{1500, 9000} {
		for _, noSegmentation := range []bool{false, true} {
			name := fmt.Sprintf("eth0 at %d", mtu)
			if noSegmentation {
				name += ", tso off"
			}
			t.Run(name, func(t *testing.T) {
				run(t, topology.TwoNICOptions{
					Policy:        topology.StrictSource,
					ProductionMTU: mtu, ClientMTU: mtu, ReplicationMTU: narrowMTU,
					Offloads: topology.Offloads{NoSegmentation: noSegmentation},
				})
			})
		}
	}
}

// tooLarge counts the packets that were left alone, or turned into word of their
// size, since the product was started.
func tooLarge(p *harness.Product) float64 {
	return p.Metrics().Sum("replypath_uncorrected_packets_total", "reason=mtu", "from_interface=eth0", "to_interface=eth1")
}

// corrected counts the packets of a family that were moved.
func corrected(p *harness.Product, f topology.Family) float64 {
	return p.Metrics().Sum("replypath_corrected_packets_total", "family="+f.String(), "protocol=tcp")
}

// wantFitting wants no frame that is larger than its interface takes, where they
// are cut before they leave.
func wantFitting(t *testing.T, options topology.TwoNICOptions, frames []*topology.Frame) {
	t.Helper()
	if !options.Offloads.NoSegmentation {
		return
	}
	for _, frame := range frames {
		if frame.Length > 14+narrowMTU {
			t.Errorf("too large: %s", frame)
			return
		}
	}
}

// TestSizeOfNewConnections has 10 MB cross in either direction by connections that
// begin with replypath in place.
func TestSizeOfNewConnections(t *testing.T) {
	narrowNetworks(t, func(t *testing.T, options topology.TwoNICOptions) {
		n := harness.NewTwoNIC(t, options)
		p := harness.On(t, n.Server.Host)
		for _, f := range n.Families() {
			c := harness.NewConversation(t, harness.TCP, n.ClientEth0, n.Server.Eth1.Address(f))
			wires := harness.Tap(t, n.Server)
			if err := harness.AskInVain(t, c, wires.Eth0); err == nil {
				t.Errorf("%s: an answer without replypath", f)
			}
			wires.WantEth0("without replypath", c.Answers())
		}
		p.Start()
		for _, f := range n.Families() {
			t.Run(f.String(), func(t *testing.T) {
				l := harness.ServeTransfers(t, n.Server.Host, n.Server.Eth1.Address(f))
				wires := harness.Tap(t, n.Server)
				conn := harness.DialTransfer(t, n.Client, l)
				defer conn.Close()
				harness.TransferBothWays(t, conn, transferSize)
				port := topology.FromPort(uint16(l.Addr().(*net.TCPAddr).Port))
				wantFitting(t, options, wires.WantEth1("the transfers", topology.All(topology.TCP, port)))
			})
		}
		if n := tooLarge(p); n != 0 {
			t.Errorf("%v packets were too large, although the handshake said what fits", n)
		}
	})
}

// TestSizeOfLiveConnections lowers the MTU of the flow's interface under
// connections that began with a larger one.
func TestSizeOfLiveConnections(t *testing.T) {
	narrowNetworks(t, func(t *testing.T, options topology.TwoNICOptions) {
		before := options
		before.ReplicationMTU = options.ProductionMTU
		n := harness.NewTwoNIC(t, before)
		p := harness.On(t, n.Server.Host)
		daemon := p.Start()
		conns := make(map[topology.Family]net.Conn)
		for _, f := range n.Families() {
			l := harness.ServeTransfers(t, n.Server.Host, n.Server.Eth1.Address(f))
			conns[f] = harness.DialTransfer(t, n.Client, l)
			defer conns[f].Close()
			harness.TransferBothWays(t, conns[f], 1)
		}
		daemon.Stop(unix.SIGTERM)
		harness.Must(t, n.Server.Eth1.SetMTU(narrowMTU))
		harness.Must(t, n.Server.Eth1.Peer().SetMTU(narrowMTU))
		p.Start()
		for _, f := range n.Families() {
			t.Run(f.String(), func(t *testing.T) {
				already, correctedBefore := tooLarge(p), corrected(p, f)
				wires := harness.Tap(t, n.Server)
				harness.TransferBothWays(t, conns[f], transferSize)
				port := topology.FromPort(netip.MustParseAddrPort(conns[f].RemoteAddr().String()).Port())
				eth0, eth1 := wires.Left(topology.All(topology.TCP, port))
				wantFitting(t, options, eth1)
				if options.Offloads.NoSegmentation { // else the wire has seen packets, not segments
					harness.Eventually(t, "the last acknowledgement", func() error {
						_, eth1 := wires.Left(topology.All(topology.TCP, port))
						if moved := int(corrected(p, f) - correctedBefore); moved != len(eth1) {
							return fmt.Errorf("%d packets were counted as corrected, %d left by eth1", moved, len(eth1))
						}
						return nil
					})
				}
				// The first that cannot be cut becomes word of its size; others may be under way by then.
				if counted := int(tooLarge(p) - already); len(eth0) > max(counted-1, 0) {
					t.Errorf("%d packets were counted as too large, as routed left %s", counted, harness.Describe(eth0))
				}
			})
		}
	})
}

// TestSizeOfDatagrams has answers by UDP that are too large for the flow's
// interface: nobody cuts them, and who sends them learns of it, once.
func TestSizeOfDatagrams(t *testing.T) {
	n := harness.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.StrictSource, ReplicationMTU: narrowMTU})
	p := harness.On(t, n.Server.Host)
	for _, f := range n.Families() {
		asked := askDatagrams(t, n.ClientEth0, n.Server.Eth1, f)
		wires := harness.Tap(t, n.Server)
		asked.send(t, narrowMTU)
		answers := topology.All(topology.UDP, topology.From(n.Server.Eth1.Address(f)))
		harness.Must1[*topology.Frame](t)(wires.Eth0.Wait(harness.Within(t, harness.AnswerTime), answers))
		wires.WantEth0("without replypath", answers)
	}
	p.Start()
	for _, f := range n.Families() {
		t.Run(f.String(), func(t *testing.T) {
			before := tooLarge(p)
			asked := askDatagrams(t, n.ClientEth0, n.Server.Eth1, f)
			wires, errors := harness.Tap(t, n.Server), harness.Capture(t, n.Server.Eth1)
			asked.send(t, 1500)
			asked.wantTooLarge(t)
			asked.send(t, narrowMTU)
			asked.wantArrival(t, narrowMTU)
			wires.WantEth1("what fits", topology.All(topology.UDP, topology.From(n.Server.Eth1.Address(f))))
			if count := errors.Count(tooBig); count != 1 {
				t.Errorf("%d errors", count)
			}
			if counted := tooLarge(p) - before; counted != 1 {
				t.Errorf("%v packets were counted as too large", counted)
			}
		})
	}
}

// TestSizeOfDeafSender has a server go on sending what is too large, as one does
// that probes for the path's MTU itself: it is told at most once a second, and the
// rest goes as routed.
func TestSizeOfDeafSender(t *testing.T) {
	const count = 200
	n := harness.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.StrictSource, ReplicationMTU: narrowMTU})
	p := harness.On(t, n.Server.Host)
	p.Start()
	for _, f := range n.Families() {
		t.Run(f.String(), func(t *testing.T) {
			asked := askDatagrams(t, n.ClientEth0, n.Server.Eth1, f)
			asked.discover(t, f, unix.IP_PMTUDISC_PROBE)
			before := tooLarge(p)
			wires, errors := harness.Tap(t, n.Server), harness.Capture(t, n.Server.Eth1)
			began := time.Now()
			for range count {
				asked.sendDeaf(t, 1500)
			}
			most := 1 + int(time.Since(began)/(900*time.Millisecond)) // a tick is up to 64 ms
			eth0, eth1 := wires.Left(topology.All(topology.UDP, topology.From(n.Server.Eth1.Address(f))))
			told := errors.Count(tooBig)
			if told == 0 || told > most || len(eth0)+told != count || len(eth1) != 0 {
				t.Errorf("of %d datagrams within %s: %d became errors, %d left by eth0, %d by eth1",
					count, time.Since(began), told, len(eth0), len(eth1))
			}
			if counted := tooLarge(p) - before; counted != count {
				t.Errorf("%v packets were counted as too large", counted)
			}
		})
	}
}

// TestSizeOfSenderThatHeedsNone has a server answer many clients by sockets that
// heed no path MTU, as name servers do. Telling them would lose the first answer to
// each client: all go as routed, and are counted.
func TestSizeOfSenderThatHeedsNone(t *testing.T) {
	const clients = 10
	n := harness.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.AnySource, ReplicationMTU: narrowMTU})
	p := harness.On(t, n.Server.Host)
	p.Start()
	for _, f := range n.Families() {
		for name, way := range map[string]int{"omit": unix.IP_PMTUDISC_OMIT, "interface": unix.IP_PMTUDISC_INTERFACE} {
			t.Run(f.String()+"/"+name, func(t *testing.T) {
				before := tooLarge(p)
				wires := harness.Tap(t, n.Server)
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
				if counted := tooLarge(p) - before; counted != clients {
					t.Errorf("%v packets were counted as too large", counted)
				}
				t.Logf("%d clients, %d answers lost", clients, clients-len(eth0))
			})
		}
	}
}

// TestSizeOfFragments has answers that only fit in fragments: the first is lost, as
// the kernel thinks that it fits; the next ones it cuts itself, and all of their
// fragments leave by the flow's interface.
func TestSizeOfFragments(t *testing.T) {
	n := harness.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.StrictSource, ReplicationMTU: narrowMTU})
	p := harness.On(t, n.Server.Host)
	p.Start()
	for _, f := range n.Families() {
		t.Run(f.String()+"/udp", func(t *testing.T) {
			before := tooLarge(p)
			asked := askDatagrams(t, n.ClientEth0, n.Server.Eth1, f)
			asked.send(t, 1500)
			asked.wantTooLarge(t)
			wires := harness.Tap(t, n.Server)
			for _, size := range []int{1500, 4000} {
				asked.send(t, size)
				asked.wantArrival(t, size)
			}
			frames := wires.WantEth1("the fragments", topology.From(n.Server.Eth1.Address(f)))
			if len(frames) < 2+3 {
				t.Errorf("few fragments: %s", harness.Describe(frames))
			}
			if counted := tooLarge(p) - before; counted != 1 {
				t.Errorf("%v packets were counted as too large", counted)
			}
		})
	}
}

// TestSizeOfEchoes pings with what is too large in both directions.
func TestSizeOfEchoes(t *testing.T) {
	n := harness.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.StrictSource, ReplicationMTU: narrowMTU})
	p := harness.On(t, n.Server.Host)
	p.Start()
	for _, f := range n.Families() {
		t.Run(f.String(), func(t *testing.T) {
			echo := topology.Echo{To: n.Server.Eth1.Address(f), From: n.ClientEth0.Address(f), Size: 1440}
			pinger := harness.Must1[*topology.Pinger](t)(n.Client.NewPinger(t.Context(), echo))
			defer pinger.Close()
			harness.Eventually(t, "an echo in fragments", func() error {
				ctx, cancel := context.WithTimeout(t.Context(), 20*harness.SilenceTime)
				defer cancel()
				_, err := pinger.Ping(ctx)
				return err
			})
			wires := harness.Tap(t, n.Server)
			harness.Must1[time.Duration](t)(pinger.Ping(harness.Within(t, harness.AnswerTime)))
			wires.WantEth1("the answer", topology.From(n.Server.Eth1.Address(f)))
			if tooLarge(p) == 0 {
				t.Error("nothing was too large")
			}
		})
	}
}

// The addresses of the tunnel of TestSizeOfTunnel.
const (
	tunnelNetwork = 40
	tunnelMTU     = 1400
)

// newTunnel adds a device without Ethernet header to the server, at whose other
// end is the replication router. The client reaches the server's address there
// through it.
func newTunnel(t *testing.T, n *topology.TwoNIC, mtu int) *topology.Interface {
	t.Helper()
	end, _, err := n.ConnectTun(
		topology.NIC{Host: n.Server.Host, Name: "tun0", MTU: mtu, Addresses: place(tunnelNetwork, 2)},
		topology.NIC{Host: n.Replication.Host, Name: "tun0", MTU: mtu, Addresses: place(tunnelNetwork, 1)})
	harness.Must(t, err)
	harness.Must(t, n.WaitReady(harness.Within(t, harness.AnswerTime)))
	core := harness.Must1[*topology.Interface](t)(n.Replication.Interface("core"))
	for i, f := range n.Families() {
		harness.Must(t, n.Core.AddRoute(topology.Route{Destination: place(tunnelNetwork, 0)[i].Masked(), Via: core.Address(f)}))
	}
	return end
}

// TestSizeOfTunnel has connections come in by a device without Ethernet header,
// whose MTU is smaller as most tunnels' is: by new ones, by such as were open when
// it shrank, and datagrams.
func TestSizeOfTunnel(t *testing.T) {
	for _, mtu := range []int{tunnelMTU, 1500} {
		t.Run(fmt.Sprintf("%d, then %d", mtu, tunnelMTU), func(t *testing.T) {
			n := harness.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.StrictSource})
			tunnel := newTunnel(t, n, mtu)
			p := harness.On(t, n.Server.Host)
			daemon := p.Start()
			conns := make(map[topology.Family]net.Conn)
			for _, f := range n.Families() {
				l := harness.ServeTransfers(t, n.Server.Host, tunnel.Address(f))
				conns[f] = harness.DialTransfer(t, n.Client, l)
				defer conns[f].Close()
				harness.TransferBothWays(t, conns[f], 1)
			}
			if mtu != tunnelMTU {
				daemon.Stop(unix.SIGTERM)
				harness.Must(t, tunnel.SetMTU(tunnelMTU))
				harness.Must(t, tunnel.Peer().SetMTU(tunnelMTU))
				p.Start()
			}
			for _, f := range n.Families() {
				t.Run(f.String(), func(t *testing.T) {
					eth0 := harness.Capture(t, n.Server.Eth0.Peer())
					harness.TransferBothWays(t, conns[f], transferSize/10)
					sent := eth0.Count(topology.All(topology.TCP, topology.From(tunnel.Address(f))))
					counted := int(p.Metrics().Sum("replypath_uncorrected_packets_total", "reason=mtu", "family="+f.String()))
					if sent > max(counted-1, 0) || mtu == tunnelMTU && counted > 0 {
						t.Errorf("%d packets were counted as too large, %d left by eth0", counted, sent)
					}
					asked := askDatagrams(t, n.ClientEth0, tunnel, f)
					asked.discover(t, f, unix.IP_PMTUDISC_PROBE) // the connection may have learned it for all
					asked.send(t, 1500)
					asked.wantTooLarge(t)
					asked.send(t, tunnelMTU)
					asked.wantArrival(t, tunnelMTU)
				})
			}
		})
	}
}
