// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"errors"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"

	"replypath/bpf"
)

// TestSentAgain: what the host sends again of a connection that it has closed goes by its flow, for a quarter of an hour,
// and has its time begin anew. A RST or a SYN is none of that; nor is anything where the tuple has another connection.
func TestSentAgain(t *testing.T) {
	const longest = uint32(bpf.DatapathIdleSecondsIDLE_UNANSWERED)
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		again := egress(b.production, n.out(b.production, tcp{flags: "PA", seq: 4711}))
		b.inOneTick(again, func() effect {
			flow := b.closing(n, b.replication, longest)
			b.put(establishedFlow(flow))
			want := b.moves(n, tcp{}, b.production, b.replication, again.frame)
			flow.Seen, flow.State = justNow, flow.State|stateAsymmetric
			want.tables = establishedFlow(flow)
			return want
		})
		flow := b.closing(n, b.replication, longest)
		flow.Seen--
		b.put(establishedFlow(flow))
		b.run(again, nothing)
		for _, flags := range []string{"R", "SA"} {
			b.put(establishedFlow(b.closing(n, b.replication, idleClosing+1)))
			b.run(egress(b.production, n.out(b.production, tcp{flags: flags, seq: 4711})), nothing)
		}
		b.put(establishedFlow(b.closing(n, b.replication, idleClosing+1)), halfOpen(b.answered(n, b.backup, 0)))
		b.run(again, nothing)
	})
}

// TestResetOfFilter: a RST that leaves while the socket goes on is a filter's answer to a segment that may be forged.
func TestResetOfFilter(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		flow := b.flow(n, tcp{}, b.replication, 5)
		reset := egress(b.replication, n.out(b.replication, tcp{flags: "R", seq: 4711}))
		fd := connectTCP(t, n.here(), n.there(), connection{received: 1000, acked: 2000, window: 4096})
		b.put(establishedFlow(flow))
		b.run(reset, nothing)
		closeSocket(t, fd)
		flow.State, flow.Seen = stateClosing, justNow
		b.run(reset, effect{tables: establishedFlow(flow)})
	})
}

// TestEstablishedIdle: an idle entry counts as none, in both directions.
func TestEstablishedIdle(t *testing.T) {
	for _, test := range []struct {
		name  string
		limit uint32
		flags uint16
		state uint8
	}{
		{"established", idleEstablished, 0, 0},
		{"closing", idleClosing, 0, stateClosing},
		{"reset", idleClosing, flagReset, 0},
	} {
		under(t, test.name, eachFamily, func(t *testing.T, b *bed, n network) {
			entry := func() bpf.DatapathFlow {
				flow := b.flow(n, tcp{}, b.replication, test.limit)
				flow.Flags |= test.flags
				flow.State |= test.state
				return flow
			}
			out := egress(b.production, n.out(b.production, tcp{flags: "A"}))
			b.inOneTick(out, func() effect {
				b.put(establishedFlow(entry()))
				return b.moves(n, tcp{}, b.production, b.replication, out.frame)
			})
			idle := entry()
			idle.Seen -= yearsAgo
			b.put(establishedFlow(idle))
			b.run(out, nothing)
			idle = entry()
			idle.Seen--
			b.put(establishedFlow(idle))
			if test.state == 0 {
				b.run(out, nothing)
			} // else it is sent again: see TestSentAgain
			b.arrives(n, tcp{flags: "A"}, b.meetsStranger(n, b.replication))
			b.run(ingress(b.backup, n.in(b.backup, tcp{flags: "A"})), b.meetsStranger(n, b.backup))
		})
	}
}

const tcpSynRecv = 3 // a state (include/net/tcp_states.h)

func stateOf(t testing.TB, fd int) uint8 {
	t.Helper()
	info, err := unix.GetsockoptTCPInfo(fd, unix.SOL_TCP, unix.TCP_INFO)
	if err != nil {
		t.Fatal(err)
	}
	return info.State
}

// openTCP has the host open a connection to the peer, who does not answer.
func openTCP(t *testing.T, n network) int {
	t.Helper()
	return openWith(t, n.inet(), unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0, leaveNothing, bindTo(n.here()), func(fd int) error {
		if err := connectTo(n.there())(fd); !errors.Is(err, unix.EINPROGRESS) {
			return errors.Join(err, errors.New("the connection is not under way"))
		}
		return nil
	})
}

