// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"net"
	"net/netip"
	"testing"

	"replypath/bpf"
)

// follow sets what happens to a flow that starts to arrive another way.
func (b *bed) follow(how bpf.DatapathFollow) {
	b.t.Helper()
	b.configure(func(s *bpf.DatapathSettings) { s.Follow = uint8(how) })
}

const contested = bpf.DatapathEventEVENT_REFUSED_CONTESTED

// flowOf enters a flow in the table that its message belongs to.
func flowOf(m message, f bpf.DatapathFlow) func(tables) {
	if _, ok := m.(tcp); ok {
		return establishedFlow(f)
	}
	return connectionlessFlow(f)
}

// follows is the effect of a frame that takes its flow along to the interface
// and the MAC that it came by.
func (b *bed) follows(n network, m message, old bpf.DatapathFlow, via nic) effect {
	b.t.Helper()
	moved := b.flow(n, m, via, 0)
	moved.Created, moved.Seen, moved.Corrected = old.Created, justNow, old.Corrected
	moved.Flags |= old.Flags & flagReset
	moved.State = old.State &^ (stateAsymmetric | stateCorrected)
	moved.SndUna, moved.SndNxt = old.SndUna, old.SndNxt
	return effect{
		events: events{bpf.DatapathEventEVENT_MOVED + bpf.DatapathEvent(class(m.protocol(n))): 1},
		tables: flowOf(m, moved),
	}
}

// followers are packets of flows that are known.
var followers = append([]struct {
	name string
	message
}{{"tcp", tcp{flags: "A", seq: 1, ack: 1}}}, starters[1:]...)

// eachWay runs a test for both families, every kind of flow and two other ways
// than the flow's: another interface, and another MAC on the same one.
func eachWay(t *testing.T, f func(t *testing.T, b *bed, n network, m message, other nic)) {
	t.Helper()
	for _, m := range followers {
		t.Run(m.name, func(t *testing.T) {
			eachFamily(t, func(t *testing.T, b *bed, n network) {
				second := b.replication
				second.router = net.HardwareAddr{2, 0, 0, 0, 1, 0x22}
				for _, way := range []struct {
					name string
					nic
				}{{"interface", b.backup}, {"mac", second}} {
					t.Run(way.name, func(t *testing.T) { f(t, newBed(t, normal), n, m.message, way.nic) })
				}
			})
		})
	}
}

func TestFollowPinned(t *testing.T) {
	eachWay(t, func(t *testing.T, b *bed, n network, m message, other nic) {
		b.follow(bpf.DatapathFollowFOLLOW_PINNED)
		b.put(flowOf(m, b.flow(n, m, b.replication, 20)))
		b.run(ingress(other, n.in(other, m)), unread(bpf.DatapathEventEVENT_REFUSED_PINNED))
	})
}

func TestFollowLatest(t *testing.T) {
	eachWay(t, func(t *testing.T, b *bed, n network, m message, other nic) {
		b.follow(bpf.DatapathFollowFOLLOW_LATEST)
		flow := b.flow(n, m, b.replication, 0)
		flow.Flags |= flagActive
		flow.State = stateAsymmetric | stateCorrected
		flow.Corrected = 9
		b.put(flowOf(m, flow))
		b.run(ingress(other, n.in(other, m)), b.follows(n, m, flow, other))
	})
}

func TestFollowUnmanagedInterface(t *testing.T) {
	eachWay(t, func(t *testing.T, b *bed, n network, m message, other nic) {
		if other.Index != b.backup.Index {
			return
		}
		b.follow(bpf.DatapathFollowFOLLOW_LATEST)
		b.put(flowOf(m, b.flow(n, m, b.replication, 0)))
		b.unmanage(b.backup)
		b.run(ingress(other, n.in(other, m)), unread(bpf.DatapathEventEVENT_IGNORED_INTERFACE))
	})
}

// TestFollowValidatedWithoutSocket: nobody vouches for the segment.
func TestFollowValidatedWithoutSocket(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		b.put(establishedFlow(b.flow(n, tcp{}, b.replication, 20)))
		for _, flags := range []string{"A", "R", "RA", "FA", ""} {
			b.run(ingress(b.backup, n.in(b.backup, tcp{flags: flags})), unread(contested))
		}
	})
}

