// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/test/await"
)

// setUpAddresses lets sockets in the namespace be bound to the host's own addresses and connected to the peer. The
// stranger lives there as well, so that it can open connections. What sockets send to the peer leaves by the
// replication interface.
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

type step func(fd int) error

// openSocket makes a socket in the namespace of the host under test, and does all this to it.
func openSocket(t testing.TB, family, kind, protocol int, steps ...step) int {
	t.Helper()
	fd := -1
	err := host.Do(func() (err error) {
		if fd, err = unix.Socket(family, kind|unix.SOCK_CLOEXEC, protocol); err != nil {
			return fmt.Errorf("make socket: %w", err)
		}
		for _, step := range append([]step{setOption(unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)}, steps...) {
			if err := step(fd); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		if fd >= 0 {
			unix.Close(fd)
		}
		t.Fatal(err)
	}
	return fd
}

// openWith is openSocket for one that is closed at the end of the test.
func openWith(t testing.TB, family, kind, protocol int, steps ...step) int {
	t.Helper()
	fd := openSocket(t, family, kind, protocol, steps...)
	t.Cleanup(func() { closeSocket(t, fd) })
	return fd
}

func closeSocket(t testing.TB, fd int) {
	t.Helper()
	await.Must(t, unix.Close(fd))
}

func sockaddr(a netip.AddrPort) (family int, address unix.Sockaddr) {
	if a.Addr().Is4() {
		return unix.AF_INET, &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return unix.AF_INET6, &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}

func familyOf(a netip.AddrPort) int {
	family, _ := sockaddr(a)
	return family
}

func listenUDP(t testing.TB, self netip.AddrPort) int {
	t.Helper()
	return openSocket(t, familyOf(self), unix.SOCK_DGRAM, 0, bindTo(self))
}

func connectUDP(t testing.TB, self, peer netip.AddrPort) int {
	t.Helper()
	return openSocket(t, familyOf(self), unix.SOCK_DGRAM, 0, bindTo(self), connectTo(peer))
}

func listen(fd int) error { return unix.Listen(fd, 1) }

func listenTCP(t testing.TB, self netip.AddrPort) int {
	t.Helper()
	return openSocket(t, familyOf(self), unix.SOCK_STREAM, 0, bindTo(self), listen)
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

// connectTCP makes an established TCP socket with these sequence numbers, without a packet: the way in which
// checkpoints are restored (TCP_REPAIR).
func connectTCP(t testing.TB, self, peer netip.AddrPort, c connection) int {
	t.Helper()
	return openSocket(t, familyOf(self), unix.SOCK_STREAM, 0,
		setOption(unix.SOL_TCP, unix.TCP_REPAIR, 1),
		setOption(unix.SOL_TCP, unix.TCP_REPAIR_QUEUE, tcpRecvQueue),
		setOption(unix.SOL_TCP, unix.TCP_QUEUE_SEQ, int(int32(c.received))),
		setOption(unix.SOL_TCP, unix.TCP_REPAIR_QUEUE, tcpSendQueue),
		setOption(unix.SOL_TCP, unix.TCP_QUEUE_SEQ, int(int32(c.acked))),
		bindTo(self), connectTo(peer),
		func(fd int) error {
			if c.unacked == 0 {
				return nil
			}
			_, err := unix.Write(fd, make([]byte, c.unacked))
			return err
		},
		func(fd int) error { return setWindow(fd, c) })
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

// windowOf returns the receive window of a socket in repair mode.
func windowOf(fd int) (uint32, error) {
	var window repairWindow
	size := uint32(unsafe.Sizeof(window))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_TCP, unix.TCP_REPAIR_WINDOW,
		uintptr(unsafe.Pointer(&window)), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return 0, fmt.Errorf("get TCP_REPAIR_WINDOW: %w", errno)
	}
	return window.rcvWnd, nil
}

// accept makes a connection from the peer's address to the host's, accepted as any other: by a handshake, over
// loopback, where the peer must be the stranger. It says where the accepted socket stands, which is closed at the end
// of the test.
func accept(t testing.TB, n network) connection {
	t.Helper()
	client, accepted := connectPair(t, n.here(), n.there())
	t.Cleanup(func() {
		abort(t, client)
		abort(t, accepted)
	})
	return standing(t, accepted)
}

func connectPair(t testing.TB, self, peer netip.AddrPort) (client, accepted int) {
	t.Helper()
	listener := listenTCP(t, self)
	defer closeSocket(t, listener)
	client = openSocket(t, familyOf(self), unix.SOCK_STREAM, 0, bindTo(peer), connectTo(self))
	accepted, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC)
	await.Must(t, err)
	return client, accepted
}

// abort closes a TCP socket without leaving a TIME_WAIT behind.
func abort(t testing.TB, fd int) {
	t.Helper()
	await.Must(t, leaveNothing(fd))
	closeSocket(t, fd)
}

// standing asks a TCP socket for its sequence numbers and its window.
func standing(t testing.TB, fd int) (c connection) {
	t.Helper()
	for _, step := range []struct {
		queue int
		to    *uint32
	}{{tcpSendQueue, &c.acked}, {tcpRecvQueue, &c.received}} {
		await.Must(t, unix.SetsockoptInt(fd, unix.SOL_TCP, unix.TCP_REPAIR, 1))
		if err := unix.SetsockoptInt(fd, unix.SOL_TCP, unix.TCP_REPAIR_QUEUE, step.queue); err != nil {
			t.Fatal(err)
		}
		number, err := unix.GetsockoptInt(fd, unix.SOL_TCP, unix.TCP_QUEUE_SEQ)
		await.Must(t, err)
		*step.to = uint32(number)
	}
	window, err := windowOf(fd)
	await.Must(t, err)
	c.window = window
	await.Must(t, unix.SetsockoptInt(fd, unix.SOL_TCP, unix.TCP_REPAIR, tcpRepairOffSilently))
	return c
}

// What a socket of the host's sends, by the replication interface, where the programs are attached: what they ask of
// the socket cannot be had from a test run.

func (b *bed) attachEgress() {
	b.t.Helper()
	detach, err := host.AttachEgress(b.ReplypathEgress, b.production.Device, b.replication.Device, b.backup.Device)
	b.must(err)
	b.t.Cleanup(func() { b.must(detach()) })
}

// send has a UDP socket send to the peer and holds what the programs did against what was expected. All of it, at the
// target too, happens within the system call.
func (b *bed) send(n network, fd int, m udp, want effect) {
	b.t.Helper()
	b.sendTo(n.there(), fd, make([]byte, m.payload), want)
}

// sendRaw is that for a raw socket, which is given what comes behind the IP header, or the header too.
func (b *bed) sendRaw(n network, fd int, m message, withHeader bool, want effect) {
	b.t.Helper()
	packet := n.out(b.replication, m)[either(withHeader, ethernetSize, ethernetSize+n.ipSize()):]
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
	frame := n.out(b.replication, m)
	e := b.moves(n, m, b.replication, to, frame)
	e.pairs[pair(b.replication, to, n, m, outcomeCorrected)] = count{Packets: 1, Bytes: uint64(len(frame)), Flows: 1}
	answers := b.marked(n, m, stateReplied|stateAsymmetric|stateCorrected, 1)
	e.tables = func(t tables) {
		answers(t)
		for tuple, f := range t.Established { // which has no such state
			f.State &^= stateReplied
			t.Established[tuple] = f
		}
	}
	return e
}

func (b *bed) keptBy(n network, m message, to nic, reason bpf.DatapathOutcome) effect {
	return b.stays(n, m, b.replication, to, n.out(b.replication, m), reason)
}

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
	return func(fd int) error {
		if err := unix.Bind(fd, local); err != nil {
			return fmt.Errorf("bind: %w", err)
		}
		return nil
	}
}

func connectTo(peer netip.AddrPort) step {
	_, remote := sockaddr(peer)
	return func(fd int) error {
		if err := unix.Connect(fd, remote); err != nil {
			return fmt.Errorf("connect: %w", err)
		}
		return nil
	}
}

func (n network) inet() int {
	return familyOf(n.here())
}

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