// leaveNothing has a connection be over once its socket is closed.
func leaveNothing(fd int) error {
	return unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
}

// TestSimultaneousOpen: while the host opens a connection, its peer's SYN for the same one is an answer (RFC 9293,
// 3.5). For a socket that listens it is another connection.
func TestSimultaneousOpen(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		question := ingress(b.replication, n.in(b.replication, syn))
		fd := openTCP(t, n)
		b.put(b.sent(n, syn, 0))
		b.run(question, unread(eventIgnoredAnswer))
		b.must(unix.Shutdown(fd, unix.SHUT_RDWR)) // gives up

		b.run(question, b.starts(n, syn, b.replication))
	})
}

// setTCP changes a setting of TCP for the time of the test.
func setTCP(t *testing.T, name string, value int) {
	t.Helper()
	setting := "/proc/sys/net/ipv4/" + name
	var before []byte
	err := host.Do(func() (err error) {
		if before, err = os.ReadFile(setting); err != nil {
			return err
		}
		return os.WriteFile(setting, []byte(strconv.Itoa(value)), 0)
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := host.Do(func() error { return os.WriteFile(setting, before, 0) }); err != nil {
			t.Error(err)
		}
	})
}

// asksListener has a SYN come in by the wire, and returns the ACK that ends the handshake, and what has it come in.
func (b *bed) asksListener(n network, m tcp) (ack tcp, send func()) {
	b.t.Helper()
	wire := b.listen(b.replication.OtherEnd)
	b.must(sendFrame(wire, b.replication.OtherEnd, n.in(b.replication, m)))
	for buffer := make([]byte, 1<<16); ; {
		packet := gopacket.NewPacket(buffer[:b.read(wire, buffer)], layers.LayerTypeEthernet, gopacket.Default)
		if answer, ok := packet.Layer(layers.LayerTypeTCP).(*layers.TCP); ok && answer.SYN && answer.ACK && answer.DstPort == peerPort {
			ack = tcp{flags: "A", seq: answer.Ack, ack: answer.Seq + 1}
			return ack, func() { b.must(sendFrame(wire, b.replication.OtherEnd, n.in(b.replication, ack))) }
		}
	}
}

func setTimeout(fd int) error {
	return unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 10})
}

// TestLastACK: the ACK that ends a handshake whose entry is gone proves by its number that the peer is there, be it that a
// request remembers it or a SYN cookie; by any other number it proves nothing.
func TestLastACK(t *testing.T) {
	for name, cookies := range map[string]int{"request": 1, "cookie": 2} {
		under(t, name, eachFamily, func(t *testing.T, b *bed, n network) {
			setTCP(t, "tcp_syncookies", cookies)
			listener := listenTCP(t, n.here())
			defer closeSocket(t, listener)
			ack, send := b.asksListener(n, syn)
			off := uint32(1)
			if cookies == 2 {
				off = 4 // so many cookies are good, one for each size of segments (msstab in net/ipv4/syncookies.c)
			}
			for _, change := range []func(*tcp){
				func(m *tcp) { m.ack += off }, func(m *tcp) { m.ack -= off }, func(m *tcp) { m.seq += 1 << 17 }, func(m *tcp) { m.flags = "P" },
			} {
				forged := ack
				change(&forged)
				want := effect{events: events{}}
				if cookies == 2 { // nobody remembers a request: a RST answers
					want = b.strays(n, forged, b.replication)
				}
				want.events[eventIgnoredSegment] = 1
				b.arrives(n, forged, want)
				b.put()
			}
			b.arrives(n, ack, b.adopts(n, b.replication, ack, 0))
			if cookies == 1 { // a request would stay a second longer than its listener
				send()
				b.must(setTimeout(listener))
				accepted, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC)
				b.must(err)
				b.must(unix.Shutdown(accepted, unix.SHUT_WR)) // what the host has closed is entered as closing
				b.put()
				want := b.adopts(n, b.replication, ack, stateClosing)
				b.arrives(n, ack, want)
				abort(t, accepted)
			}
		})
	}
}

