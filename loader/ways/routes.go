// SPDX-License-Identifier: Apache-2.0

package ways

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/loader/config"
	"replypath/loader/datapath"
	"replypath/loader/gateways"
	"replypath/loader/interfaces"
	"replypath/loader/nexthop"
)

// A gateway that stands in routes to some networks only need not forward anything else: questions from elsewhere
// came through a router that no route names. So where no gateway of an interface takes everything, the programs
// are told what is routed by them. All else is answered by who sent the question.

// mostRoutes is how many networks the programs are told of: half of what the map takes, as new ones are entered
// before old ones go.
const mostRoutes = 16384

// asksRoutes tells whether the programs have to be told which peers the gateways of an interface serve. With several gateways,
// `next_hop: gateway` wants to know which of them, and so does the strong host model: no question tells it.
func asksRoutes(s *interfaces.Managed, known []*gateways.View, family int) bool {
	of := takers(known, family)
	isAll := slices.ContainsFunc(of, func(g *gateways.View) bool { return g.Reach(family).Everything })
	isStrong := s.Settings.HostModel == config.HostModelStrong
	if s.Settings.NextHop == config.NextHopLastHop && !isStrong {
		return false
	}
	wantsWhich := s.Settings.NextHop == config.NextHopGateway || isStrong
	return len(of) > 1 && wantsWhich || len(of) > 0 && !isAll
}

// takers returns those of the gateways that take packets of a family.
func takers(known []*gateways.View, family int) []*gateways.View {
	var of []*gateways.View
	for _, g := range known {
		if g.Takes(family) {
			of = append(of, g)
		}
	}
	return of
}

// firstGateway is the index of the one that takes what no route names another for: one that takes everything goes before
// one with a MAC, that before one that answers, and of equals the first; 0 for none.
func firstGateway(known []*gateways.View, family int) uint16 {
	merits := func(g *gateways.View) int {
		sum := 0
		for i, has := range []bool{g.Answers, len(g.ReplyMAC) > 0, g.Reach(family).Everything} {
			if has {
				sum += 1 << i
			}
		}
		return sum
	}
	of := takers(known, family)
	if len(of) == 0 {
		return 0
	}
	return slices.MaxFunc(of, func(a, b *gateways.View) int { return cmp.Compare(merits(a), merits(b)) }).ID
}

// byInterface sorts gateways by the index of their interface, and leaves them in their order.
func byInterface(all []*gateways.View) map[int][]*gateways.View {
	of := make(map[int][]*gateways.View)
	for _, g := range all {
		of[g.Interface] = append(of[g.Interface], g)
	}
	return of
}

// everything is a default route's network.
func everything(family int) []netip.Prefix {
	if family == unix.AF_INET {
		return []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0)}
	}
	return []netip.Prefix{netip.PrefixFrom(netip.IPv6Unspecified(), 0)}
}

// routeEntries are what the programs know of the routes by the gateways of interfaces that have to be asked. Of a gateway with too
// many routes, which are returned as unkept, nobody knows whom it serves.
func routeEntries(managed []*interfaces.Managed, known map[int][]*gateways.View) (entries map[bpf.DatapathPrefixKey]uint32, unkept []*gateways.View) {
	entries = make(map[bpf.DatapathPrefixKey]uint32)
	for _, s := range managed {
		for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
			if !asksRoutes(s, known[s.Index], family) {
				continue
			}
			for _, g := range takers(known[s.Index], family) {
				reach := g.Reach(family)
				networks, id := reach.Networks, uint32(g.ID)
				switch {
				case reach.Everything:
					networks = everything(family)
				case reach.Many || len(entries)+len(networks) > mostRoutes:
					networks, id = everything(family), 0
					unkept = append(unkept, g)
				}
				enterRoutes(entries, s.Index, networks, id)
			}
		}
	}
	return entries, unkept
}

// enterRoutes enters the networks that are routed by a gateway. What several lead to is nobody's.
func enterRoutes(entries map[bpf.DatapathPrefixKey]uint32, device int, networks []netip.Prefix, id uint32) {
	for _, network := range networks {
		key, to := routeKey(device, network), id
		if other, isEntered := entries[key]; isEntered && other != id {
			to = 0
		}
		entries[key] = to
	}
}

func routeKey(device int, network netip.Prefix) bpf.DatapathPrefixKey {
	return datapath.PrefixKey(bpf.DatapathPrefixKindPREFIX_ROUTED, device, network)
}

// Unkept warns of gateways of which it is not known whom they serve.
func Unkept(managed []*interfaces.Managed, known []*gateways.View, nameOf func(index int) string) []string {
	var warnings []string
	_, unkept := routeEntries(managed, byInterface(known))
	for _, g := range unkept {
		warnings = append(warnings, fmt.Sprintf(
			"interface %s: too many routes by gateway %s (over %d, %d in all): only who comes through it is answered so, unless `gateways` names it",
			nameOf(g.Interface), g.Address, nexthop.MostNetworks, mostRoutes))
	}
	return warnings
}

// Of several routers that take everything, some may drop what has no source of theirs (BCP 38). So in the strong host model the
// source decides among them, as far as anything tells: routes for some sources, and the networks of the interface.

// sourceEntries are the gateways that take packets from own addresses, as the programs know them. An address that all of them
// take, or of which nothing tells, is left out.
func sourceEntries(managed []*interfaces.Managed, known map[int][]*gateways.View) map[bpf.DatapathPrefixKey]uint32 {
	entries := make(map[bpf.DatapathPrefixKey]uint32)
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
					entries[sourceKey(own.Addr())] = uint32(firstGateway(fit, family))
				}
			}
		}
	}
	return entries
}

func sourceKey(own netip.Addr) bpf.DatapathPrefixKey {
	return datapath.PrefixKey(bpf.DatapathPrefixKindPREFIX_SOURCE, 0, netip.PrefixFrom(own, own.BitLen()))
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
	of = longest(of, func(g *gateways.View) int { return bitsByRoute(g, own) })
	return longest(of, func(g *gateways.View) int { return bitsByNetwork(g, own, i.Addresses) })
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