// TestFollowValidated holds segments against a real socket at every bound.
func TestFollowValidated(t *testing.T) {
	const slack = 65536
	small := connection{received: 1 << 20, acked: 1 << 24, unacked: 1000, window: 4096}
	large := connection{received: 1 << 20, acked: 1 << 24, window: 1 << 20}
	wrapped := connection{received: 100, acked: 1<<32 - 500, unacked: 1000, window: 4096}
	for _, test := range []struct {
		name     string
		state    connection
		flags    string
		seq, ack uint32
		good     bool
	}{
		{"expected", small, "A", small.received, small.acked, true},
		{"with data", small, "PA", small.received, small.acked, true},
		{"all acknowledged", small, "A", small.received, small.acked + 1000, true},
		{"acknowledges what was not sent", small, "A", small.received, small.acked + 1001, false},
		{"acknowledges again", small, "A", small.received, small.acked - 1, false},
		{"oldest sequence number", small, "A", small.received - slack, small.acked, true},
		{"too old", small, "A", small.received - slack - 1, small.acked, false},
		{"newest sequence number", small, "A", small.received + slack, small.acked, true},
		{"too new", small, "A", small.received + slack + 1, small.acked, false},
		{"end of a large window", large, "A", large.received + large.window, large.acked, true},
		{"beyond a large window", large, "A", large.received + large.window + 1, large.acked, false},
		{"no acknowledgement", small, "P", small.received, small.acked, false},
		{"no flags", small, "", small.received, small.acked, false},
		{"end of the connection", small, "FA", small.received, small.acked, true},
		{"around the wrap, lowest", wrapped, "A", wrapped.received - slack, wrapped.acked, true},
		{"around the wrap, highest", wrapped, "A", wrapped.received + slack, 500, true},
		{"around the wrap, too low", wrapped, "A", wrapped.received, wrapped.acked - 1, false},
		{"around the wrap, too high", wrapped, "A", wrapped.received, 501, false},
		{"opposite", small, "A", small.received + 1<<31, small.acked + 1<<31, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			eachFamily(t, func(t *testing.T, b *bed, n network) {
				socket := connectTCP(t, netip.AddrPortFrom(n.self, selfPort), netip.AddrPortFrom(n.peer, peerPort), test.state)
				defer closeSocket(t, socket)
				flow := b.flow(n, tcp{}, b.replication, 0)
				flow.State = stateAsymmetric | stateCorrected
				b.put(establishedFlow(flow))
				want := unread(contested)
				if test.good {
					want = b.follows(n, tcp{}, flow, b.backup)
				}
				b.run(ingress(b.backup, n.in(b.backup, tcp{flags: test.flags, seq: test.seq, ack: test.ack})), want)
			})
		})
	}
}

var timeWaitPort uint16 = 20_000

// TestFollowTimeWait holds segments against what is left of a connection that the host has
// ended: what its peer sends again by another way moves the flow, a RST that is exact ends
// it, and nothing is taken up as a flow of its own, as nobody knows any more who opened it.
func TestFollowTimeWait(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		n = newcomer(n)
		timeWaitPort++ // which the last one still holds
		m := tcp{ports: ports{peer: 4711, self: timeWaitPort}}
		c := acceptedTimeWait(t, netip.AddrPortFrom(n.self, m.self), netip.AddrPortFrom(n.peer, m.peer))
		for _, test := range []struct {
			flags    string
			seq, ack uint32
			good     bool
		}{
			{"FA", c.received - 1, c.acked, true},
			{"A", c.received - 65536, c.acked, true},
			{"A", c.received + 65536, c.acked, true},
			{"A", c.received + 65537, c.acked, false},
			{"A", c.received, c.acked - 1, false},
			{"A", c.received, c.acked + 1, false},
			{"F", c.received, c.acked, false},
		} {
			m.flags, m.seq, m.ack = test.flags, test.seq, test.ack
			flow := b.flow(n, m, b.replication, 0)
			flow.State |= stateClosing
			b.put(establishedFlow(flow))
			want := unread(contested)
			if test.good {
				want = b.follows(n, m, flow, b.backup)
			}
			frame := n.in(b.backup, m)
			b.run(ingress(b.backup, frame), want)
			b.put()
			b.run(ingress(b.backup, frame), unread(bpf.DatapathEventEVENT_IGNORED_SEGMENT))
		}
		m.flags, m.seq, m.ack = "R", c.received, 0
		flow := b.flow(n, m, b.replication, 0)
		b.put(establishedFlow(flow))
		flow.Flags |= flagReset
		flow.Seen = justNow
		b.run(ingress(b.backup, n.in(b.backup, m)), effect{tables: establishedFlow(flow)})
		m.flags, m.seq = "SA", c.received
		b.put()
		b.run(ingress(b.backup, n.in(b.backup, m)), unread(bpf.DatapathEventEVENT_IGNORED_SEGMENT))
	})
}

// TestFollowValidatedListener: a listening socket answers for the port, not for
// a connection.
func TestFollowValidatedListener(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		socket := listenTCP(t, netip.AddrPortFrom(n.self, selfPort))
		defer closeSocket(t, socket)
		b.put(establishedFlow(b.flow(n, tcp{}, b.replication, 0)))
		b.run(ingress(b.backup, n.in(b.backup, tcp{flags: "A"})), unread(contested))
	})
}