// TestFinalACK tries every bound of what answers a SYN-ACK.
func TestFinalACK(t *testing.T) {
	const wrapping, last = 1<<32 - 3, 1<<32 - 1
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		for _, test := range []struct {
			name          string
			isn, nxt, ack uint32
			good          bool
		}{
			{"one too low", ourISN, ourISN + 1, ourISN, false},
			{"right", ourISN, ourISN + 1, ourISN + 1, true},
			{"one too high", ourISN, ourISN + 1, ourISN + 2, false},
			{"zero", ourISN, ourISN + 1, 0, false},
			{"opposite", ourISN, ourISN + 1, ourISN + 1 + 1<<31, false},
			{"lowest with data", ourISN, ourISN + 11, ourISN + 1, true},
			{"within the data", ourISN, ourISN + 11, ourISN + 6, true},
			{"all data", ourISN, ourISN + 11, ourISN + 11, true},
			{"beyond the data", ourISN, ourISN + 11, ourISN + 12, false},
			{"wrapped", last, 0, 0, true},
			{"one too low, wrapped", last, 0, last, false},
			{"one too high, wrapped", last, 0, 1, false},
			{"data over the wrap, low", wrapping, 7, wrapping + 1, true},
			{"data over the wrap, high", wrapping, 7, 7, true},
			{"data over the wrap, too low", wrapping, 7, wrapping, false},
			{"data over the wrap, too high", wrapping, 7, 8, false},
		} {
			b.sub(test.name, func(t *testing.T) {
				flow := b.answered(n, b.replication, 1)
				flow.SndUna, flow.SndNxt = test.isn, test.nxt
				flow.State |= stateAsymmetric | stateCorrected
				flow.Flags |= flagActive
				flow.Corrected = 2
				b.put(halfOpen(flow))
				ack := tcp{flags: "A", ack: test.ack}
				b.arrives(n, ack, either(test.good, establishes(flow, ack), unread(bpf.DatapathEventEVENT_IGNORED_HANDSHAKE)))
			})
		}
	})
}

var connectionFamily = map[string]story{
	"established refresh": func(t *testing.T, b *bed, n network) {
		for _, flags := range []string{"A", "PA", "FA"} {
			b.refreshes(n, tcp{}, n.in(b.replication, tcp{flags: flags}))
		}
	},
	"the peer's SYN of a simultaneous open is sent again": func(t *testing.T, b *bed, n network) {
		fd := openTCP(t, n)
		b.put(b.sent(n, syn, 0))
		wire := openWith(t, unix.AF_PACKET, unix.SOCK_RAW, 0)
		b.must(sendFrame(wire, b.replication.OtherEnd, n.in(b.replication, syn))) // to the kernel itself
		for deadline := time.Now().Add(10 * time.Second); stateOf(t, fd) != tcpSynRecv; {
			if time.Now().After(deadline) {
				t.Fatalf("the socket is in state %d, not %d", stateOf(t, fd), tcpSynRecv)
			}
		}
		b.arrives(n, syn, unread(eventIgnoredAnswer))
	},
	"it is chosen anew where the SYN is not of this very second": func(t *testing.T, b *bed, n network) {
		for age, known := range map[uint32]bool{0: false, 1: true} {
			r := ingress(b.replication, n.in(b.replication, finalAck))
			b.inOneTick(r, func() effect {
				flow := b.answered(n, b.replication, age)
				flow.Gateway, flow.Flags = 0, 0
				b.put(halfOpen(flow))
				if known {
					flow.Gateway, flow.Flags = b.replication.gateway(n.family), flagGateway
				}
				return establishes(flow, finalAck)
			})
		}
	},
	"final ACK late": func(t *testing.T, b *bed, n network) {
		r := ingress(b.replication, n.in(b.replication, finalAck))
		b.inOneTick(r, func() effect {
			flow := b.answered(n, b.replication, idleHalfOpen)
			b.put(halfOpen(flow))
			return establishes(flow, finalAck)
		})
		flow := b.answered(n, b.replication, idleHalfOpen)
		flow.Seen--
		b.put(halfOpen(flow))
		b.run(r, b.meetsStranger(n, b.replication))
	},
}

func TestConnectionFamily(t *testing.T) { tell(t, eachFamily, connectionFamily) }
