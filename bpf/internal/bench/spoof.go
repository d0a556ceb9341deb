// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"
)

// A flood of ends of connections that are live, by the other interface: of each the
// flow is found, and the connection's socket, which does not expect the segment.
const (
	spoofBits = 10
	spoofSize = 1 << spoofBits // live connections of each family
	// boundSpoof is mostly that of asking the socket.
	boundSpoof = 1000
	// Constants of <linux/tcp.h> that x/sys lacks.
	tcpRecvQueue, tcpSendQueue = 1, 2
	// expected is the sequence number in either direction. Frames have 0.
	expected = 1 << 30
	flagsFIN = 0x11 // with ACK
	flagsRST = 0x04
)

// spoof has connections, of which nothing was ever sent.
type spoof struct {
	bench    *bench
	sockets  []int
	wrappers []*wrapper
}

func newSpoof(b *bench) (group, error) {
	own, err := b.beside()
	if err != nil {
		return nil, err
	}
	s := &spoof{bench: own}
	for _, e := range []endpoints{v4, v6} {
		err = errors.Join(err, s.connect(e))
	}
	if err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

func (s *spoof) close() error {
	for _, w := range s.wrappers {
		w.close()
	}
	var errs []error
	for _, fd := range s.sockets {
		errs = append(errs, unix.Close(fd)) // silently: it is still under repair
	}
	return errors.Join(append(errs, s.bench.datapath.Close())...)
}

// connect makes the connections, and enters their flows.
func (s *spoof) connect(e endpoints) error {
	for i := range uint32(spoofSize) {
		one := e
		one.peer = e.one(i)
		fd, err := restore(netip.AddrPortFrom(one.self, floodPort), netip.AddrPortFrom(one.peer, peerPort))
		if err != nil {
			return fmt.Errorf("connection of %s: %w", one.peer, err)
		}
		s.sockets = append(s.sockets, fd)
		if err := s.bench.addFlow(one, layers.IPProtocolTCP, floodPort); err != nil {
			return fmt.Errorf("flow of %s: %w", one.peer, err)
		}
	}
	return nil
}

// restore makes an established TCP socket without a packet, as from a checkpoint.
func restore(self, peer netip.AddrPort) (fd int, err error) {
	family, local := sockaddr(self)
	_, remote := sockaddr(peer)
	if fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return -1, fmt.Errorf("make socket: %w", err)
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
		return -1, errors.Join(err, unix.Close(fd))
	}
	return fd, nil
}

func sockaddr(a netip.AddrPort) (family int, address unix.Sockaddr) {
	if a.Addr().Is4() {
		return unix.AF_INET, &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return unix.AF_INET6, &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}

// cases are a spoofed FIN and a spoofed RST, for a random connection each time.
func (s *spoof) cases() ([]testCase, error) {
	var all []testCase
	for _, e := range []endpoints{v4, v6} {
		for _, kind := range []struct {
			of    string
			flags byte
		}{{"FIN", flagsFIN}, {"RST", flagsRST}} {
			c, err := s.spoofed(e, kind.flags)
			if err != nil {
				return nil, err
			}
			c.name = fmt.Sprintf("ingress flood: spoofed %s, one of 1,024 live connections, %s", kind.of, e.family)
			c.prepare = func() error { return s.bench.wantCounted(&c, contested, spoofSize) }
			all = append(all, c)
		}
	}
	return all, nil
}

// spoofed is the case of a segment with these flags.
func (s *spoof) spoofed(e endpoints, flags byte) (testCase, error) {
	first := s.bench.host.Devices[0]
	c := testCase{
		bound:    boundSpoof,
		program:  s.bench.datapath.ReplypathIngress,
		baseline: s.bench.empty,
		frame:    withFlags(inbound(e, layers.IPProtocolTCP, floodPort, first.MAC), flags),
		ifindex:  first.Index,
		verdict:  tcActUnspec,
	}
	wrappers, err := c.writePeers(e, sourceOffset(e), spoofSize-1, crowdBase)
	s.wrappers = append(s.wrappers, wrappers...)
	return c, err
}