// TestFollowValidatedOtherSocket: a connection with another peer does not vouch.
func TestFollowValidatedOtherSocket(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		state := connection{received: 1000, acked: 2000, window: 4096}
		socket := connectTCP(t, netip.AddrPortFrom(n.self, selfPort), netip.AddrPortFrom(n.peer, peerPort+1), state)
		defer closeSocket(t, socket)
		b.put(establishedFlow(b.flow(n, tcp{}, b.replication, 0)))
		b.run(ingress(b.backup, n.in(b.backup, tcp{flags: "A", seq: 1000, ack: 2000})), unread(contested))
	})
}

// eachDatagramWay is eachWay for what has no connection, in validated mode.
func eachDatagramWay(t *testing.T, f func(t *testing.T, b *bed, n network, m message, other nic)) {
	eachWay(t, func(t *testing.T, b *bed, n network, m message, other nic) {
		if _, ok := m.(tcp); !ok {
			f(t, b, n, m, other)
		}
	})
}

// TestFollowSilent: a flow without a connection moves when its own way has been
// silent for a second: one forged datagram does not steer answers.
func TestFollowSilent(t *testing.T) {
	eachDatagramWay(t, func(t *testing.T, b *bed, n network, m message, other nic) {
		r := ingress(other, n.in(other, m))
		b.inOneTick(r, func() effect {
			flow := b.flow(n, m, b.replication, 1)
			flow.Seen++
			b.put(flowOf(m, flow))
			return unread(contested)
		})
		flow := b.flow(n, m, b.replication, 1)
		b.put(flowOf(m, flow))
		b.run(r, b.follows(n, m, flow, other))
	})
}

// TestFollowActive: frames came in after the entry's time was written, so nobody
// knows for how long its way has been silent: the measurement begins anew.
func TestFollowActive(t *testing.T) {
	eachDatagramWay(t, func(t *testing.T, b *bed, n network, m message, other nic) {
		flow := b.flow(n, m, b.replication, 20)
		flow.Flags |= flagActive
		b.put(flowOf(m, flow))
		flow.Flags &^= flagActive
		flow.Seen = justNow
		want := unread(contested)
		want.tables = flowOf(m, flow)
		b.run(ingress(other, n.in(other, m)), want)
	})
}

// TestFollowLinkDown: no second is lost when the flow's own way is down.
func TestFollowLinkDown(t *testing.T) {
	eachDatagramWay(t, func(t *testing.T, b *bed, n network, m message, other nic) {
		b.manage(b.replication, func(r *bpf.DatapathInterface) { r.Flags = 0 })
		flow := b.flow(n, m, b.replication, 0)
		flow.Flags |= flagActive
		b.put(flowOf(m, flow))
		b.run(ingress(other, n.in(other, m)), b.follows(n, m, flow, other))
	})
}

// TestFollowLinkUnseen: what the kernel says of the link counts, not what the loader said last.
func TestFollowLinkUnseen(t *testing.T) {
	eachDatagramWay(t, func(t *testing.T, b *bed, n network, m message, other nic) {
		flow := b.flow(n, m, b.replication, 0)
		b.manage(b.replication, func(r *bpf.DatapathInterface) { r.Flags = 0 })
		b.setCarrier(b.replication, true)
		b.put(flowOf(m, flow))
		b.run(ingress(other, n.in(other, m)), unread(contested))
		b.manage(b.replication, nil)
		b.cutCable(b.replication)
		b.run(ingress(other, n.in(other, m)), b.follows(n, m, flow, other))
	})
}

// TestFollowDeviceGone: nor where its device has gone, and nobody lived to tell.
func TestFollowDeviceGone(t *testing.T) {
	eachDatagramWay(t, func(t *testing.T, b *bed, n network, m message, other nic) {
		b.must(b.SetDevice(uint32(b.replication.interfaceIndex), 0))
		flow := b.flow(n, m, b.replication, 0)
		flow.Flags |= flagActive
		b.put(flowOf(m, flow))
		b.run(ingress(other, n.in(other, m)), b.follows(n, m, flow, other))
	})
}

func TestFollowInterfaceGone(t *testing.T) {
	eachDatagramWay(t, func(t *testing.T, b *bed, n network, m message, other nic) {
		if other.Index != b.backup.Index {
			return
		}
		b.unmanage(b.replication)
		flow := b.flow(n, m, b.replication, 0)
		b.put(flowOf(m, flow))
		b.run(ingress(other, n.in(other, m)), b.follows(n, m, flow, other))
	})
}

// TestFollowWithoutSettings: nothing moves before the loader has said how.
func TestFollowWithoutSettings(t *testing.T) {
	eachWay(t, func(t *testing.T, b *bed, n network, m message, other nic) {
		b.must(b.SetSettings(bpf.DatapathSettings{}))
		b.put(flowOf(m, b.flow(n, m, b.replication, 0)))
		b.run(ingress(other, n.in(other, m)), unread(contested))
	})
}
