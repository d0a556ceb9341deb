// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"net/netip"

	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/loader/config"
	"replypath/loader/datapath"
	"replypath/loader/flows"
)

// Question is what is asked about: the way of what this host sends from Self to
// Peer.
type Question struct {
	Peer, Self netip.AddrPort // port 0: any; of an echo the peer's port is its identifier
	Protocol   *uint8         // nil: any
	Interface  string         // where a question comes in that has made no flow yet; "": nowhere
	Size       int            // bytes of the IP packet; 0: one that fits
	Limit      int            // no more flows than so many are explained; 0: all
}

// tuple returns the tuple of a question with this protocol.
func (q *Question) tuple(protocol uint8) bpf.DatapathTuple {
	t := bpf.DatapathTuple{
		Peer: q.Peer.Addr().As16(), Self: q.Self.Addr().As16(), Protocol: protocol,
	}
	switch {
	case config.HasPorts(protocol):
		t.PeerPort, t.SelfPort = datapath.Port(q.Peer.Port()), datapath.Port(q.Self.Port())
	case isEcho(protocol):
		t.PeerPort = datapath.Port(q.Peer.Port())
	}
	return t
}

// matches tells whether a tuple is one of those that are asked about.
func (q *Question) matches(t *bpf.DatapathTuple) bool {
	port := func(want, have uint16) bool { return want == 0 || datapath.Port(want) == have }
	return t.Peer == q.Peer.Addr().As16() && t.Self == q.Self.Addr().As16() &&
		(q.Protocol == nil || *q.Protocol == t.Protocol) &&
		port(q.Peer.Port(), t.PeerPort) && port(q.Self.Port(), t.SelfPort)
}

// protocols are that of the question, or those with ports.
func (q *Question) protocols() []uint8 {
	if q.Protocol != nil {
		return []uint8{*q.Protocol}
	}
	return []uint8{config.ProtocolTCP, config.ProtocolUDP, config.ProtocolSCTP}
}

// of returns the question about one flow.
func (q *Question) of(e *flows.Entry) Question {
	one := About(&e.Raw.Tuple)
	one.Interface, one.Size = q.Interface, q.Size
	return one
}

// About returns the question about what this host sends by a tuple.
func About(t *bpf.DatapathTuple) Question {
	return Question{
		Peer:     netip.AddrPortFrom(datapath.Address(t.Peer), datapath.Port(t.PeerPort)),
		Self:     netip.AddrPortFrom(datapath.Address(t.Self), datapath.Port(t.SelfPort)),
		Protocol: &t.Protocol,
	}
}

func isEcho(protocol uint8) bool {
	return protocol == unix.IPPROTO_ICMP || protocol == unix.IPPROTO_ICMPV6
}
