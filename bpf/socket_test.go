// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// setUpAddresses lets sockets in the namespace be bound to the host's own
// addresses and connected to the peer. The stranger lives there as well, so that it
// can open connections. What sockets send to the peer leaves by the replication interface.
func setUpAddresses() error {
	var errs []error
	for _, n := range networks {
		errs = append(errs,
			host.AddAddress(host.Devices[0], n.other),
			host.AddAddress(host.Devices[1], n.self),
			host.AddRoute(host.Devices[1], n.peer),
			host.AddNeighbour(host.Devices[1], n.peer, routerOf(1)),
			host.AddAddress(host.Loopback, n.stranger),
		)
	}
	return errors.Join(errs...)
}

func sockaddr(a netip.AddrPort) (int, unix.Sockaddr) {
	if a.Addr().Is4() {
		return unix.AF_INET, &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return unix.AF_INET6, &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}

// openSocket makes a socket in the namespace and hands it to f there.
func openSocket(t testing.TB, family, kind int, f func(fd int) error) int {
	t.Helper()
	return openSocketOf(t, family, kind, 0, f)
}

// openSocketOf is openSocket for a protocol that the kind does not tell.
func openSocketOf(t testing.TB, family, kind, protocol int, f func(fd int) error) int {
	t.Helper()
	fd := -1
	err := host.Do(func() (err error) {
		if fd, err = unix.Socket(family, kind|unix.SOCK_CLOEXEC, protocol); err != nil {
			return fmt.Errorf("make socket: %w", err)
		}
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
			return fmt.Errorf("set SO_REUSEADDR: %w", err)
		}
		return f(fd)
	})
	if err != nil {
		if fd >= 0 {
			unix.Close(fd)
		}
		t.Fatal(err)
	}
	return fd
}

func closeSocket(t testing.TB, fd int) {
	t.Helper()
	if err := unix.Close(fd); err != nil {
		t.Fatal(err)
	}
}

func listenUDP(t testing.TB, self netip.AddrPort) int {
	t.Helper()
	family, local := sockaddr(self)
	return openSocket(t, family, unix.SOCK_DGRAM, func(fd int) error { return bind(fd, local) })
}

func connectUDP(t testing.TB, self, peer netip.AddrPort) int {
	t.Helper()
	family, local := sockaddr(self)
	_, remote := sockaddr(peer)
	return openSocket(t, family, unix.SOCK_DGRAM, func(fd int) error {
		if err := bind(fd, local); err != nil {
			return err
		}
		return connect(fd, remote)
	})
}

func listenTCP(t testing.TB, self netip.AddrPort) int {
	t.Helper()
	family, local := sockaddr(self)
	return openSocket(t, family, unix.SOCK_STREAM, func(fd int) error {
		if err := bind(fd, local); err != nil {
			return err
		}
		return unix.Listen(fd, 1)
	})
}

func bind(fd int, local unix.Sockaddr) error {
	if err := unix.Bind(fd, local); err != nil {
		return fmt.Errorf("bind: %w", err)
	}
	return nil
}

func connect(fd int, remote unix.Sockaddr) error {
	if err := unix.Connect(fd, remote); err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	return nil
}

// connection is the state of a TCP socket's sequence numbers.
type connection struct {
	received uint32 // RCV.NXT
	acked    uint32 // SND.UNA
	unacked  int    // bytes that were written and not acknowledged
	window   uint32 // RCV.WND
}

// Constants of <linux/tcp.h> that x/sys lacks.
const (
	tcpRecvQueue = 1
	tcpSendQueue = 2

	tcpRepairOffSilently = -1 // without a window probe
)

// connectTCP makes an established TCP socket with these sequence numbers, without
// a packet: the way in which checkpoints are restored (TCP_REPAIR).
func connectTCP(t testing.TB, self, peer netip.AddrPort, c connection) int {
	t.Helper()
	family, local := sockaddr(self)
	_, remote := sockaddr(peer)
	return openSocket(t, family, unix.SOCK_STREAM, func(fd int) error {
		for _, option := range []struct{ name, value int }{
			{unix.TCP_REPAIR, 1},
			{unix.TCP_REPAIR_QUEUE, tcpSendQueue},
			{unix.TCP_QUEUE_SEQ, int(int32(c.acked))},
			{unix.TCP_REPAIR_QUEUE, tcpRecvQueue},
			{unix.TCP_QUEUE_SEQ, int(int32(c.received))},
			{unix.TCP_REPAIR_QUEUE, tcpSendQueue},
		} {
			if err := unix.SetsockoptInt(fd, unix.SOL_TCP, option.name, option.value); err != nil {
				return fmt.Errorf("set TCP option %d: %w", option.name, err)
			}
		}
		if err := bind(fd, local); err != nil {
			return err
		}
		if err := connect(fd, remote); err != nil {
			return err
		}
		if c.unacked > 0 {
			if _, err := unix.Write(fd, make([]byte, c.unacked)); err != nil {
				return fmt.Errorf("fill send queue: %w", err)
			}
		}
		return setWindow(fd, c)
	})
}

