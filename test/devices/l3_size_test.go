// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"replypath/test/await"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// Sizes of TestL3Transfer.
const (
	l3Narrow       = 1400 // the MTU of the flow's device; the other one's is 1500
	l3TransferSize = 10_000_000
	// ownLost is how many router solicitations and MLD reports of the server's own may find the
	// queue full as well; a device of IPv6's sends them in its first seconds.
	ownLost = 4
)

// TestL3Transfer has 10 MB cross in either direction where the flow's device takes less than the one that the kernel
// builds answers for, and at least one of them has no Ethernet header: by connections that begin with replypath in
// place, which are told what fits, and by such as were open when the MTU shrank, whose sender learns the size.
func TestL3Transfer(t *testing.T) {
	for name, build := range l3Networks {
		t.Run(name, func(t *testing.T) {
			n := traffic.NewTwoNIC(t, topology.TwoNICOptions{
				// Else an Ethernet device hands on what is to be segmented, of any size.
				Policy: topology.StrictSource, Offloads: topology.Offloads{NoSegmentation: true},
			})
			l := build(t, n)
			for _, f := range n.Families() {
				wire.WantLost(t, l.server, traffic.NewConversation(t, traffic.TCP, n.ClientEth0, l.server.Eth1.Address(f)))
			}
			p := product.On(t, n.Server.Host)
			daemon := p.Start()
			open := make(map[topology.Family]net.Conn)
			for _, f := range n.Families() {
				open[f] = traffic.DialTransfer(t, n.Client, traffic.ServeTransfers(t, n.Server.Host, l.server.Eth1.Address(f)))
				defer open[f].Close()
				traffic.TransferBothWays(t, open[f], 1)
			}
			daemon.Stop(unix.SIGTERM)
			await.Must(t, l.server.Eth1.SetMTU(l3Narrow))
			await.Must(t, l.server.Eth1.Peer().SetMTU(l3Narrow))
			p.Start()
			for _, f := range n.Families() {
				t.Run("new/"+f.String(), func(t *testing.T) {
					conn := traffic.DialTransfer(t, n.Client, traffic.ServeTransfers(t, n.Server.Host, l.server.Eth1.Address(f)))
					defer conn.Close()
					if told := l.wantTransfers(t, p.In(t), f, conn); told > 0 {
						t.Errorf("%d packets were too large, although the handshake said what fits", told)
					}
				})
				t.Run("open/"+f.String(), func(t *testing.T) {
					if told := l.wantTransfers(t, p.In(t), f, open[f]); told == 0 {
						t.Error("no packet was too large: nothing is tested")
					}
				})
			}
		})
	}
}

// wantTransfers has 10 MB cross in either direction, and wants everything by the flow's
// device in packets that fit it. Of what is too large the first becomes word of its size,
// and others may be under way by then, as routed. It returns how many packets those were.
func (l l3) wantTransfers(t *testing.T, p *product.Product, f topology.Family, conn net.Conn) (told int) {
	t.Helper()
	wires, began := wire.Tap(t, l.server), time.Now()
	before, dropped := l.counted(t, p, f), l.dropped(t)
	traffic.TransferBothWays(t, conn, l3TransferSize)
	took := time.Since(began).Round(time.Millisecond)

	// The end of the transfer before may be among them, but no SYN-ACK that was lost without replypath and comes again.
	segments := topology.All(topology.TCP, topology.From(l.server.Eth1.Address(f)), topology.Not(topology.FromPort(traffic.EchoPort)))
	var left, routed []*topology.Frame
	var after l3Counted
	var lost int
	await.Eventually(t, "what was counted is what left", func() error {
		routed, left = wires.Left(segments)
		after, lost = l.counted(t, p, f), l.dropped(t)-dropped
		if moved := after.moved - before.moved; moved > len(left)+lost || moved < len(left)+lost-ownLost {
			return fmt.Errorf("%d packets were counted as corrected; %d left by %s, %d found its queue full", moved, len(left), l.server.Eth1.Name, lost)
		}
		return nil
	})
	told = after.told - before.told
	if len(routed) == 0 {
		wires.WantEth1("the transfers", segments)
	} else if len(routed) >= told {
		t.Errorf("%d packets were counted as too large, by %s left %s", told, l.server.Eth0.Name, wire.Describe(routed))
	}
	largest := largestPacket(l.server.Eth1, left)
	if largest > l3Narrow {
		t.Errorf("a packet of %d bytes left by %s", largest, l.server.Eth1.Name)
	}
	t.Logf("%d bytes either way in %s: of %d packets counted as corrected %d left by %s, of %d bytes at most, and %d found its queue full; %d were too large, %d left by %s",
		l3TransferSize, took, after.moved-before.moved, len(left), l.server.Eth1.Name, largest, lost, told, len(routed), l.server.Eth0.Name)
	return told
}

// l3Counted is what the metrics say about packets of a family for the flow's device.
type l3Counted struct{ moved, told int }

func (l l3) counted(t *testing.T, p *product.Product, f topology.Family) l3Counted {
	t.Helper()
	metrics := p.Metrics()
	pair := []string{"family=" + f.String(), "protocol=tcp", "from_interface=" + l.server.Eth0.Name, "to_interface=" + l.server.Eth1.Name}
	return l3Counted{
		moved: int(metrics.Sum("replypath_corrected_packets_total", pair...)),
		told:  int(metrics.Sum("replypath_uncorrected_packets_total", append(pair, "reason=mtu")...)),
	}
}

// dropped returns how many packets the flow's device has not taken: a tun's queue is only
// read as fast as its process does.
func (l l3) dropped(t *testing.T) int {
	t.Helper()
	return int(await.Must1[netlink.Link](t)(l.server.Eth1.Link()).Attrs().Statistics.TxDropped)
}

// largestPacket returns the length of the largest packet that a device has sent, without
// its Ethernet header where it has one.
func largestPacket(by *topology.Interface, frames []*topology.Frame) (largest int) {
	header := 0
	if by.MAC != nil {
		header = 14
	}
	for _, frame := range frames {
		largest = max(largest, frame.Length-header)
	}
	return largest
}
