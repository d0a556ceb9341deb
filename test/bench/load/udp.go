// SPDX-License-Identifier: Apache-2.0

package load

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"replypath/test/bench/contender"
	"replypath/test/topology"
)

// firstPort is that of the first server; each further one has the next.
const firstPort = 7000

// udpEcho sends a datagram of a size to and fro, on so many cores at a time.
func udpEcho(size, cores int) func(context.Context, *contender.Site, *Shared) (Work, error) {
	return func(_ context.Context, s *contender.Site, _ *Shared) (Work, error) {
		c := newCrew()
		for i := range cores {
			r := questionsTo(s)
			r.port += i
			if err := c.echoUDP(r, CPU()-i, size); err != nil {
				return nil, c.closeAfter(err)
			}
		}
		return c, nil
	}
}

// forward sends a datagram to and fro between two hosts on either side of the server.
func forward(_ context.Context, s *contender.Site, _ *Shared) (Work, error) {
	c := newCrew()
	r := route{client: s.Client, from: s.Neighbour, server: s.Inner, to: contender.InnerHost, port: firstPort}
	if err := c.echoUDP(r, CPU(), 64); err != nil {
		return nil, c.closeAfter(err)
	}
	return c, nil
}

// echoOne sends a datagram of 64 bytes to and fro on one core.
func echoOne(c *crew, s *contender.Site) error {
	return c.echoUDP(questionsTo(s), CPU(), 64)
}

// questionsTo is how the client asks the server.
func questionsTo(s *contender.Site) route {
	return route{client: s.Client, from: s.Peer, server: s.Server, device: s.Device, to: s.Self, port: firstPort}
}

// route says who asks whom.
type route struct {
	client *topology.Host
	from   netip.Addr
	server *topology.Host
	device string // of the server's socket, or ""
	to     netip.Addr
	port   int
	// unconnected has the client's socket look for its route with each datagram.
	unconnected bool
}

// echoUDP starts a server and a client on a CPU.
func (c *crew) echoUDP(r route, cpu, size int) error {
	if err := c.serveUDP(r.server, r.device, r.to, r.port, cpu); err != nil {
		return err
	}
	fd, err := boundSocket(r.client, "", unix.SOCK_DGRAM, r.from, 0)
	if err != nil {
		return err
	}
	c.keep(fd)
	server := socketAddress(r.to, r.port)
	send := func(question []byte) error { return unix.Sendto(fd, question, 0, server) }
	if !r.unconnected {
		if err := unix.Connect(fd, server); err != nil {
			return fmt.Errorf("connect to %s: %w", r.to, err)
		}
		send = func(question []byte) error {
			_, err := unix.Write(fd, question)
			return err
		}
	}
	question, answer := make([]byte, size), make([]byte, size)
	number := uint64(0)
	c.ask(r.client, cpu, func() error {
		number++
		binary.NativeEndian.PutUint64(question, number)
		if err := send(question); err != nil {
			return err
		}
		for binary.NativeEndian.Uint64(answer) != number { // else two would be on their way after one that was late
			if _, err := unix.Read(fd, answer); err != nil {
				return err // EAGAIN: lost; the next turn asks again
			}
		}
		c.done.Add(1)
		return nil
	})
	return nil
}

// serveUDP starts a server whose socket is bound to the address and not connected.
func (c *crew) serveUDP(host *topology.Host, device string, address netip.Addr, port, cpu int) error {
	fd, err := boundSocket(host, device, unix.SOCK_DGRAM, address, port)
	if err != nil {
		return err
	}
	c.keep(fd)
	buffer := make([]byte, 2048)
	from := new(asker)
	c.serve(host, cpu, func() error {
		n, err := receiveFrom(fd, buffer, from)
		if err != nil {
			return err
		}
		return sendTo(fd, buffer[:n], from)
	})
	return nil
}