// repairWindow is struct tcp_repair_window of <linux/tcp.h>.
type repairWindow struct {
	sndWl1, sndWnd, maxWindow, rcvWnd, rcvWup uint32
}

func setWindow(fd int, c connection) error {
	window := repairWindow{sndWl1: c.received, sndWnd: 65535, maxWindow: 65535, rcvWnd: c.window, rcvWup: c.received}
	size := unsafe.Sizeof(window)
	_, _, errno := unix.Syscall6(unix.SYS_SETSOCKOPT, uintptr(fd), unix.SOL_TCP, unix.TCP_REPAIR_WINDOW,
		uintptr(unsafe.Pointer(&window)), size, 0)
	if errno != 0 {
		return fmt.Errorf("set TCP_REPAIR_WINDOW: %w", errno)
	}
	return nil
}

// accept makes a connection from the peer's address to the host's, accepted as
// any other: by a handshake, over loopback, where the peer must be the stranger. It says where the accepted socket
// stands, which is closed at the end of the test.
func accept(t testing.TB, n network) connection {
	t.Helper()
	client, accepted := connectPair(t, netip.AddrPortFrom(n.self, selfPort), netip.AddrPortFrom(n.peer, peerPort))
	t.Cleanup(func() {
		abort(t, client)
		abort(t, accepted)
	})
	return standing(t, accepted)
}

// acceptedTimeWait makes such a connection and has the host end it first. It says what the
// socket that is left of it expects next, in TIME_WAIT, where it keeps its port.
func acceptedTimeWait(t testing.TB, self, peer netip.AddrPort) connection {
	t.Helper()
	client, accepted := connectPair(t, self, peer)
	c := standing(t, accepted)
	closeSocket(t, accepted)
	if n, err := unix.Read(client, make([]byte, 1)); n != 0 || err != nil {
		t.Fatalf("read %d bytes: %v", n, err)
	}
	closeSocket(t, client)
	return connection{received: c.received + 1, acked: c.acked + 1} // each FIN counts as one
}

// connectPair connects two sockets over loopback.
func connectPair(t testing.TB, self, peer netip.AddrPort) (client, accepted int) {
	t.Helper()
	family, remote := sockaddr(self)
	_, local := sockaddr(peer)
	listener := listenTCP(t, self)
	defer closeSocket(t, listener)
	client = openSocket(t, family, unix.SOCK_STREAM, func(fd int) error {
		if err := bind(fd, local); err != nil {
			return err
		}
		return connect(fd, remote)
	})
	accepted, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	return client, accepted
}

// abort closes a TCP socket without leaving a TIME_WAIT behind.
func abort(t testing.TB, fd int) {
	t.Helper()
	if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
		t.Error(err)
	}
	closeSocket(t, fd)
}

// standing asks a TCP socket for its sequence numbers.
func standing(t testing.TB, fd int) (c connection) {
	t.Helper()
	for _, step := range []struct {
		queue int
		to    *uint32
	}{{tcpSendQueue, &c.acked}, {tcpRecvQueue, &c.received}} {
		if err := unix.SetsockoptInt(fd, unix.SOL_TCP, unix.TCP_REPAIR, 1); err != nil {
			t.Fatal(err)
		}
		if err := unix.SetsockoptInt(fd, unix.SOL_TCP, unix.TCP_REPAIR_QUEUE, step.queue); err != nil {
			t.Fatal(err)
		}
		number, err := unix.GetsockoptInt(fd, unix.SOL_TCP, unix.TCP_QUEUE_SEQ)
		if err != nil {
			t.Fatal(err)
		}
		*step.to = uint32(number)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_TCP, unix.TCP_REPAIR, tcpRepairOffSilently); err != nil {
		t.Fatal(err)
	}
	return c
}
