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

// The ways through the programs that a connection takes once. Each packet changes what the next one would find: undo()
// puts that back before every run. As in the other cases all is in a cache; what memory costs in addition, floods and
// crowds show.
const (
	// Each packet has a flow of its own.
	portSYN = 6000 + iota
	portACK
)

// connection is the handshake of one, as far as it comes in.
func (b *bench) connection(e endpoints) {
	b.try(b.route(e))
	e.peer = e.one(0) // to whom there is a route
	d := b.datapath
	flow := func(port uint16) bpf.DatapathFlow { return b.flow(e, tcp, port, replication) }
	ingress := func(of string, port uint16, flags byte) *testCase {
		return b.ingress(e, "ingress: tcp, "+of, handshake, replication, withFlags(b.in(e, tcp, port, replication), flags))
	}

	syn := ingress("first SYN, there is room", portSYN, flagSYN)
	syn.undo(b.placeOf(d.HalfOpen, flow(portSYN)).without()...)
	syn.prove = counts(admittedHalfOpen, 1000)

	// It ends the handshake, of which the connection has a socket by then.
	half := flow(portACK)
	half.State = uint8(bpf.DatapathFlowStateFLOW_REPLIED)
	half.SndUna-- // frames have 0, the number after it
	at := b.enter(d.HalfOpen, half)
	lastACK := ingress("last ACK of a handshake", portACK, flagACK)
	lastACK.undo(append(at.with(), b.placeOf(d.Established, half).without()...)...)
	lastACK.prepare = func() error {
		return restore(netip.AddrPortFrom(e.self, portACK), netip.AddrPortFrom(e.peer, peerPort))
	}
	lastACK.prove = counts(admittedEstablished, 1000)
}

// expected is the sequence number that a socket expects in either direction. Frames have 0.
const expected = 1 << 30

// restore makes an established TCP socket. The end of the process closes it without a packet, as it is still under repair.
func restore(self, peer netip.AddrPort) error {
	family, _ := rig.Sockaddr(self)
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("make socket: %w", err)
	}
	err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	if err = errors.Join(err, rig.Restore(fd, self, peer, expected, expected)); err != nil {
		return fmt.Errorf("connection of %s: %w", peer, err)
	}
	return nil
}
