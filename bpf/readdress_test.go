// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"testing"

	"replypath/bpf"
)

// readdresses is the effect of a reply that the kernel sends by the right
// interface to the wrong neighbour.
func (b *bed) readdresses(n network, m message, via nic, frame []byte) effect {
	once := count{Packets: 1, Bytes: uint64(len(frame)), Flows: 1}
	return effect{
		frame: readdressed(frame, via.router, via.MAC),
		pairs: pairs{
			pair(via, via, n, m, bpf.DatapathOutcomeOUTCOME_ASYMMETRIC): once,
			pair(via, via, n, m, bpf.DatapathOutcomeOUTCOME_CORRECTED):  once,
		},
		tables: b.marked(n, m, stateAsymmetric|stateCorrected, 1),
	}
}

// marked sets state bits of the message's flow and adds to its corrected packets.
func (b *bed) marked(n network, m message, state uint8, corrected uint64) func(tables) {
	return func(t tables) {
		for _, table := range []map[bpf.DatapathTuple]bpf.DatapathFlow{t.HalfOpen, t.Established, t.Connectionless} {
			if f, ok := table[n.tuple(m)]; ok {
				f.State |= state
				f.Corrected += corrected
				table[n.tuple(m)] = f
			}
		}
	}
}

// eachEnforced runs a test for flows whose MAC is enforced on their own interface:
// by the last hop, and by one of several gateways.
func eachEnforced(t *testing.T, f func(t *testing.T, b *bed, n network, m message)) {
	t.Helper()
	for _, kind := range []struct {
		name  string
		mode  bpf.DatapathNextHopMode
		flags uint16
	}{{"last hop", lastHop, flagEnforceMAC}, {"several gateways", auto, flagEnforceMAC | flagGateway}} {
		t.Run(kind.name, func(t *testing.T) {
			eachReply(t, func(t *testing.T, b *bed, n network, m message) {
				b.manage(b.replication, func(r *bpf.DatapathInterface) { r.NextHop = uint8(kind.mode) })
				flow := b.flow(n, m, b.replication, 0)
				flow.Flags = kind.flags
				b.put(flowOf(m, flow))
				f(t, b, n, m)
			})
		})
	}
}

func TestReaddress(t *testing.T) {
	eachEnforced(t, func(t *testing.T, b *bed, n network, m message) {
		frame := n.out(b.replication, m, destinationMAC(neighbour))
		want := b.readdresses(n, m, b.replication, frame)
		b.run(egress(b.replication, frame), want)

		again := count{Packets: 1, Bytes: uint64(len(frame))}
		for p := range want.pairs {
			want.pairs[p] = again
		}
		want.tables = b.marked(n, m, 0, 1)
		b.run(egress(b.replication, frame), want)
	})
}

func TestReaddressAlreadyRight(t *testing.T) {
	eachEnforced(t, func(t *testing.T, b *bed, n network, m message) {
		b.run(egress(b.replication, n.out(b.replication, m)), nothing)
	})
}

// TestReaddressMoved: on another interface the MAC is set as everywhere.
func TestReaddressMoved(t *testing.T) {
	eachEnforced(t, func(t *testing.T, b *bed, n network, m message) {
		frame := n.out(b.production, m)
		b.run(egress(b.production, frame), b.moves(n, m, b.production, b.replication, frame))
	})
}

func TestReaddressObserved(t *testing.T) {
	eachEnforced(t, func(t *testing.T, b *bed, n network, m message) {
		b.switchMode(bpf.DatapathModeMODE_OBSERVE)
		frame := n.out(b.replication, m, destinationMAC(neighbour))
		b.run(egress(b.replication, frame), b.stays(n, m, b.replication, b.replication, frame, bpf.DatapathOutcomeOUTCOME_OBSERVE))
	})
}

func TestReaddressInterfaceGone(t *testing.T) {
	eachEnforced(t, func(t *testing.T, b *bed, n network, m message) {
		b.unmanage(b.replication)
		frame := n.out(b.replication, m, destinationMAC(neighbour))
		b.run(egress(b.replication, frame), effect{pairs: pairs{
			pair(b.replication, b.replication, n, m, bpf.DatapathOutcomeOUTCOME_LINK_DOWN): {Packets: 1, Bytes: uint64(len(frame))},
		}})
	})
}

// TestReaddressNoNextHop: the operator wants a gateway by now, and there is none.
func TestReaddressNoNextHop(t *testing.T) {
	eachReply(t, func(t *testing.T, b *bed, n network, m message) {
		b.manage(b.replication, func(r *bpf.DatapathInterface) {
			r.NextHop, r.Gateway4, r.Gateway6 = uint8(gatewayOnly), 0, 0
		})
		flow := b.flow(n, m, b.replication, 0)
		flow.Flags, flow.Gateway = flagEnforceMAC|flagGateway, 0
		b.put(flowOf(m, flow))
		frame := n.out(b.replication, m)
		b.run(egress(b.replication, frame), effect{pairs: pairs{
			pair(b.replication, b.replication, n, m, bpf.DatapathOutcomeOUTCOME_NO_NEXT_HOP): {Packets: 1, Bytes: uint64(len(frame))},
		}})
	})
}

// TestReaddressGatewayUnusable: without the gateway the MAC that the flow came
// from is the best there is.
func TestReaddressGatewayUnusable(t *testing.T) {
	eachReply(t, func(t *testing.T, b *bed, n network, m message) {
		b.must(b.SetGateway(uint32(b.replication.gateway(n.family)), bpf.DatapathGateway{}))
		flow := b.flow(n, m, b.replication, 0)
		flow.Flags = flagEnforceMAC | flagGateway
		b.put(flowOf(m, flow))
		frame := n.out(b.replication, m, destinationMAC(neighbour))
		b.run(egress(b.replication, frame), b.readdresses(n, m, b.replication, frame))
	})
}
