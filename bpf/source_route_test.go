package bpf_test

import (
	"testing"

	"github.com/gopacket/gopacket/layers"

	"replypath/bpf"
	"replypath/bpf/internal/rig"
)

// sourceRoute is what is known of a packet whose routing header is not used up.
var sourceRoute = raw{number: layers.IPProtocolIPv6Routing}

// routedOn is the effect of such a packet: it is of no flow, but answered with an error.
func (b *bed) routedOn(n network, via nic) effect {
	b.t.Helper()
	e := b.strays(n, sourceRoute, via)
	e.events[bpf.DatapathEventEVENT_UNPARSED_SOURCE_ROUTE] = 1
	return e
}

var unreadSourceRoute = unread(bpf.DatapathEventEVENT_UNPARSED_SOURCE_ROUTE)

// errorAbout is a parameter problem about a packet with these headers.
func errorAbout(n network, b *bed, m message, extensions ...extension) icmpError {
	return icmpError{kind6: 4, quote: extend(n.in(b.replication, m), extensions...)[ethernetSize:]}
}

// TestSourceRouteAnswered: the error about a routing header that the host does not follow
// goes back by the way that the packet came, whatever is before and behind that header.
func TestSourceRouteAnswered(t *testing.T) {
	n := networks[1]
	for name, extensions := range map[string][]extension{
		"alone":               {routing},
		"behind options":      {hopByHop, destinations, routing},
		"of a first fragment": {routing, first},
		"of a later one":      {routing, later},
		"before another":      {routing, routed},
		"behind another":      {routed, routing},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t, normal)
			for _, m := range []message{udp{payload: 8}, syn, echo{}} {
				b.put()
				b.run(ingress(b.replication, extend(n.in(b.replication, m), extensions...)), b.routedOn(n, b.replication))

				b.put(halfOpen(b.stray(n, sourceRoute, b.replication, 0)))
				e := errorAbout(n, b, m, extensions...)
				frame := n.out(b.production, e)
				want := b.moves(n, e, b.production, b.replication, frame)
				want.tables = b.moves(n, sourceRoute, b.production, b.replication, frame).tables
				b.run(egress(b.production, frame), want)
			}
		})
	}
}

// TestSourceRouteAgain: the entry has the way of the last packet, and is written once a second.
func TestSourceRouteAgain(t *testing.T) {
	n, b := networks[1], newBed(t, normal)
	in := func(via nic) run { return ingress(via, extend(n.in(via, udp{}), routing)) }
	b.run(in(b.replication), b.routedOn(n, b.replication))
	b.run(in(b.backup), b.routedOn(n, b.backup))
	b.inOneTick(in(b.backup), func() effect {
		b.put(halfOpen(b.stray(n, sourceRoute, b.backup, 0)))
		return unreadSourceRoute
	})
	flow := b.stray(n, sourceRoute, b.backup, 2)
	b.put(halfOpen(flow))
	flow.Seen = justNow
	b.run(in(b.backup), effect{events: unreadSourceRoute.events, tables: halfOpen(flow)})
}

// TestSourceRouteRefused: where nothing begins, no way is remembered, and why is not counted
// as well.
func TestSourceRouteRefused(t *testing.T) {
	n := networks[1]
	for name, refuse := range map[string]func(*bed, *network){
		"another's address": func(_ *bed, n *network) { n.self = n.stranger },
		"another's, which is forwarded": func(b *bed, n *network) {
			b.configure(func(s *bpf.DatapathSettings) { s.ScopeAll = 1 })
			n.self = n.stranger
		},
		"an own source": func(b *bed, n *network) { b.must(b.SetOwnAddress(n.peer, bpf.DatapathOwnFlagsOWN_ADDRESS)) },
		"excluded":      func(b *bed, n *network) { b.must(b.SetExclusions(exclusion(prefix(n.peer), prefix(n.self), 0, 0))) },
	} {
		t.Run(name, func(t *testing.T) {
			b, n := newBed(t, normal), n
			refuse(b, &n)
			b.run(ingress(b.replication, extend(n.in(b.replication, udp{}), routing)), unreadSourceRoute)
		})
	}
}

// TestSourceRouteListed: a list of protocols that has the header's number makes it no flow.
func TestSourceRouteListed(t *testing.T) {
	n, b := networks[1], newBed(t, normal)
	b.configure(func(s *bpf.DatapathSettings) { s.Protocols = rig.Listed(uint8(layers.IPProtocolIPv6Routing)) })
	b.run(ingress(b.replication, extend(n.in(b.replication, udp{}), routing)), b.routedOn(n, b.replication))
}

// TestSourceRouteQuoted: by the entry go only errors about such packets, and nothing else
// that leaves.
func TestSourceRouteQuoted(t *testing.T) {
	n, b := networks[1], newBed(t, normal)
	cut := errorAbout(n, b, udp{}, routing)
	cut.quote = cut.quote[:ipv6Size+7]
	b.put(halfOpen(b.stray(n, sourceRoute, b.replication, 0)))
	for name, frame := range map[string][]byte{
		"about what is behind one that is used up": n.out(b.production, errorAbout(n, b, udp{}, routed)),
		"cut within the header":                    n.out(b.production, cut),
		"about another protocol":                   n.out(b.production, errorAbout(n, b, raw{layers.IPProtocolGRE, make([]byte, 8)})),
		"to somebody else":                         n.out(b.production, errorAbout(n, b, udp{}, routing), destination(n.stranger)),
	} {
		t.Run(name, func(t *testing.T) { b.run(egress(b.production, frame), nothing) })
	}
	t.Run("no error", func(t *testing.T) {
		b.run(egress(b.production, extend(n.out(b.production, udp{}), routing)), unreadSourceRoute)
	})
	// Nor does a flow behind the header, which the host never saw.
	b.put(connectionlessFlow(b.flow(n, udp{}, b.replication, 0)))
	b.run(egress(b.production, n.out(b.production, errorAbout(n, b, udp{}, routing))), nothing)
}
