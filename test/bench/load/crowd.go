// SPDX-License-Identifier: Apache-2.0

package load

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"

	"replypath/test/bench/contender"
)

// udpCrowd sends each datagram from another one of so many addresses, all of which the server has heard before.
func udpCrowd(size int) func(context.Context, *contender.Site, *Shared) (Work, error) {
	return func(ctx context.Context, s *contender.Site, _ *Shared) (Work, error) {
		c := newCrew()
		if err := c.serveUDP(s.Server, s.Device, s.Self, firstPort, CPU()); err != nil {
			return nil, c.closeAfter(err)
		}
		c.servers.open()
		err := Introduce(ctx, s, 0, size)
		c.servers.close()
		if err != nil {
			return nil, c.closeAfter(err)
		}
		if err := c.askFromMany(s, size); err != nil {
			return nil, c.closeAfter(err)
		}
		return c, nil
	}
}

// askFromMany starts a client of many addresses.
func (c *crew) askFromMany(s *contender.Site, size int) error {
	fd, err := boundSocket(s.Client, "", unix.SOCK_DGRAM, netip.IPv4Unspecified(), crowdPort)
	if err != nil {
		return err
	}
	c.keep(fd)
	m := newMessage(s.Self, firstPort)
	answer := make([]byte, 64)
	random := rand.New(rand.NewPCG(1, 1))
	c.ask(s.Client, CPU(), func() error {
		m.from(s.ClientAt(random.Uint32N(uint32(size))))
		if err := m.send(fd); err != nil {
			return err
		}
		if _, err := unix.Read(fd, answer); err != nil {
			return err
		}
		c.done.Add(1)
		return nil
	})
	return nil
}

const (
	// crowdPort is the one that all of a crowd ask from.
	crowdPort = 6000
	// introductionBatch is how many ask at once: what they ask and what comes back has to fit the sockets' buffers.
	introductionBatch = 64
)

// ServeEcho starts the UDP server alone.
func ServeEcho(s *contender.Site) (io.Closer, error) {
	c := newCrew()
	if err := c.serveUDP(s.Server, s.Device, s.Self, firstPort, CPU()); err != nil {
		return nil, c.closeAfter(err)
	}
	c.servers.open()
	return c, nil
}

// Introduce has so many of the client's addresses ask the UDP server once.
func Introduce(ctx context.Context, s *contender.Site, first, count int) error {
	conn, err := s.Client.ListenPacket(ctx, "udp4", netip.AddrPortFrom(netip.IPv4Unspecified(), crowdPort).String())
	if err != nil {
		return err
	}
	defer conn.Close()
	batch := ipv4.NewPacketConn(conn)
	questions, answers := make([]ipv4.Message, introductionBatch), make([]ipv4.Message, introductionBatch)
	to := net.UDPAddrFromAddrPort(netip.AddrPortFrom(s.Self, firstPort))
	for i := range questions {
		questions[i] = ipv4.Message{Buffers: [][]byte{make([]byte, 64)}, Addr: to}
		answers[i] = ipv4.Message{Buffers: [][]byte{make([]byte, 64)}}
	}
	for done := 0; done < count; done += introductionBatch {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		part := questions[:min(introductionBatch, count-done)]
		for i := range part {
			source := s.ClientAt(uint32(first + done + i))
			part[i].OOB = (&ipv4.ControlMessage{Src: source.AsSlice()}).Marshal()
		}
		if err := exchange(batch, part, answers); err != nil {
			return fmt.Errorf("introduce %d clients: %w", count, err)
		}
	}
	return nil
}

// exchange sends questions and takes as many answers, or as many as come: one that is lost has done its work.
func exchange(conn *ipv4.PacketConn, questions, answers []ipv4.Message) error {
	for sent := 0; sent < len(questions); {
		n, err := conn.WriteBatch(questions[sent:], 0)
		if err != nil {
			return err
		}
		sent += n
	}
	if err := conn.SetReadDeadline(time.Now().Add(socketPatience)); err != nil {
		return err
	}
	for got := 0; got < len(questions); {
		n, err := conn.ReadBatch(answers, 0)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil
		}
		if err != nil {
			return err
		}
		got += n
	}
	return nil
}
