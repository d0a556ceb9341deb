// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"replypath/bpf"
)

// eachSender runs a test for both families, with what the kernel has and with what 5.10 has,
// with the programs attached.
func eachSender(t *testing.T, f func(*testing.T, *bed, network)) {
	eachVariant(t, func(t *testing.T, b *bed, n network) {
		b.attachEgress()
		f(t, b, n)
	})
}

// untakenSender is a UDP socket that sends by the tuple of a flow that nobody took.
type untakenSender struct {
	name   string
	self   func(network) netip.Addr // what it is bound to
	peer   uint16                   // port of the peer's that it is connected to; 0: to none
	begins func(*bed) bool          // whether it is the host's own beginning
}

func always(*bed) bool { return true }
func never(*bed) bool  { return false }

// tellsProxies: whether the programs can tell a transparent proxy's socket from others.
func tellsProxies(b *bed) bool { return b.Features.ProbeRead }

func (s *untakenSender) steps(n network) []step {
	steps := []step{bindTo(netip.AddrPortFrom(s.self(n), selfPort))}
	if s.peer != 0 {
		steps = append(steps, connectTo(netip.AddrPortFrom(n.peer, s.peer)))
	}
	return steps
}

var untakenSenders = []untakenSender{
	{"bound to the port", network.wildcard, 0, always},
	{"bound to the address", network.own, 0, tellsProxies},
	{"connected", network.own, peerPort, always},
	{"connected to another", network.own, peerPort + 1, never}, // the peer's answer would not be its
}

// TestUntakenBegins: a flow whose datagrams nobody took is over when a socket of the host's
// sends by its tuple. What is another's answer goes back by it.
func TestUntakenBegins(t *testing.T) {
	for _, s := range untakenSenders {
		t.Run(s.name, func(t *testing.T) {
			eachSender(t, func(t *testing.T, b *bed, n network) {
				m := udp{payload: 100}
				want := b.sentBy(n, m, b.backup)
				if s.begins(b) {
					want = b.beginsAnew(n, m)
				}
				b.put(connectionlessFlow(b.untaken(n, m, b.backup)))
				b.send(n, openWith(t, n.inet(), unix.SOCK_DGRAM, 0, s.steps(n)...), m, want)
			})
		})
	}
}

// TestUntakenRaw: what writes the UDP header itself may answer for others, though a socket of the
// host's would take the next datagram. The kernel shows the protocol of a raw socket as its port.
func TestUntakenRaw(t *testing.T) {
	for name, raw := range map[string]struct {
		protocol   int
		port       uint16
		withHeader bool
	}{"any protocol": {unix.IPPROTO_RAW, unix.IPPROTO_RAW, true}, "UDP": {unix.IPPROTO_UDP, selfPort, false}} {
		t.Run(name, func(t *testing.T) {
			eachSender(t, func(t *testing.T, b *bed, n network) {
				defer closeSocket(t, listenUDP(t, netip.AddrPortFrom(n.wildcard(), raw.port)))
				m := udp{ports: ports{self: raw.port}, payload: 100}
				b.put(connectionlessFlow(b.untaken(n, m, b.backup)))
				fd := openWith(t, n.inet(), unix.SOCK_RAW, raw.protocol)
				b.sendRaw(n, fd, m, raw.withHeader, b.sentBy(n, m, b.backup))
			})
		})
	}
}

// TestUntakenTransparent: what a transparent proxy sends is somebody else's answer, by whatever
// socket, where that can be told.
func TestUntakenTransparent(t *testing.T) {
	for _, s := range untakenSenders {
		t.Run(s.name, func(t *testing.T) {
			eachSender(t, func(t *testing.T, b *bed, n network) {
				m := udp{payload: 100}
				level, name := unix.SOL_IP, unix.IP_TRANSPARENT
				if n.family == 6 {
					level, name = unix.SOL_IPV6, unix.IPV6_TRANSPARENT
				}
				steps := append([]step{setOption(level, name, 1)}, s.steps(n)...)
				want := b.sentBy(n, m, b.backup)
				if !tellsProxies(b) && s.begins(b) { // it is as if it were not transparent
					want = b.beginsAnew(n, m)
				}
				b.put(connectionlessFlow(b.untaken(n, m, b.backup)))
				b.send(n, openWith(t, n.inet(), unix.SOCK_DGRAM, 0, steps...), m, want)
			})
		})
	}
}

// untaken is a flow whose datagrams no socket took.
func (b *bed) untaken(n network, m message, via nic) bpf.DatapathFlow {
	b.t.Helper()
	f := b.flow(n, m, via, 0)
	f.Flags |= flagNoSocket
	f.State = 0
	return f
}

