// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"fmt"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"replypath/bpf"
)

// What a socket of the host's sends, by the replication interface, where the programs are
// attached: what they ask of the socket cannot be had from a test run.

// attachEgress attaches the egress program to the interfaces for the rest of the test.
func (b *bed) attachEgress() {
	b.t.Helper()
	detach, err := host.AttachEgress(b.ReplypathEgress, b.production.Device, b.replication.Device, b.backup.Device)
	b.must(err)
	b.t.Cleanup(func() { b.must(detach()) })
}

// send has a UDP socket send to the peer and holds what the programs did against what was
// expected. All of it, at the target too, happens within the system call.
func (b *bed) send(n network, fd int, m udp, want effect) {
	b.t.Helper()
	b.sendTo(netip.AddrPortFrom(n.peer, peerPort), fd, make([]byte, m.payload), want)
}

// sendRaw is that for a raw socket, which is given what comes behind the IP header, or the
// header too.
func (b *bed) sendRaw(n network, fd int, m message, withHeader bool, want effect) {
	b.t.Helper()
	packet := n.out(b.replication, m)[ethernetSize:]
	if !withHeader {
		packet = packet[n.ipSize():]
	}
	b.sendTo(netip.AddrPortFrom(n.peer, 0), fd, packet, want)
}

func (b *bed) sendTo(peer netip.AddrPort, fd int, bytes []byte, want effect) {
	b.t.Helper()
	_, to := sockaddr(peer)
	b.emit(func() error { return unix.Sendto(fd, bytes, 0, to) }, want)
}

// emit is send for what is sent by other means.
func (b *bed) emit(send func() error, want effect) {
	b.t.Helper()
	var o outcome
	o.before, o.counted = b.snapshot()
	o.earliest = b.ago(0)
	b.must(send())
	o.latest = b.ago(0)
	o.after, o.counts = b.snapshot()
	b.compareTraces(want, o)
}

// sentBy is the effect of a reply that is moved to another interface, and leaves there.
func (b *bed) sentBy(n network, m message, to nic) effect {
	b.t.Helper()
	frame := n.out(b.replication, m)
	e := b.moves(n, m, b.replication, to, frame)
	e.pairs[pair(b.replication, to, n, m, bpf.DatapathOutcomeOUTCOME_CORRECTED)] =
		count{Packets: 1, Bytes: uint64(len(frame)), Flows: 1}
	answers := b.marked(n, m, stateAnswered|stateAsymmetric|stateCorrected, 1)
	e.tables = func(t tables) {
		answers(t)
		for tuple, f := range t.Established { // which has no such state
			f.State &^= stateAnswered
			t.Established[tuple] = f
		}
	}
	return e
}

// keptBy is the effect of a reply that should be moved and is not, for a reason.
func (b *bed) keptBy(n network, m message, to nic, reason bpf.DatapathOutcome) effect {
	b.t.Helper()
	return b.stays(n, m, b.replication, to, n.out(b.replication, m), reason)
}

// step is something that is done to a new socket.
type step func(fd int) error

func setOption(level, name, value int) step {
	return func(fd int) error {
		if err := unix.SetsockoptInt(fd, level, name, value); err != nil {
			return fmt.Errorf("set option %d of level %d: %w", name, level, err)
		}
		return nil
	}
}

func bindToDevice(i nic) step {
	return func(fd int) error {
		if err := unix.BindToDevice(fd, i.Name); err != nil {
			return fmt.Errorf("bind to %s: %w", i.Name, err)
		}
		return nil
	}
}

func bindTo(self netip.AddrPort) step {
	_, local := sockaddr(self)
	return func(fd int) error { return bind(fd, local) }
}

func connectTo(peer netip.AddrPort) step {
	_, remote := sockaddr(peer)
	return func(fd int) error { return connect(fd, remote) }
}

// openWith makes a socket, does all this to it, and closes it at the end of the test.
func openWith(t testing.TB, family, kind, protocol int, steps ...step) int {
	t.Helper()
	fd := openSocketOf(t, family, kind, protocol, func(fd int) error {
		for _, step := range steps {
			if err := step(fd); err != nil {
				return err
			}
		}
		return nil
	})
	t.Cleanup(func() { closeSocket(t, fd) })
	return fd
}

// inet is the family of sockets of this network.
func (n network) inet() int {
	family, _ := sockaddr(netip.AddrPortFrom(n.self, 0))
	return family
}

// wildcard is the address that stands for every one of the family.
func (n network) wildcard() netip.Addr {
	if n.family == 4 {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

func (n network) own() netip.Addr { return n.self }

// writesHeader has a raw socket be given packets with their IP header.
func (n network) writesHeader() step {
	if n.family == 4 {
		return setOption(unix.SOL_IP, unix.IP_HDRINCL, 1)
	}
	return setOption(unix.SOL_IPV6, unix.IPV6_HDRINCL, 1)
}

// emitFrame has a packet socket, to which this is done first, send a frame by an interface.
func (b *bed) emitFrame(via nic, frame []byte, want effect, steps ...step) {
	b.t.Helper()
	fd := openWith(b.t, unix.AF_PACKET, unix.SOCK_RAW, 0, steps...)
	b.emit(func() error { return sendFrame(fd, via.Index, frame) }, want)
}

func sendFrame(fd int, ifindex uint32, frame []byte) error {
	if err := unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: int(ifindex)}); err != nil {
		return fmt.Errorf("send a frame: %w", err)
	}
	return nil
}
