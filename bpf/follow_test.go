// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"encoding/binary"
	"net"
	"testing"

	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/bpf/internal/rig"
)

func (b *bed) follow(how bpf.DatapathFollow) {
	b.t.Helper()
	b.configure(func(s *bpf.DatapathSettings) { s.Follow = uint8(how) })
}

const contested = bpf.DatapathEventEVENT_REFUSED_CONTESTED

func flowOf(m message, f bpf.DatapathFlow) func(tables) {
	if _, ok := m.(tcp); ok {
		return establishedFlow(f)
	}
	return connectionlessFlow(f)
}

// follows is the effect of a frame that takes its flow along to the interface and the MAC that it came by.
func (b *bed) follows(n network, m message, old bpf.DatapathFlow, via nic) effect {
	moved := b.flow(n, m, via, 0)
	moved.Created, moved.Seen, moved.Corrected = old.Created, justNow, old.Corrected
	moved.Flags |= old.Flags & flagReset
	moved.State = old.State &^ (stateAsymmetric | stateCorrected)
	moved.SndUna, moved.SndNxt = old.SndUna, old.SndNxt
	if segment, ok := m.(tcp); ok {
		moved = onTrial(moved, segment)
	} else {
		moved.Flags |= old.Flags & flagNoSocket
		moved.SndNxt, moved.RcvNxt = 0, old.RcvNxt
		if old.SndNxt != 0 {
			moved.RivalFrames = 3
		}
	}
	return effect{events: events{eventMoved + bpf.DatapathEvent(class(m.protocol(n))): 1}, tables: flowOf(m, moved)}
}

// followers are packets of flows that are known.
var followers = append([]struct {
	name string
	message
}{{"tcp", tcp{flags: "A", seq: 1, ack: 1}}}, starters[1:]...)

// eachWay runs a test for both families, every kind of flow and two other ways than the flow's: another interface,
// and another MAC on the same one.
func eachWay(t *testing.T, f func(t *testing.T, b *bed, n network, m message, other nic)) {
	t.Helper()
	for _, m := range followers {
		under(t, m.name, eachFamily, func(t *testing.T, b *bed, n network) {
			second := b.replication
			second.router = net.HardwareAddr{2, 0, 0, 0, 1, 0x22}
			for _, way := range []struct {
				name string
				nic
			}{{"interface", b.backup}, {"mac", second}} {
				t.Run(way.name, func(t *testing.T) { f(t, newBed(t, normal), n, m.message, way.nic) })
			}
		})
	}
}

// eachDatagramWay is eachWay for what has no connection, in validated mode.
func eachDatagramWay(t *testing.T, f func(t *testing.T, b *bed, n network, m message, other nic)) {
	eachWay(t, func(t *testing.T, b *bed, n network, m message, other nic) {
		if _, ok := m.(tcp); !ok {
			f(t, b, n, m, other)
		}
	})
}

// contend has so many frames of a flow without a connection have come by another way, the first so many seconds ago.
func (b *bed) contend(f *bpf.DatapathFlow, via nic, frames uint8, since uint32) {
	b.t.Helper()
	way := make([]byte, 8)
	copy(way, via.router)
	binary.NativeEndian.PutUint16(way[6:], uint16(via.Index))
	word := binary.NativeEndian.Uint64(way) // path_number() in src/follow.h
	f.SndNxt = uint32((word^word>>32)*0x9e3779b97f4a7c15>>32)&^2 | 1
	if b.owns(via, f.Tuple.Self) && f.Interface != via.id {
		f.SndNxt |= 2
	}
	f.RcvNxt, f.RivalFrames = b.ago(since), frames
}

// owns says whether an interface alone has an address.
func (b *bed) owns(via nic, address [16]byte) bool {
	b.t.Helper()
	var flags uint32
	b.must(b.OwnAddresses.Lookup(address, &flags))
	return flags>>bpf.DatapathOwnFlagsOWN_INTERFACE_SHIFT == uint32(via.id)
}

// contends is the effect of the next frame by that way while they prove nothing; the first: see contend.
func (b *bed) contends(f bpf.DatapathFlow, via nic, first bool) effect {
	want, since := unread(contested), f.RcvNxt
	b.contend(&f, via, min(f.RivalFrames+1, 3), 0)
	if f.RcvNxt = since; first {
		f.RcvNxt, f.RivalFrames = justNow, 1
	}
	want.tables = connectionlessFlow(f)
	return want
}

