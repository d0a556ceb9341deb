// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"errors"
	"net/netip"
	"os"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"replypath/bpf"
)

// States of a TCP socket (include/net/tcp_states.h).
const (
	tcpSynRecv   = 3
	tcpFinWait1  = 4
	tcpFinWait2  = 5
	tcpCloseWait = 8
	tcpLastAck   = 9
	tcpClosing   = 11
)

// ending is a state in which a connection is that ends, how it gets there, and what the peer
// sends then.
type ending struct {
	name    string
	state   uint8
	steps   []func(*bed, network, int)
	segment tcp
}

// Of a connection that stands like this.
var standingAt = connection{received: peerISN + 100, acked: ourISN + 200, window: 4096}

var endings = []ending{
	{"FIN-WAIT-1", tcpFinWait1, []func(*bed, network, int){weEnd}, fromPeer(0, 0)},
	{"FIN-WAIT-2", tcpFinWait2, []func(*bed, network, int){weEnd, peerSends(fromPeer(0, 1))}, fromPeer(0, 1)},
	{"CLOSING", tcpClosing, []func(*bed, network, int){weEnd, peerSends(fin)}, fromPeer(1, 0)},
	{"CLOSE-WAIT", tcpCloseWait, []func(*bed, network, int){peerSends(fin)}, fromPeer(1, 0)},
	{"LAST-ACK", tcpLastAck, []func(*bed, network, int){peerSends(fin), weEnd}, fromPeer(1, 0)},
}

var fin = tcp{flags: "FA", seq: standingAt.received, ack: standingAt.acked}

// fromPeer is a segment that follows so many numbers of the peer's and acknowledges so many of
// ours.
func fromPeer(sent, acked uint32) tcp {
	return tcp{flags: "A", seq: standingAt.received + sent, ack: standingAt.acked + acked}
}

func weEnd(b *bed, _ network, fd int) { b.must(unix.Shutdown(fd, unix.SHUT_WR)) }

// peerSends has a segment come in by the wire, to the kernel itself.
func peerSends(m tcp) func(*bed, network, int) {
	return func(b *bed, n network, fd int) {
		b.t.Helper()
		before := stateOf(b.t, fd)
		wire := openWith(b.t, unix.AF_PACKET, unix.SOCK_RAW, 0)
		b.must(sendFrame(wire, b.replication.OtherEnd, n.in(b.replication, m)))
		for deadline := time.Now().Add(10 * time.Second); stateOf(b.t, fd) == before; {
			if time.Now().After(deadline) {
				b.t.Fatalf("a segment with %s leaves the socket in state %d", m.flags, before)
			}
		}
	}
}

func stateOf(t testing.TB, fd int) uint8 {
	t.Helper()
	info, err := unix.GetsockoptTCPInfo(fd, unix.SOL_TCP, unix.TCP_INFO)
	if err != nil {
		t.Fatal(err)
	}
	return info.State
}

// TestFollowEnding: a connection that ends can be asked about its segments until it is over.
func TestFollowEnding(t *testing.T) {
	for _, e := range endings {
		t.Run(e.name, func(t *testing.T) {
			eachFamily(t, func(t *testing.T, b *bed, n network) {
				fd := connectTCP(t, netip.AddrPortFrom(n.self, selfPort), netip.AddrPortFrom(n.peer, peerPort), standingAt)
				t.Cleanup(func() { abort(t, fd) })
				b.must(unix.SetsockoptInt(fd, unix.SOL_TCP, unix.TCP_REPAIR, tcpRepairOffSilently))
				for _, step := range e.steps {
					step(b, n, fd)
				}
				if state := stateOf(t, fd); state != e.state {
					t.Fatalf("the socket is in state %d, not %d", state, e.state)
				}
				forged := e.segment
				forged.ack += 1 << 20
				old := b.flow(n, tcp{}, b.replication, 0)
				b.put(establishedFlow(old))
				b.run(ingress(b.backup, n.in(b.backup, forged)), unread(contested))
				b.run(ingress(b.backup, n.in(b.backup, e.segment)), b.follows(n, e.segment, old, b.backup))
			})
		})
	}
}

// openTCP has the host open a connection to the peer, who does not answer.
func openTCP(t *testing.T, n network) int {
	t.Helper()
	self, peer := netip.AddrPortFrom(n.self, selfPort), netip.AddrPortFrom(n.peer, peerPort)
	return openWith(t, n.inet(), unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0, leaveNothing, bindTo(self), func(fd int) error {
		if err := connectTo(peer)(fd); !errors.Is(err, unix.EINPROGRESS) {
			return errors.Join(err, errors.New("the connection is not under way"))
		}
		return nil
	})
}

