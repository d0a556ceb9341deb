package load

import (
	"fmt"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"

	"replypath/test/topology"
)

// Sockets are used by system calls that block, without Go's poller and without an
// allocation: its share of a round trip would be larger than what is measured.

// socketOn opens a socket in a host's namespace.
func socketOn(host *topology.Host, kind, protocol int) (fd int, err error) {
	err = host.Do(func() error {
		fd, err = newSocket(kind, protocol)
		return err
	})
	return fd, err
}

// newSocket opens a socket in the namespace of the calling thread.
func newSocket(kind, protocol int) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, protocol)
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

func socketAddress(a netip.Addr, port int) *unix.SockaddrInet4 {
	return &unix.SockaddrInet4{Port: port, Addr: a.As4()}
}

// listenOn opens a TCP listener.
func listenOn(host *topology.Host, address netip.Addr, port, backlog int) (int, error) {
	fd, err := socketOn(host, unix.SOCK_STREAM, 0)
	if err != nil {
		return -1, err
	}
	err = setOn(fd, [2]int{unix.SOL_SOCKET, unix.SO_REUSEADDR}, [2]int{unix.IPPROTO_TCP, unix.TCP_NODELAY})
	if err == nil {
		err = unix.Bind(fd, socketAddress(address, port))
	}
	if err == nil {
		err = unix.Listen(fd, backlog)
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("listen at %s:%d: %w", address, port, err)
	}
	return fd, nil
}

// accept takes the next connection of a listener. Options of the listener are its
// own as well, the bounds of time included.
func accept(listener int) (int, error) {
	fd, _, errno := unix.Syscall6(unix.SYS_ACCEPT4, uintptr(listener), 0, 0, unix.SOCK_CLOEXEC, 0, 0)
	if errno != 0 {
		return -1, errno
	}
	return int(fd), nil
}

// receiveFrom reads a datagram and who sent it.
func receiveFrom(fd int, buffer []byte, from *unix.RawSockaddrInet4) (int, error) {
	length := uint32(unix.SizeofSockaddrInet4)
	n, _, errno := unix.Syscall6(unix.SYS_RECVFROM, uintptr(fd),
		uintptr(unsafe.Pointer(&buffer[0])), uintptr(len(buffer)), 0,
		uintptr(unsafe.Pointer(from)), uintptr(unsafe.Pointer(&length)))
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// sendTo sends a datagram to whom receiveFrom has named.
func sendTo(fd int, data []byte, to *unix.RawSockaddrInet4) error {
	_, _, errno := unix.Syscall6(unix.SYS_SENDTO, uintptr(fd),
		uintptr(unsafe.Pointer(&data[0])), uintptr(len(data)), 0,
		uintptr(unsafe.Pointer(to)), unix.SizeofSockaddrInet4)
	if errno != 0 {
		return errno
	}
	return nil
}