// TestFollowGateway: a gateway of the flow's own interface takes it after a second of silence, another's does not.
func TestFollowGateway(t *testing.T) {
	eachDatagramWay(t, func(t *testing.T, b *bed, n network, m message, other nic) {
		b.addGateway(other, n, 20, other.router)
		r := ingress(other, n.in(other, m))
		flow := b.flow(n, m, b.replication, 1)
		b.put(flowOf(m, flow))
		if other.Index != b.replication.Index {
			b.run(r, b.contends(flow, other, true))
			return
		}
		b.run(r, b.follows(n, m, flow, other))
		b.inOneTick(r, func() effect {
			flow := b.flow(n, m, b.replication, 1)
			flow.Seen++
			b.put(flowOf(m, flow))
			return b.contends(flow, other, true)
		})
		flow.Flags |= flagActive
		flow.Created--
		b.put(flowOf(m, flow))
		flow.Flags &^= flagActive
		b.run(r, b.contends(flow, other, true))
	})
}

// TestFollowOwner: of two ways by which frames come, that of the interface with the asked address goes before, whoever
// was first and whatever comes by the other one. Else the peer has to come by one way alone.
func TestFollowOwner(t *testing.T) {
	const limit = idleConnectionless
	for name, test := range map[string]struct {
		owner  int // the interface that alone has the address; 0: none
		flow   int // the flow's
		frames uint8
		since  uint32 // seconds: the first of them came by the other one
		moves  bool   // although frames came by the flow's own since
	}{
		"owner":                          {3, 2, 2, 10, true},
		"slow owner":                     {3, 2, 2, limit - 1, true},
		"owner, too seldom":              {3, 2, 2, limit + 1, false},
		"owner, too few":                 {3, 2, 1, 20, false},
		"owner, for too short a time":    {3, 2, 2, 8, false},
		"nobody's":                       {0, 2, 2, 10, false},
		"a third one's":                  {1, 2, 2, 10, false},
		"the flow's own interface's":     {2, 2, 2, 10, false},
		"owner, whose flow is by itself": {3, 3, 2, 10, false},
	} {
		under(t, name, eachDatagramWay, func(t *testing.T, b *bed, n network, m message, other nic) {
			own := b.replication
			if other.Index == own.Index {
				return // another router, not another interface
			}
			if test.flow == 3 {
				own, other = other, own
			}
			b.must(b.SetOwnAddress(n.self, ownAddress|bpf.DatapathOwnFlags(test.owner)<<bpf.DatapathOwnFlagsOWN_INTERFACE_SHIFT))
			b.renew()
			flow := b.flow(n, m, own, 0)
			flow.Flags |= flagActive
			b.contend(&flow, other, test.frames, test.since)
			b.put(flowOf(m, flow))
			isReset := !test.moves && test.since != 8 && test.frames != 1
			want := b.follows(n, m, flow, other)
			if flow.Flags &^= flagActive; !test.moves {
				want = b.contends(flow, other, isReset)
			}
			b.run(ingress(other, n.in(other, m)), want)

			flow.Seen -= b.Seconds(2) // the second is over
			b.put(flowOf(m, flow))
			if flow.Seen = justNow; isReset {
				flow.SndNxt = 0
			}
			b.run(ingress(own, n.in(own, m)), effect{tables: flowOf(m, flow)})
		})
	}
}

// silence has eth1's gateway not answer, and hold has it held until then.
func (b *bed) silence(n network) {
	b.t.Helper()
	b.must(b.SetGateway(uint32(b.replication.gateway(n.family)), bpf.DatapathGateway{
		Address: n.stranger.As16(), Ifindex: b.replication.Index, Mac: rig.MAC(b.replication.router),
	}))
}

func (b *bed) hold(n network, until uint32) {
	b.t.Helper()
	b.must(b.HoldGateway(b.replication.Index, rig.MAC(b.replication.router), n.family, until))
}

// remote is an established flow of a connection that has no socket here, as a container's: the peer's next byte is
// 5000, and of ours 1000 to 1999 are on their way.
func (b *bed) remote(n network, age uint32) bpf.DatapathFlow {
	f := b.flow(n, tcp{}, b.replication, age)
	f.Flags |= flagNoSocket
	f.SndUna, f.SndNxt, f.RcvNxt = 1000, 2000, 5000
	return f
}