// beginsAnew is the effect of a datagram by which the host begins in the place of a flow.
func (b *bed) beginsAnew(n network, m message) effect {
	b.t.Helper()
	e := b.notes(n, m)
	note := e.tables
	e.tables = func(t tables) {
		note(t)
		delete(t.Connectionless, n.tuple(m))
	}
	return e
}

// TestBoundDevice: what a socket sends that is bound to another device stays there; one that is
// bound to the VRF of the flow's interface is not.
func TestBoundDevice(t *testing.T) {
	eachSender(t, func(t *testing.T, b *bed, n network) {
		m := udp{payload: 100}
		fd := openWith(t, n.inet(), unix.SOCK_DGRAM, 0, bindToDevice(b.replication),
			bindTo(netip.AddrPortFrom(n.self, selfPort)))
		b.put(connectionlessFlow(b.flow(n, m, b.backup, 0)))
		b.send(n, fd, m, b.keptBy(n, m, b.backup, bound))

		b.manage(b.backup, func(i *bpf.DatapathInterface) { i.Vrf = b.replication.Index })
		b.put(connectionlessFlow(b.flow(n, m, b.backup, 0)))
		b.send(n, fd, m, b.sentBy(n, m, b.backup))
	})
}

// TestBoundDeviceRaw: a raw socket sends its own protocol, or any. What is of another one only
// carries what the socket sent, as a tunnel does, and is not bound.
func TestBoundDeviceRaw(t *testing.T) {
	for _, s := range []struct {
		name       string
		protocol   func(network) int
		withHeader bool
		message
		reason bpf.DatapathOutcome // 0: it is moved
	}{
		{"of the protocol", func(n network) int { return int(echo{}.protocol(n)) }, false, echo{reply: true}, bound},
		{"of any", func(network) int { return unix.IPPROTO_RAW }, true, udp{payload: 100}, bound},
		{"of another", func(network) int { return unix.IPPROTO_GRE }, true, udp{payload: 100}, 0},
	} {
		t.Run(s.name, func(t *testing.T) {
			eachSender(t, func(t *testing.T, b *bed, n network) {
				steps := []step{bindToDevice(b.replication)}
				if s.withHeader {
					steps = append(steps, n.writesHeader())
				}
				want := b.sentBy(n, s.message, b.backup)
				if s.reason != 0 {
					want = b.keptBy(n, s.message, b.backup, s.reason)
				}
				b.put(connectionlessFlow(b.flow(n, s.message, b.backup, 0)))
				fd := openWith(t, n.inet(), unix.SOCK_RAW, s.protocol(n), steps...)
				b.sendRaw(n, fd, s.message, s.withHeader, want)
			})
		})
	}
}

// TestBoundDevicePacketSocket: one that sends frames sends all that it does itself.
func TestBoundDevicePacketSocket(t *testing.T) {
	eachSender(t, func(t *testing.T, b *bed, n network) {
		m := udp{payload: 100}
		b.put(connectionlessFlow(b.flow(n, m, b.backup, 0)))
		b.emitFrame(b.replication, n.out(b.replication, m), b.keptBy(n, m, b.backup, bound), bindToDevice(b.replication))
	})
}

// TestBoundDeviceSynAck: a SYN-ACK is of a request for a connection, which is bound as the socket
// is that listens.
func TestBoundDeviceSynAck(t *testing.T) {
	eachSender(t, func(t *testing.T, b *bed, n network) {
		openWith(t, n.inet(), unix.SOCK_STREAM, 0, bindToDevice(b.replication),
			bindTo(netip.AddrPortFrom(n.self, selfPort)), func(fd int) error { return unix.Listen(fd, 1) })
		question := syn // the request outlives its listener for a second: by a port that no other test has
		question.ports = ports{peer: peerPort + 5000}
		b.put(halfOpen(b.flow(n, question, b.backup, 0)))
		wire := openWith(t, unix.AF_PACKET, unix.SOCK_RAW, 0)
		_, before := b.snapshot()
		b.must(sendFrame(wire, b.replication.OtherEnd, n.in(b.replication, question)))

		reasons := make(map[bpf.DatapathOutcome]uint64)
		for deadline := time.Now().Add(10 * time.Second); len(reasons) < 2 && time.Now().Before(deadline); {
			_, after := b.snapshot()
			for pair, counted := range pairDelta(before, after) {
				reasons[bpf.DatapathOutcome(pair.Outcome)] = counted.Packets
			}
		}
		want := map[bpf.DatapathOutcome]uint64{bpf.DatapathOutcomeOUTCOME_ASYMMETRIC: 1, bound: 1}
		if diff := cmp.Diff(want, reasons); diff != "" {
			t.Errorf("outcomes of the SYN-ACK (-want +got):\n%s", diff)
		}
	})
}

const bound = bpf.DatapathOutcomeOUTCOME_BOUND_DEVICE
