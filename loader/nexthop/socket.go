// SPDX-License-Identifier: Apache-2.0

package nexthop

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	// receiveBuffer is what may pile up in the kernel, in bytes of its own
	// book-keeping: some thousand events of a network that comes up at once.
	receiveBuffer = 8 << 20
	// maxMessage is more than the kernel puts into one datagram of events.
	maxMessage = 64 << 10
)

// errLost tells that events were dropped.
var errLost = errors.New("events were lost")

// socket receives rtnetlink multicast messages. The subscriptions of the
// netlink library would do but for one thing: they end, or go on without a
// word, when the kernel had to drop messages.
type socket struct {
	file   *os.File
	conn   syscall.RawConn
	buffer []byte
}

// subscribe opens a socket in the network namespace of the calling thread. The
// groups are RTNLGRP_* up to 32.
func subscribe(receiveBuffer int, groups ...uint) (*socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open a netlink socket: %w", err)
	}
	s := &socket{file: os.NewFile(uintptr(fd), "rtnetlink"), buffer: make([]byte, maxMessage)}
	if err := s.setUp(fd, receiveBuffer, groups); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *socket) setUp(fd, receiveBuffer int, groups []uint) error {
	// Beyond rmem_max this needs CAP_NET_ADMIN; without it, the buffer is as
	// large as it may be.
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer) != nil {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer); err != nil {
			return fmt.Errorf("enlarge the netlink receive buffer: %w", err)
		}
	}
	address := &unix.SockaddrNetlink{Family: unix.AF_NETLINK}
	for _, group := range groups {
		address.Groups |= 1 << (group - 1)
	}
	if err := unix.Bind(fd, address); err != nil {
		return fmt.Errorf("subscribe to netlink events: %w", err)
	}
	var err error
	s.conn, err = s.file.SyscallConn()
	return err
}

// close ends a receive that is under way.
func (s *socket) close() { s.file.Close() }

// receive waits for the next messages, which are valid until the next call. The
// error wraps errLost where events were dropped, and the socket goes on then;
// after any other it is of no more use.
func (s *socket) receive() ([]syscall.NetlinkMessage, error) {
	var (
		n    int
		from unix.Sockaddr
		err  error
	)
	closed := s.conn.Read(func(fd uintptr) bool {
		n, from, err = unix.Recvfrom(int(fd), s.buffer, unix.MSG_TRUNC)
		return err != unix.EAGAIN
	})
	switch {
	case closed != nil:
		return nil, fmt.Errorf("receive netlink events: %w", closed)
	case err == unix.ENOBUFS:
		return nil, errors.Join(fmt.Errorf("%w: the receive buffer was full", errLost), s.drain())
	case err != nil:
		return nil, fmt.Errorf("receive netlink events: %w", err)
	case n > len(s.buffer):
		return nil, fmt.Errorf("%w: a message of %d bytes", errLost, n)
	}
	if sender, ok := from.(*unix.SockaddrNetlink); !ok || sender.Pid != 0 {
		return nil, nil // not from the kernel
	}
	messages, err := syscall.ParseNetlinkMessage(s.buffer[:n])
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errLost, err)
	}
	return messages, nil
}

// drain throws away what is queued. Once it has dropped a message, the kernel
// goes on to drop them, and says so no second time, until the queue has been
// empty: what is read before is not the whole truth, and whoever looks at the
// kernel's tables before misses what changes after.
func (s *socket) drain() error {
	var err error
	closed := s.conn.Read(func(fd uintptr) bool {
		for err == nil || err == unix.ENOBUFS {
			_, _, err = unix.Recvfrom(int(fd), s.buffer, 0)
		}
		return true
	})
	if closed != nil {
		return closed
	}
	if err != unix.EAGAIN {
		return err
	}
	return nil
}