// TestNoSocketFollows holds segments that come another way against what the entry saw, at every bound.
func TestNoSocketFollows(t *testing.T) {
	const slack = 65536
	for _, test := range []struct {
		name     string
		sent     uint32 // snd_nxt
		flags    string
		seq, ack uint32
		good     bool
	}{
		{"expected", 2000, "A", 5000, 1000, true},
		{"with data", 2000, "PA", 5000, 1500, true},
		{"end of the connection", 2000, "FA", 5000, 2000, true},
		{"oldest acknowledgement", 2000, "A", 5000, 1<<32 + 1000 - slack, true},
		{"acknowledgement too old", 2000, "A", 5000, 1<<32 + 999 - slack, false},
		{"newest acknowledgement", 2000, "A", 5000, 1000 + slack, true},
		{"acknowledgement too new", 2000, "A", 5000, 1001 + slack, false},
		{"much was sent", 200_000, "A", 5000, 200_000, true},
		{"more than that", 200_000, "A", 5000, 200_001, false},
		{"oldest sequence number", 2000, "A", 1<<32 + 5000 - slack, 1000, true},
		{"sequence number too old", 2000, "A", 1<<32 + 4999 - slack, 1000, false},
		{"newest sequence number", 2000, "A", 5000 + slack, 1000, true},
		{"sequence number too new", 2000, "A", 5001 + slack, 1000, false},
		{"no acknowledgement", 2000, "P", 5000, 1000, false},
	} {
		under(t, test.name, eachFamily, func(t *testing.T, b *bed, n network) {
			flow := b.remote(n, 20)
			flow.SndNxt = test.sent
			b.put(establishedFlow(flow))
			moved := flow
			moved.Seen, moved.Ifindex, moved.Interface = justNow, b.backup.Index, b.backup.id
			moved.Gateway, moved.Mac = b.backup.gateway(n.family), rig.MAC(b.backup.router)
			m := tcp{flags: test.flags, seq: test.seq, ack: test.ack, payload: 10}
			follows := effect{events: once(eventMoved + bpf.DatapathEvent(bpf.DatapathProtocolClassCLASS_TCP)), tables: establishedFlow(onTrial(moved, m))}
			b.run(ingress(b.backup, n.in(b.backup, m)), either(test.good, follows, unread(contested)))
		})
	}
}

// TestResetAhead: a reset may overtake what it follows, as the programs see a whole list of packets before the socket sees
// the first. By the flow's own way, and a moment after the last frame, it ends the flow as far as the window reaches.
func TestResetAhead(t *testing.T) {
	const most = 256 << 10
	narrow, wide := connection{received: 1000, acked: 2000, window: 4096}, connection{received: 1000, acked: 2000, window: 1 << 20}
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		for _, test := range []struct {
			socket connection
			via    nic
			age    uint32
			ahead  uint32
			ends   bool
		}{
			{narrow, b.replication, 0, 1, true},
			{narrow, b.replication, 0, 4096, true},
			{narrow, b.replication, 0, 4097, false},
			{narrow, b.replication, 0, 1<<32 - 1, false},
			{narrow, b.replication, 1, 1, false},
			{narrow, b.backup, 0, 1, false},
			{wide, b.replication, 0, most, true},
			{wide, b.replication, 0, most + 1, false},
		} {
			fd := connectTCP(t, n.here(), n.there(), test.socket)
			flow := b.flow(n, tcp{}, b.replication, test.age)
			b.put(establishedFlow(flow))
			want := either(test.via.Index == b.backup.Index, unread(contested), nothing)
			if test.ends {
				flow.Flags, flow.Seen = flow.Flags|flagReset, justNow
				want = effect{tables: establishedFlow(flow)}
			}
			b.run(ingress(test.via, n.in(test.via, tcp{flags: "R", seq: test.socket.received + test.ahead})), want)
			closeSocket(t, fd)
		}
	})
}

// TestResetOfRequest: the same where the last ACK of the handshake has not come to the socket yet.
func TestResetOfRequest(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		defer closeSocket(t, listenTCP(t, n.here()))
		b.must(sendFrame(openWith(t, unix.AF_PACKET, unix.SOCK_RAW, 0), b.replication.OtherEnd, n.in(b.replication, syn)))
		reset := ingress(b.replication, n.in(b.replication, tcp{flags: "R", seq: peerISN + 101}))
		flow := b.flow(n, syn, b.replication, 0)
		flow.RcvNxt = peerISN + 102
		b.put(establishedFlow(flow))
		b.run(reset, nothing)
		flow.RcvNxt = peerISN + 1
		b.put(establishedFlow(flow))
		flow.Flags, flow.Seen = flow.Flags|flagReset, justNow
		b.run(reset, effect{tables: establishedFlow(flow)})
		end := n.in(b.replication, tcp{flags: "R", seq: peerISN + 1})
		b.must(sendFrame(openWith(t, unix.AF_PACKET, unix.SOCK_RAW, 0), b.replication.OtherEnd, end))
	})
}

