// SPDX-License-Identifier: Apache-2.0

package load

import (
	"fmt"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"

	"replypath/test/bench/contender"
	"replypath/test/topology"
)

// Sockets are used by system calls that block, without Go's poller and without an
// allocation: its share of a round trip would be larger than what is measured.

// socketOn opens a socket in a host's namespace.
func socketOn(host *topology.Host, domain, kind, protocol int) (fd int, err error) {
	err = host.Do(func() error {
		fd, err = newSocket(domain, kind, protocol)
		return err
	})
	return fd, err
}

// newSocket opens a socket in the namespace of the calling thread.
func newSocket(domain, kind, protocol int) (int, error) {
	fd, err := unix.Socket(domain, kind|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return -1, fmt.Errorf("open a socket: %w", err)
	}
	patience := unix.NsecToTimeval(int64(socketPatience))
	for _, option := range []int{unix.SO_RCVTIMEO, unix.SO_SNDTIMEO} {
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, option, &patience); err != nil {
			_ = unix.Close(fd)
			return -1, fmt.Errorf("bound the time of a socket: %w", err)
		}
	}
	return fd, nil
}

// setOn sets socket options that are 1.
func setOn(fd int, options ...[2]int) error {
	for _, o := range options {
		if err := unix.SetsockoptInt(fd, o[0], o[1], 1); err != nil {
			return fmt.Errorf("set socket option %d: %w", o[1], err)
		}
	}
	return nil
}

func domainOf(a netip.Addr) int {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func socketAddress(a netip.Addr, port int) unix.Sockaddr {
	if a.Is4() {
		return &unix.SockaddrInet4{Port: port, Addr: a.As4()}
	}
	return &unix.SockaddrInet6{Port: port, Addr: a.As16()}
}

// boundSocket opens a socket of a host that is bound to an address and, unless that is "", to a device.
func boundSocket(host *topology.Host, device string, kind int, address netip.Addr, port int) (int, error) {
	fd, err := socketOn(host, domainOf(address), kind, 0)
	if err != nil {
		return -1, err
	}
	err = setOn(fd, [2]int{unix.SOL_SOCKET, unix.SO_REUSEADDR})
	if err == nil && device != "" {
		err = unix.BindToDevice(fd, device)
	}
	if err == nil {
		err = unix.Bind(fd, socketAddress(address, port))
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("bind to %s port %d: %w", address, port, err)
	}
	return fd, nil
}

// listenOn opens a TCP listener of the site's server.
func listenOn(s *contender.Site, backlog int) (int, error) { return listenAt(questionsTo(s), backlog) }

// listenAt opens the TCP listener of a conversation.
func listenAt(r route, backlog int) (int, error) {
	fd, err := boundSocket(r.server, r.device, unix.SOCK_STREAM, r.to, r.port)
	if err != nil {
		return -1, err
	}
	err = setOn(fd, [2]int{unix.IPPROTO_TCP, unix.TCP_NODELAY})
	if err == nil {
		err = unix.Listen(fd, backlog)
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("listen: %w", err)
	}
	return fd, nil
}

// read reads what comes next. Where a time-out is set a signal ends a system call, which is not restarted (signal(7)).
func read(fd int, buffer []byte) (int, error) {
	for {
		n, err := unix.Read(fd, buffer)
		if err != unix.EINTR {
			return n, err
		}
	}
}

// accept takes the next connection of a listener. Options of the listener are its
// own as well, the bounds of time included.
func accept(listener int) (int, error) {
	for {
		fd, _, errno := unix.Syscall6(unix.SYS_ACCEPT4, uintptr(listener), 0, 0, unix.SOCK_CLOEXEC, 0, 0)
		switch errno {
		case 0:
			return int(fd), nil
		case unix.EINTR: // as for read
		default:
			return -1, errno
		}
	}
}

// asker is who has sent a datagram: an address of either family.
type asker struct {
	address unix.RawSockaddrInet6 // or one of IPv4, which is shorter
	length  uint32
}

// receiveFrom reads a datagram and who sent it.
func receiveFrom(fd int, buffer []byte, from *asker) (int, error) {
	from.length = unix.SizeofSockaddrInet6
	n, _, errno := unix.Syscall6(unix.SYS_RECVFROM, uintptr(fd),
		uintptr(unsafe.Pointer(&buffer[0])), uintptr(len(buffer)), 0,
		uintptr(unsafe.Pointer(&from.address)), uintptr(unsafe.Pointer(&from.length)))
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// sendTo sends a datagram to whom receiveFrom has named.
func sendTo(fd int, data []byte, to *asker) error {
	_, _, errno := unix.Syscall6(unix.SYS_SENDTO, uintptr(fd),
		uintptr(unsafe.Pointer(&data[0])), uintptr(len(data)), 0,
		uintptr(unsafe.Pointer(&to.address)), uintptr(to.length))
	if errno != 0 {
		return errno
	}
	return nil
}
