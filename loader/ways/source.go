// SPDX-License-Identifier: Apache-2.0

package ways

import (
	"net/netip"

	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/loader/config"
	"replypath/loader/gateways"
	"replypath/loader/interfaces"
)

// Of several routers that take everything, some may drop what has no source of theirs (BCP 38). So in the strong host model the
// source decides among them (RFC 8028), as far as anything tells: routes for some sources, what routers have announced, and the
// networks of the interface.

// sourceEntries are the gateways that take packets from own addresses, as the programs know them. An address that all of them
// take, or of which nothing tells, is left out.
func sourceEntries(managed []*interfaces.Managed, known map[int][]*gateways.View) map[bpf.DatapathAddress]uint32 {
	entries := make(map[bpf.DatapathAddress]uint32)
	for _, i := range managed {
		if i.Settings.HostModel != config.HostModelStrong {
			continue
		}
		for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
			all := takersOfAll(known[i.Index], family)
			if len(all) < 2 {
				continue
			}
			for _, own := range i.Addresses {
				if own.Addr().Is4() != (family == unix.AF_INET) {
					continue
				}
				if fit := fitting(all, own.Addr(), i); len(fit) < len(all) {
					entries[bpf.DatapathAddress{Bytes: own.Addr().As16()}] = uint32(firstGateway(fit, family))
				}
			}
		}
	}
	return entries
}

// takersOfAll returns those of the gateways that take all packets of a family.
func takersOfAll(known []*gateways.View, family int) (of []*gateways.View) {
	for _, g := range takers(known, family) {
		if g.Reach(family).Everything {
			of = append(of, g)
		}
	}
	return of
}

// fitting returns those of the gateways that take packets from an own address; all of them where nothing tells. Each rule
// narrows what the one before has left.
func fitting(of []*gateways.View, own netip.Addr, i *interfaces.Managed) []*gateways.View {
	for _, bits := range []func(*gateways.View) int{
		func(g *gateways.View) int { return bitsByRoute(g, own) },
		func(g *gateways.View) int { return longestWith(own, g.Announced) },
		func(g *gateways.View) int { return bitsByNetwork(g, own, i.Addresses) },
	} {
		of = longest(of, bits)
	}
	return of
}

// longest returns those of the gateways with the longest prefix; all of them where none has one.
func longest(of []*gateways.View, bits func(*gateways.View) int) (fit []*gateways.View) {
	best := noPrefix
	for _, g := range of {
		switch b := bits(g); {
		case b > best:
			best, fit = b, []*gateways.View{g}
		case b == best:
			fit = append(fit, g)
		}
	}
	return fit
}

// noPrefix is shorter than any.
const noPrefix = -1

// bitsByRoute is the length of the longest prefix with an own address, of those whose packets default routes by a gateway take.
func bitsByRoute(g *gateways.View, own netip.Addr) int {
	if len(g.Sources) == 0 || own.Is4() {
		return 0
	}
	return longestWith(own, g.Sources)
}

// bitsByNetwork is that of those networks of the interface that hold the gateway as well.
func bitsByNetwork(g *gateways.View, own netip.Addr, networks []netip.Prefix) int {
	bits := noPrefix
	for _, n := range networks {
		if n.Contains(g.Address) {
			bits = max(bits, longestWith(own, []netip.Prefix{n}))
		}
	}
	return bits
}

func longestWith(own netip.Addr, prefixes []netip.Prefix) int {
	bits := noPrefix
	for _, p := range prefixes {
		if p.Contains(own) {
			bits = max(bits, p.Bits())
		}
	}
	return bits
}