// TestResetUndone: a RST that was forged ends nothing, nor does the end of the connection before: what its socket takes
// from the peer goes on.
func TestResetUndone(t *testing.T) {
	state := connection{received: 1000, acked: 2000, window: 4096}
	for name, test := range map[string]struct {
		flags uint16
		state uint8
		ended bool // the host has closed the socket
	}{
		"RST":                       {flags: flagReset},
		"FIN of before":             {state: stateClosing},
		"both":                      {flags: flagReset, state: stateClosing},
		"FIN of the socket":         {state: stateClosing, ended: true},
		"FIN of the socket and RST": {flags: flagReset, state: stateClosing, ended: true},
	} {
		under(t, name, eachFamily, func(t *testing.T, b *bed, n network) {
			fd := connectTCP(t, n.here(), n.there(), state)
			defer abort(t, fd)
			if test.ended {
				b.must(unix.Shutdown(fd, unix.SHUT_WR))
			}
			for _, frame := range []struct {
				age, seq uint32
				undone   bool
			}{{2, 1000, true}, {0, 1000, false}, {2, 1000 + 1<<20, false}} {
				flow := b.flow(n, tcp{}, b.replication, frame.age)
				flow.Flags, flow.State = flow.Flags|test.flags, flow.State|test.state
				b.put(establishedFlow(flow))
				if frame.age > 0 {
					flow.Seen = justNow
				} else {
					flow.Flags |= flagActive
				}
				if frame.undone {
					flow.Flags &^= flagReset
				}
				if frame.undone && !test.ended {
					flow.State &^= stateClosing
				}
				b.arrives(n, tcp{flags: "A", seq: frame.seq, ack: 2000}, effect{tables: establishedFlow(flow)})
			}
		})
	}
}

// TestNoSocketReset: by another way a reset ends the flow only at the very byte that is expected; by its own, also
// after what our side has not acknowledged yet.
func TestNoSocketReset(t *testing.T) {
	const ahead = 256 << 10
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		flow := b.remote(n, 0)
		ended := flow
		ended.Flags |= flagReset
		ended.Seen = justNow
		for _, reset := range []struct {
			via  nic
			seq  uint32
			ends bool
		}{
			{b.replication, 4999, false}, {b.replication, 5000, true}, {b.replication, 5001, true},
			{b.replication, 5000 + ahead, true}, {b.replication, 5001 + ahead, false},
			{b.backup, 4999, false}, {b.backup, 5000, true}, {b.backup, 5001, false},
		} {
			b.put(establishedFlow(flow))
			want := nothing
			if reset.ends {
				want = effect{tables: establishedFlow(ended)}
			} else if reset.via.Index == b.backup.Index {
				want = unread(contested)
			}
			b.run(ingress(reset.via, n.in(reset.via, tcp{flags: "R", seq: reset.seq})), want)
		}
	})
}