// leaveNothing has a connection be over once its socket is closed.
func leaveNothing(fd int) error {
	return unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
}

func wantSynRecv(t *testing.T, fd int) {
	t.Helper()
	if state := stateOf(t, fd); state != tcpSynRecv {
		t.Fatalf("the socket is in state %d, not %d", state, tcpSynRecv)
	}
}

// TestSimultaneousOpen: while the host opens a connection, its peer's SYN for the same one is an
// answer (RFC 9293, 3.5). For a socket that listens it is another connection.
func TestSimultaneousOpen(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		question := ingress(b.replication, n.in(b.replication, syn))
		fd := openTCP(t, n)
		b.put(b.sent(n, syn, 0))
		b.run(question, unread(bpf.DatapathEventEVENT_IGNORED_ANSWER))
		b.must(unix.Shutdown(fd, unix.SHUT_RDWR)) // gives up

		b.run(question, b.starts(n, syn, b.replication))
	})
}

// TestSimultaneousOpenSentAgain: so is the peer's SYN that it sends again, as the answer of the
// socket, which has taken the first, was lost.
func TestSimultaneousOpenSentAgain(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		fd := openTCP(t, n)
		b.put(b.sent(n, syn, 0))
		peerSends(syn)(b, n, fd)
		wantSynRecv(t, fd)
		b.run(ingress(b.replication, n.in(b.replication, syn)), unread(bpf.DatapathEventEVENT_IGNORED_ANSWER))
	})
}

// TestFastOpenSentAgain: the socket that Fast Open makes with the SYN is in the same state. That SYN,
// which is sent again, starts a connection, should its entry have been pushed out.
func TestFastOpenSentAgain(t *testing.T) {
	allowFastOpen(t)
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		listener := listenTCP(t, netip.AddrPortFrom(n.self, selfPort))
		defer closeSocket(t, listener)
		b.must(setOption(unix.SOL_TCP, unix.TCP_FASTOPEN, 1)(listener))
		m := syn
		m.payload = 20
		frame := n.in(b.replication, m)
		b.must(sendFrame(openWith(t, unix.AF_PACKET, unix.SOCK_RAW, 0), b.replication.OtherEnd, frame))
		child, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC)
		b.must(err)
		defer abort(t, child)
		wantSynRecv(t, child)
		b.run(ingress(b.replication, frame), b.starts(n, m, b.replication))
	})
}

// allowFastOpen lets servers of the namespace do without a cookie.
func allowFastOpen(t *testing.T) {
	t.Helper()
	const setting, server, withoutCookie = "/proc/sys/net/ipv4/tcp_fastopen", 0x2, 0x200
	var before []byte
	err := host.Do(func() (err error) {
		if before, err = os.ReadFile(setting); err != nil {
			return err
		}
		return os.WriteFile(setting, []byte(strconv.Itoa(server|withoutCookie)), 0)
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

// TestHandshakeExcludedMeanwhile: a forged ACK of a handshake whose peer has been excluded since
// does not keep the genuine one from ending it.
func TestHandshakeExcludedMeanwhile(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		flow := b.answered(n, b.replication, 0)
		b.put(halfOpen(flow))
		b.must(b.SetExclusions(exclusion(prefix(n.peer), netip.Prefix{}, 0, 0)))
		forged := finalAck
		forged.ack += 1000
		b.run(ingress(b.replication, n.in(b.replication, forged)), effect{events: events{
			bpf.DatapathEventEVENT_IGNORED_HANDSHAKE: 1,
			bpf.DatapathEventEVENT_IGNORED_EXCLUDED:  1,
		}})
		b.run(ingress(b.replication, n.in(b.replication, finalAck)), establishes(flow, finalAck))
	})
}

// TestHandshakeListener: the same where somebody listens, who will answer it with a RST.
func TestHandshakeListener(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		defer closeSocket(t, listenTCP(t, netip.AddrPortFrom(n.self, selfPort)))
		flow := b.answered(n, b.replication, 0)
		b.put(halfOpen(flow))
		forged := finalAck
		forged.ack += 1000
		b.run(ingress(b.replication, n.in(b.replication, forged)), effect{events: events{
			bpf.DatapathEventEVENT_IGNORED_HANDSHAKE: 1,
			bpf.DatapathEventEVENT_IGNORED_SEGMENT:   1,
		}})
		b.run(ingress(b.replication, n.in(b.replication, finalAck)), establishes(flow, finalAck))
	})
}
