// SPDX-License-Identifier: Apache-2.0

package load

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"replypath/test/bench/contender"
)

const requestSize = 64

// tcpRequests sends requests on so many connections. Server and client do the same:
// they wait for what can be read, and send it back.
func tcpRequests(connections int) func(context.Context, *contender.Site, *Shared) (Work, error) {
	return func(ctx context.Context, s *contender.Site, _ *Shared) (Work, error) {
		c := newCrew()
		if err := c.askOnConnections(ctx, questionsTo(s), connections); err != nil {
			return nil, c.closeAfter(err)
		}
		return c, nil
	}
}

func (c *crew) askOnConnections(ctx context.Context, r route, connections int) error {
	listener, err := listenAt(r, connections)
	if err != nil {
		return err
	}
	c.keep(listener)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	served := c.begin(c.servers, r.server, CPU(), func() (func() error, error) {
		return sendBackOn(connections, func() (fd int, err error) {
			for fd, err = accept(listener); err != nil && again(err) && ctx.Err() == nil; {
				fd, err = accept(listener)
			}
			return fd, err
		}, func() {})
	})
	request := make([]byte, requestSize)
	asked := c.begin(c.clients, r.client, CPU(), func() (func() error, error) {
		return sendBackOn(connections, func() (int, error) {
			fd, err := connectHere(r.from, r.to)
			if err == nil {
				_, err = unix.Write(fd, request)
			}
			return fd, err
		}, func() { c.done.Add(1) })
	})
	if err = <-asked; err != nil {
		cancel(err)
	}
	return errors.Join(err, <-served)
}

// sendBackOn opens so many connections, and returns a loop's turn for them. They are in a table of open files of the
// thread's own, which ends with it: where no more are allowed, each has room for 20,000.
func sendBackOn(connections int, open func() (int, error), count func()) (turn func() error, err error) {
	if err := unix.Unshare(unix.CLONE_FILES); err != nil {
		return nil, fmt.Errorf("leave the table of open files: %w", err)
	}
	all := make([]int, connections)
	for i := range all {
		if all[i], err = open(); err != nil {
			return nil, fmt.Errorf("connection %d of %d: %w", i+1, connections, err)
		}
	}
	poll, err := pollOf(all...)
	return sendBack(poll, count), err
}

// connect opens a connection from the peer's address.
func connect(s *contender.Site) (fd int, err error) { return questionsTo(s).connect() }

// connect opens a connection.
func (r route) connect() (fd int, err error) {
	err = r.client.Do(func() error {
		fd, err = connectHere(r.from, r.to)
		return err
	})
	return fd, err
}

// connectHere opens a connection from the namespace of the calling thread.
func connectHere(from, to netip.Addr) (int, error) {
	fd, err := newSocket(domainOf(from), unix.SOCK_STREAM, 0)
	if err != nil {
		return -1, err
	}
	// Else the port has to be free for every address that it might go to.
	err = setOn(fd, [2]int{unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT}, [2]int{unix.IPPROTO_TCP, unix.TCP_NODELAY})
	if err == nil {
		err = unix.Bind(fd, socketAddress(from, 0))
	}
	if err == nil {
		err = connectSocket(fd, socketAddress(to, firstPort))
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("connect: %w", err)
	}
	return fd, nil
}

// connectSocket connects. A signal, with which Go's scheduler interrupts threads, does
// not end the attempt, but the waiting for it (connect(2), EINTR).
func connectSocket(fd int, to unix.Sockaddr) error {
	err := unix.Connect(fd, to)
	for errors.Is(err, unix.EINTR) {
		var ready int
		ready, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, int(socketPatience.Milliseconds()))
		if err != nil {
			continue
		}
		if ready == 0 {
			return unix.EINPROGRESS // as where nothing interrupts it
		}
		result, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
		if err != nil || result == 0 {
			return err
		}
		return unix.Errno(result)
	}
	return err
}

// pollOf opens what waits for any of some connections.
func pollOf(connections ...int) (poll int, err error) {
	poll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	for _, fd := range connections {
		event := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}
		if err == nil {
			err = unix.EpollCtl(poll, unix.EPOLL_CTL_ADD, fd, &event)
		}
	}
	if err != nil {
		return poll, fmt.Errorf("epoll: %w", err)
	}
	return poll, nil
}

// sendBack returns a loop's turn, which sends back what can be read.
func sendBack(poll int, count func()) (turn func() error) {
	events, buffer := make([]unix.EpollEvent, 64), make([]byte, requestSize)
	return func() error {
		ready, err := unix.EpollWait(poll, events, int(socketPatience.Milliseconds()))
		if err != nil {
			return err
		}
		for _, event := range events[:ready] {
			if err := turnBack(int(event.Fd), buffer); err != nil {
				return err
			}
			count()
		}
		return nil
	}
}

var errEnded = errors.New("the connection has ended")

// turnBack sends back what has come in.
func turnBack(fd int, buffer []byte) error {
	n, err := read(fd, buffer)
	if err != nil {
		return fmt.Errorf("read a request: %w", err)
	}
	if n == 0 {
		return errEnded
	}
	if _, err := unix.Write(fd, buffer[:n]); err != nil {
		return fmt.Errorf("answer a request: %w", err)
	}
	return nil
}