// TestNoSocketKeepsNumbers: the flow's numbers are what our side sent, the highest, and acknowledged; of the peer
// only what it acknowledges of that.
func TestNoSocketKeepsNumbers(t *testing.T) {
	const slack = 65536
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		flow := b.remote(n, 0)
		flow.Flags |= flagActive
		b.put(establishedFlow(flow))
		receive := func(ack uint32, known uint32) {
			flow.SndUna = known
			b.run(ingress(b.replication, n.in(b.replication, tcp{flags: "PA", seq: 5000, ack: ack, payload: 100})),
				effect{tables: establishedFlow(flow)})
		}
		receive(1500, 1500)
		receive(1400, 1500) // late, or forged
		receive(2000, 2000)
		receive(2001, 2000) // nothing of ours

		send := func(segment tcp, sent, acknowledged uint32) {
			flow.SndNxt, flow.RcvNxt = sent, acknowledged
			b.run(egress(b.replication, n.out(b.replication, segment)), effect{tables: establishedFlow(flow)})
		}
		send(tcp{flags: "PA", seq: 2000, ack: 5100, payload: 100}, 2100, 5100)
		send(tcp{flags: "PA", seq: 1900, ack: 5100, payload: 100}, 2100, 5100) // sent again
		send(tcp{flags: "P", seq: 2100, ack: 7, payload: 10}, 2110, 5100)      // acknowledges nothing
		send(tcp{flags: "PA", seq: 1<<32 + 2000 - slack, ack: 5200}, 2110, 5200)
		send(tcp{flags: "PA", seq: 2310, ack: 5200, payload: 100}, 2410, 5200) // another CPU's comes later
		send(tcp{flags: "PA", seq: 2410 + slack, ack: 5200}, 2410+slack, 5200)

		flow.SndUna = 2411 + 2*slack // what is not near is another connection
		send(tcp{flags: "PA", seq: flow.SndUna, ack: 9000, payload: 20}, flow.SndUna+20, 9000)
		flow.SndUna += 1<<32 - 1 - slack
		send(tcp{flags: "PA", seq: flow.SndUna, ack: 9000, payload: 20}, flow.SndUna+20, 9000)
		flow.SndUna = 1 << 30
		send(tcp{flags: "A", seq: 1 << 30, ack: 9000}, 1<<30, 9000)

		flow.SndUna, flow.SndNxt = 1<<32-20, 1<<32-10
		b.put(establishedFlow(flow))
		send(tcp{flags: "A", seq: 1<<32 - 10, ack: 9000, payload: 30}, 20, 9000) // around the wrap

		send(tcp{flags: "RA", seq: 21 + slack, ack: 0}, 20, 9000) // the host's, not the connection's
		flow.Seen, flow.State = justNow, stateClosing
		send(tcp{flags: "RA", seq: 20, ack: 0}, 20, 9000)
	})
}

var followFamily = map[string]story{
	// Somebody may listen on a container's port.
	"a socket of SYN cookies is recognized with the next refresh": func(t *testing.T, b *bed, n network) {
		n = newcomer(n)
		c := accept(t, n)
		flow := b.remote(n, 2)
		b.put(establishedFlow(flow))
		segment := tcp{flags: "A", seq: c.received, ack: c.acked}
		known := b.flow(n, tcp{}, b.replication, 0)
		known.Created, known.Seen = flow.Created, justNow
		known.SndUna, known.SndNxt, known.RcvNxt = flow.SndUna, flow.SndNxt, flow.RcvNxt
		b.arrives(n, segment, effect{tables: establishedFlow(known)})
	},
}

func TestFollowFamily(t *testing.T) { tell(t, eachFamily, followFamily) }

// TestFollowUnusable: no second is lost when the flow's own way is down, as the kernel says, whatever the loader said
// last; nor where the interface or its device has gone, and nobody lived to tell; nor where its gateway is silent.
func TestFollowUnusable(t *testing.T) {
	flags := func(flags uint8) setup {
		return func(b *bed, _ network) { b.manage(b.replication, func(r *bpf.DatapathInterface) { r.Flags = flags }) }
	}
	for name, test := range map[string]struct {
		change setup
		usable bool
	}{
		"link down": {change: flags(0)},
		"the loader has not seen that it is up": {func(b *bed, n network) {
			flags(0)(b, n)
			b.setCarrier(b.replication, true)
		}, true},
		"the loader has not seen that it is down": {change: func(b *bed, n network) {
			flags(interfaceUp)(b, n)
			b.cutCable(b.replication)
		}},
		"device gone":    {change: func(b *bed, _ network) { b.must(b.SetDevice(uint32(b.replication.id), 0)) }},
		"interface gone": {change: func(b *bed, _ network) { b.unmanage(b.replication) }},
		"gateway silent": {change: func(b *bed, n network) { b.silence(n) }},
		"gateway held":   {change: func(b *bed, n network) { b.hold(n, b.ago(0)+b.Seconds(3)) }},
		"gateway held, and nobody has said so lately": {func(b *bed, n network) { b.hold(n, b.ago(1)) }, true},
	} {
		under(t, name, eachDatagramWay, func(t *testing.T, b *bed, n network, m message, other nic) {
			if name == "interface gone" && other.Index == b.replication.Index {
				return // nothing comes in by it
			}
			test.change(b, n)
			flow := b.flow(n, m, b.replication, 0)
			flow.Flags |= flagActive
			b.put(flowOf(m, flow))
			want := b.follows(n, m, flow, other)
			if flow.Flags &^= flagActive; test.usable {
				want = b.contends(flow, other, true)
			}
			b.run(ingress(other, n.in(other, m)), want)
		})
	}
}
