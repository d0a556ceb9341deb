// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// Echo describes a ping.
type Echo struct {
	To netip.Addr
	// From is the source address; the zero Addr leaves it to the kernel.
	From netip.Addr
}

// Ping sends one echo request from the host and waits for its answer until ctx ends. It returns the round-trip time.
func (h *Host) Ping(ctx context.Context, echo Echo) (time.Duration, error) {
	p, err := h.NewPinger(ctx, echo)
	if err != nil {
		return 0, err
	}
	rtt, err := p.Ping(ctx)
	return rtt, errors.Join(err, p.Close())
}

// Pinger sends echo requests with one identifier, so that all of them are one flow. It is not safe for concurrent use.
type Pinger struct {
	host     *Host
	echo     Echo
	conn     net.PacketConn
	id       uint16
	sequence uint16
	payload  []byte // of the last request
	protocol int
	request  icmp.Type
	reply    icmp.Type
}

// pingers counts them: of two with one identifier, the answers of the second would go the way of the first.
var pingers atomic.Uint32

// NewPinger opens the socket of a ping, which belongs to the caller.
func (h *Host) NewPinger(ctx context.Context, echo Echo) (*Pinger, error) {
	p := &Pinger{host: h, echo: echo, id: uint16(1 + pingers.Add(1)%0xffff)}
	network, source := "ip4:icmp", netip.IPv4Unspecified()
	p.protocol, p.request, p.reply = 1, ipv4.ICMPTypeEcho, ipv4.ICMPTypeEchoReply
	if FamilyOf(echo.To) == IPv6 {
		network, source = "ip6:ipv6-icmp", netip.IPv6Unspecified()
		p.protocol, p.request, p.reply = 58, ipv6.ICMPTypeEchoRequest, ipv6.ICMPTypeEchoReply
	}
	if echo.From.IsValid() {
		source = echo.From
	}
	var err error
	p.conn, err = h.ListenPacket(ctx, network, source.String())
	if err != nil {
		return nil, fmt.Errorf("ping %s: %w", echo.To, err)
	}
	return p, nil
}

// ID returns the echo identifier.
func (p *Pinger) ID() uint16 {
	return p.id
}

// Close closes the socket.
func (p *Pinger) Close() error {
	return p.conn.Close()
}

// Ping is PingFor without a payload.
func (p *Pinger) Ping(ctx context.Context) (time.Duration, error) { return p.PingFor(ctx, 0) }

// PingFor sends the next echo request, with a payload of so many bytes, and waits for its answer until ctx ends. What
// else arrives, an ICMP error too, is passed over. A payload that comes back altered is an error.
func (p *Pinger) PingFor(ctx context.Context, size int) (time.Duration, error) {
	p.sequence++
	p.payload = bytes.Repeat([]byte("payload "), size/8+1)[:size]
	for at := 0; at+8 < size; at += 8 { // no two parts of it are the same
		binary.BigEndian.PutUint16(p.payload[at:], uint16(at))
	}
	rtt, err := p.exchange(ctx)
	if err != nil {
		return 0, fmt.Errorf("ping %s from host %s, request %d: %w", p.echo.To, p.host.Name, p.sequence, err)
	}
	return rtt, nil
}

func (p *Pinger) exchange(ctx context.Context) (time.Duration, error) {
	stop, err := interruptReads(ctx, p.conn)
	if err != nil {
		return 0, err
	}
	defer stop()

	request := icmp.Message{Type: p.request, Body: &icmp.Echo{
		ID: int(p.id), Seq: int(p.sequence), Data: p.payload,
	}}
	// The kernel fills in the checksum of ICMPv6.
	data, err := request.Marshal(nil)
	if err != nil {
		return 0, err
	}
	sent := time.Now()
	to := &net.IPAddr{IP: p.echo.To.AsSlice(), Zone: p.echo.To.Zone()}
	if _, err := p.conn.WriteTo(data, to); err != nil {
		return 0, err
	}
	if err := p.await(); err != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			err = fmt.Errorf("no answer: %w", context.Cause(ctx))
		}
		return 0, err
	}
	return time.Since(sent), nil
}

// interruptReads has reads fail when ctx ends, until stop is called.
func interruptReads(ctx context.Context, conn net.PacketConn) (stop func(), err error) {
	if err := conn.SetReadDeadline(time.Time{}); err != nil {
		return nil, err
	}
	done := make(chan struct{})
	cancel := context.AfterFunc(ctx, func() {
		defer close(done)
		_ = conn.SetReadDeadline(time.Unix(0, 1))
	})
	return func() {
		if !cancel() {
			<-done
		}
	}, nil
}

// await returns when the answer to the last request has come.
func (p *Pinger) await() error {
	buffer := make([]byte, 1<<16)
	for {
		n, from, err := p.conn.ReadFrom(buffer)
		if err != nil {
			return err
		}
		if answer := p.answer(buffer[:n], from); answer != nil {
			if !bytes.Equal(answer.Data, p.payload) {
				return fmt.Errorf("%d bytes came back altered, as %d", len(p.payload), len(answer.Data))
			}
			return nil
		}
	}
}

// answer returns the answer to the last request, or nil if this is none.
func (p *Pinger) answer(data []byte, from net.Addr) *icmp.Echo {
	address, ok := from.(*net.IPAddr)
	if !ok || !address.IP.Equal(p.echo.To.AsSlice()) {
		return nil
	}
	message, err := icmp.ParseMessage(p.protocol, data)
	if err != nil || message.Type != p.reply {
		return nil
	}
	echo, ok := message.Body.(*icmp.Echo)
	if !ok || echo.ID != int(p.id) || echo.Seq != int(p.sequence) {
		return nil
	}
	return echo
}
