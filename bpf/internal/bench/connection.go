// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/bpf/internal/rig"
)

// The ways through the programs that a connection takes once, or seldom. Each packet but the
// last two changes what the next one would find: undo() puts that back before every run. As in
// the other cases all is in a cache; what memory costs in addition, floods and crowds show.
const (
	// Each packet has a flow of its own.
	portSYN = 6000 + iota
	portSYNACK
	portACK
	portFIN
	portClosing
	portGSO
	portObserved

	// segments of segmentSize: together less than an MTU, as BPF_PROG_TEST_RUN makes packets
	// without what tells the kernel's bpf_check_mtu() how large the segments of others are.
	segments    = 2
	segmentSize = 500
)

// connection follows one from its first packet to those after its end.
func (b *bench) connection(e endpoints) {
	b.try(b.route(e))
	e.peer = e.one(0) // to whom there is a route
	d := b.datapath
	flow := func(port uint16) bpf.DatapathFlow { return b.flow(e, tcp, port, replication) }
	ingress := func(of string, l limit, port uint16, flags byte) *testCase {
		return b.ingress(e, "ingress: tcp, "+of, l, replication, withFlags(b.in(e, tcp, port, replication), flags))
	}
	egress := func(of string, port uint16, flags byte) *testCase {
		c := b.egress(e, "egress redirect: tcp, "+of, first, production, withFlags(b.out(e, tcp, port, production), flags))
		c.verdict = tcActRedirect
		return c
	}

	syn := ingress("first SYN, there is room", handshake, portSYN, flagSYN)
	syn.undo(b.placeOf(d.HalfOpen, flow(portSYN)).without()...)
	syn.prove = counts(admittedHalfOpen, 1000)

	const isAnswered = bpf.DatapathFlowStateFLOW_REPLIED
	at := b.enter(d.HalfOpen, flow(portSYNACK))
	synACK := egress("first SYN-ACK", portSYNACK, flagsSYNACK)
	synACK.undo(at.state(0))
	synACK.prove = at.sets(isAnswered)

	// It ends the handshake, of which the connection has a socket by then.
	half := flow(portACK)
	half.State = uint8(isAnswered)
	half.SndUna-- // frames have 0, the number after it
	at = b.enter(d.HalfOpen, half)
	lastACK := ingress("last ACK of a handshake", handshake, portACK, flagACK)
	lastACK.undo(append(at.with(), b.placeOf(d.Established, half).without()...)...)
	lastACK.prepare = func() error {
		return restore(netip.AddrPortFrom(e.self, portACK), netip.AddrPortFrom(e.peer, peerPort))
	}
	lastACK.prove = counts(admittedEstablished, 1000)

	// The host's FIN is noted. The peer's is to the programs as any other segment.
	at = b.enter(d.Established, flow(portFIN))
	fin := egress("first FIN", portFIN, flagsFIN)
	fin.undo(at.state(bpf.DatapathFlowStateFLOW_ASYMMETRIC | bpf.DatapathFlowStateFLOW_CORRECTED))
	fin.prove = at.sets(bpf.DatapathFlowStateFLOW_CLOSING)

	// A segment after it might end the next handshake: that is looked for.
	closing := flow(portClosing)
	closing.State = uint8(bpf.DatapathFlowStateFLOW_CLOSING)
	b.enter(d.Established, closing)
	ingress("its connection is closing", refresh, portClosing, flagACK)

	// A packet that is still to be cut into segments.
	b.enter(d.Established, flow(portGSO))
	gso := egress("two segments in one packet (GSO)", portGSO, flagACK)
	gso.frame, gso.segment = b.sized(e, tcp, portGSO, production, segments*segmentSize), segmentSize
	gso.before, gso.prove = b.unmark, ends(bpf.DatapathOutcomeOUTCOME_ASYMMETRIC, segments)
}

// observed adds a reply that would be redirected, but is counted.
func (b *bench) observed(e endpoints) {
	record := rig.Record(b.device(replication), replication)
	record.Mode = uint8(bpf.DatapathModeMODE_OBSERVE)
	e.peer = e.one(0)
	c := b.egressAnew(e, "egress observe: tcp", redirect, production, b.out(e, tcp, portObserved, production))
	c.prove = ends(bpf.DatapathOutcomeOUTCOME_OBSERVE, 1)
	b.enterFlow(e, tcp, portObserved, replication)
	b.try(b.datapath.SetInterface(replication, record))
}

// Constants of <linux/tcp.h> that x/sys lacks.
const tcpRecvQueue, tcpSendQueue = 1, 2

// expected is the sequence number that a socket expects in either direction. Frames have 0.
const expected = 1 << 30

// restore makes an established TCP socket without a packet, as from a checkpoint. The end of the process closes it
// without one, as it is still under repair.
func restore(self, peer netip.AddrPort) error {
	family, local := sockaddr(self)
	_, remote := sockaddr(peer)
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("make socket: %w", err)
	}
	err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	for _, option := range []struct{ name, value int }{
		{unix.TCP_REPAIR, 1},
		{unix.TCP_REPAIR_QUEUE, tcpRecvQueue},
		{unix.TCP_QUEUE_SEQ, expected},
		{unix.TCP_REPAIR_QUEUE, tcpSendQueue},
		{unix.TCP_QUEUE_SEQ, expected},
	} {
		err = errors.Join(err, unix.SetsockoptInt(fd, unix.SOL_TCP, option.name, option.value))
	}
	if err = errors.Join(err, unix.Bind(fd, local)); err == nil {
		err = unix.Connect(fd, remote)
	}
	if err != nil {
		return fmt.Errorf("connection of %s: %w", peer, err)
	}
	return nil
}

func sockaddr(a netip.AddrPort) (family int, address unix.Sockaddr) {
	if a.Addr().Is4() {
		return unix.AF_INET, &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return unix.AF_INET6, &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}
