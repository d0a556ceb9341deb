// SPDX-License-Identifier: Apache-2.0

package nexthop

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// receiveBuffer is what may pile up in the kernel, in bytes of its own
// book-keeping: some thousand events of a network that comes up at once.
const receiveBuffer = 8 << 20

// errLost tells that events were dropped.
var errLost = errors.New("events were lost")

// socket receives rtnetlink multicast messages. The netlink library's own channels of events would do but for one
// thing: they end, or go on without a word, when the kernel had to drop messages.
type socket struct {
	*nl.NetlinkSocket
	queue int // another descriptor of it, which who receives closes: the first is closed while he may be at it
}

// subscribe opens a socket in the network namespace of the calling thread. The
// groups are RTNLGRP_* up to 32.
func subscribe(receiveBuffer int, groups ...uint) (*socket, error) {
	s, err := nl.Subscribe(unix.NETLINK_ROUTE, groups...)
	if err != nil {
		return nil, fmt.Errorf("subscribe to netlink events: %w", err)
	}
	// Beyond rmem_max this needs CAP_NET_ADMIN; without it, the buffer is as
	// large as it may be.
	if s.SetReceiveBufferSize(receiveBuffer, true) != nil {
		if err := s.SetReceiveBufferSize(receiveBuffer, false); err != nil {
			s.Close()
			return nil, fmt.Errorf("enlarge the netlink receive buffer: %w", err)
		}
	}
	queue, err := unix.FcntlInt(uintptr(s.GetFd()), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		s.Close()
		return nil, fmt.Errorf("duplicate the netlink socket: %w", err)
	}
	return &socket{s, queue}, nil
}

// receive waits for the next messages. The error wraps errLost where events were dropped, and the socket goes on then;
// after any other it is of no more use.
func (s *socket) receive() ([]syscall.NetlinkMessage, error) {
	messages, from, err := s.Receive()
	switch {
	case errors.Is(err, unix.ENOBUFS):
		return nil, errors.Join(fmt.Errorf("%w: the receive buffer was full", errLost), s.drain())
	case err != nil:
		return nil, fmt.Errorf("receive netlink events: %w", err)
	case from.Pid != 0: // not from the kernel
		return nil, nil
	}
	return messages, nil
}

// drain throws away what is queued. Once it has dropped a message, the kernel
// goes on to drop them, and says so no second time, until the queue has been
// empty: what is read before is not the whole truth, and whoever looks at the
// kernel's tables before misses what changes after. What comes once it was empty
// is news: a flood may last for minutes.
func (s *socket) drain() error {
	for {
		switch _, _, err := unix.Recvfrom(s.queue, nil, unix.MSG_DONTWAIT); err {
		case nil, unix.ENOBUFS, unix.EINTR:
		case unix.EAGAIN:
			return nil
		default:
			return fmt.Errorf("empty the queue of netlink events: %w", err)
		}
	}
}
