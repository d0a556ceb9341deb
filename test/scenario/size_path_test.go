// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"testing"

	"github.com/gopacket/gopacket/layers"

	"replypath/test/await"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// tooBig matches what a router says about a packet that is too large.
func tooBig(f *topology.Frame) bool {
	return topology.Protocol(layers.IPProtocolICMPv4)(f) && f.ICMPType == layers.ICMPv4TypeDestinationUnreachable && f.ICMPCode == layers.ICMPv4CodeFragmentationNeeded ||
		topology.Protocol(layers.IPProtocolICMPv6)(f) && f.ICMPType == layers.ICMPv6TypePacketTooBig
}

// narrower is a network in which the way by eth1 gets narrower behind the router.
type narrower struct{ *topology.TwoNIC }

// set sets the MTU of the cable behind the router.
func (n narrower) set(t *testing.T, mtu int) {
	t.Helper()
	for host, name := range map[*topology.Host]string{n.Replication.Host: "core", n.Core.Host: "replication"} {
		await.Must(t, await.Must1[*topology.Interface](t)(host.Interface(name)).SetMTU(mtu))
	}
}

// TestPathMTU has the router of the corrected way tell the server how large its packets may be, twice: that reaches the
// right socket, and moves nothing.
func TestPathMTU(t *testing.T) {
	n := narrower{traffic.NewTwoNIC(t, topology.TwoNICOptions{
		Policy: topology.StrictSource, Offloads: topology.Offloads{NoSegmentation: true},
	})}
	for _, f := range n.Families() {
		// By UDP: the server would repeat its SYN-ACK meanwhile.
		wire.WantLost(t, n.Server, traffic.NewConversation(t, traffic.UDP, n.ClientEth0, n.Server.Eth1.Address(f)))
	}
	p := product.On(t, n.Server.Host)
	p.Start()
	for _, f := range n.Families() {
		for name, test := range map[string]func(narrower, *testing.T, topology.Family){
			"tcp": narrower.stream, "udp": narrower.datagrams,
		} {
			n.set(t, 1400)
			forgetSizes(t, n.Server.Host) // what it learns from one would serve the next
			forgetSizes(t, n.Client)
			t.Run(name+"/"+f.String(), func(t *testing.T) {
				wires, word := wire.Tap(t, n.Server), wire.Capture(t, n.Server.Eth1)
				test(n, t, f)
				wires.WantEth1("the answers", topology.All(topology.Not(tooBig), topology.From(n.Server.Eth1.Address(f))))
				router := topology.All(tooBig, topology.From(n.Server.Eth1.Gateway(f)))
				if all, its := word.Count(tooBig), word.Count(router); its < 2 || its != all {
					t.Errorf("%d words came from the router, and %d of others", its, all-its)
				}
			})
		}
	}
	metrics := p.Metrics()
	if n := metrics.Sum("replypath_uncorrected_packets_total"); n != 0 {
		t.Errorf("%v packets were not corrected", n)
	}
	wantNoMoves(t, p)
}

func (n narrower) stream(t *testing.T, f topology.Family) {
	conn := traffic.DialTransfer(t, n.Client, traffic.ServeTransfers(t, n.Server.Host, n.Server.Eth1.Address(f)))
	defer conn.Close()
	for _, mtu := range []int{1400, 1300} {
		n.set(t, mtu)
		traffic.TransferBothWays(t, conn, 200_000)
	}
}

// datagrams has the errors end up at a connected socket.
func (n narrower) datagrams(t *testing.T, f topology.Family) {
	asked := askDatagrams(t, n.ClientEth0, n.Server.Eth1, f)
	asked.send(t, 1500)
	asked.wantTooLarge(t)
	n.set(t, 1300)
	asked.send(t, 1400)
	asked.wantTooLarge(t)
	asked.send(t, 1300)
	asked.wantArrival(t, 1300)
}
