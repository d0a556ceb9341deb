// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// Probe is an echo that this host sends: what it starts itself, which no program
// moves.
type Probe struct {
	conn       *icmp.PacketConn
	peer       netip.Addr
	identifier uint16
}

// NewProbe prepares a probe from self to peer, which are of one family.
func NewProbe(peer, self netip.Addr) (*Probe, error) {
	network := "ip4:icmp"
	if self.Is6() {
		network = "ip6:ipv6-icmp"
	}
	conn, err := icmp.ListenPacket(network, self.String())
	if errors.Is(err, unix.EADDRNOTAVAIL) {
		return nil, fmt.Errorf("%s is no address of this host: --self is one that `ip address` shows", self)
	}
	if err != nil {
		return nil, fmt.Errorf("open a socket at %s: %w", self, err)
	}
	return &Probe{conn: conn, peer: peer, identifier: uint16(rand.Uint32())}, nil
}

// Send sends the probe.
func (p *Probe) Send() error {
	message := icmp.Message{
		Type: ipv4.ICMPTypeEcho,
		Body: &icmp.Echo{ID: int(p.identifier), Seq: 1, Data: []byte("replypath trace")},
	}
	if p.peer.Is6() {
		message.Type = ipv6.ICMPTypeEchoRequest
	}
	bytes, err := message.Marshal(nil) // the kernel fills in the checksum of ICMPv6
	if err != nil {
		return fmt.Errorf("build a probe: %w", err)
	}
	if _, err := p.conn.WriteTo(bytes, &net.IPAddr{IP: p.peer.AsSlice()}); err != nil {
		return fmt.Errorf("send a probe to %s: %w", p.peer, err)
	}
	return nil
}

// IsOf tells whether a packet is the probe or its answer.
func (p *Probe) IsOf(packet *Packet) bool {
	return (packet.Protocol == "icmp" || packet.Protocol == "icmpv6") && packet.PeerPort == p.identifier &&
		packet.Peer == p.peer.String()
}

// Close closes the socket.
func (p *Probe) Close() error { return p.conn.Close() }
