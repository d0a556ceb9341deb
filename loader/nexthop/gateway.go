// SPDX-License-Identifier: Apache-2.0

// Package nexthop finds the gateways of the managed interfaces, has the kernel
// resolve their MAC addresses, and tells when anything changes that matters to
// either.
package nexthop

import (
	"bytes"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"replypath/loader/discover"
	"replypath/loader/discover/dump"
)

// Gateway is a router next to a managed interface.
type Gateway struct {
	Interface int // index
	Address   netip.Addr
	MAC       net.HardwareAddr // nil where no usable one is known
	State     string           // of the neighbour entry, one of the words below
	// Requested tells of a failure that somebody asked the kernel for: what has an entry
	// deleted begins with that. Only an event has it.
	Requested bool
	// IPv4 and IPv6 tell whose packets it takes. An IPv4 route may lead through
	// a router that is named by its IPv6 address.
	IPv4, IPv6 bool
	// Reach4 and Reach6 are what is routed by it: what serves a cloud's metadata (169.254.169.254), or leads to one
	// other site, need not forward anything else.
	Reach4, Reach6 Reach
	// Sources are those whose packets the IPv6 default routes by it take (RTA_SRC), ::/0 for everybody's; nil where all take
	// everybody's.
	Sources []netip.Prefix
	// Main tells that a route of the main table leads by it.
	Main bool
}

// Takes tells whether it takes packets of a family, unix.AF_INET or unix.AF_INET6.
func (g *Gateway) Takes(family int) bool {
	return g.IPv4 && family == unix.AF_INET || g.IPv6 && family == unix.AF_INET6
}

// Reach returns what is routed by the gateway in a family, unix.AF_INET or unix.AF_INET6.
func (g *Gateway) Reach(family int) Reach {
	if family == unix.AF_INET {
		return g.Reach4
	}
	return g.Reach6
}

// Default is a next hop of a default route of the main table.
type Default struct {
	Interface int        // index, managed or not
	Gateway   netip.Addr // not valid: everything is on-link
	Family    int        // unix.AF_INET or unix.AF_INET6
	// Behind: by IPv4, which goes over to a route of another metric for nothing that it knows of a neighbour
	// (fib_select_default() in net/ipv4/fib_semantics.c), so that another default route goes before.
	Behind bool
}

// Routers are the gateways of the managed interfaces, and the default routes.
type Routers struct {
	Gateways []Gateway // ordered by interface and address
	Defaults []Default // of any interface, in no particular order
	Fallback []OwnRoute
	Bound    []OwnRoute // those for sockets that are bound to a device
}

// OwnRoute is a route of replypath's own.
type OwnRoute struct {
	Default
	Table int
	To    netip.Prefix
}

func resolveAll(
	nl *netlink.Handle, managed []discover.Interface, hops []hop, reaches *reaches, rules []dump.Rule,
) ([]Gateway, error) {
	own, err := ownAddresses(nl)
	if err != nil {
		return nil, err
	}
	entries, err := neighbours(nl)
	if err != nil {
		return nil, err
	}
	var gateways []Gateway
	selected := selections(rules)
	for _, i := range managed {
		by := make(map[int]*tables)
		for _, family := range dump.Families {
			by[family] = tablesOf(&i, family, selected, own)
		}
		for _, g := range gatewaysOf(i, hops, reaches, by) {
			if !own.has(i.Index, g.Address) {
				g.resolve(i, entries)
				gateways = append(gateways, g)
			}
		}
	}
	return gateways, nil
}

// resolve fills in what the kernel knows of a gateway.
func (g *Gateway) resolve(i discover.Interface, entries map[location]*netlink.Neigh) {
	entry := entries[location{g.Interface, g.Address}]
	switch {
	case entry != nil && i.MAC != nil:
		g.State, g.MAC = wordOf(entry)
	case i.NoARP:
		g.State = StateNoARP
	default:
		g.State = StateNone
	}
	// The kernel's own entries on an interface without ARP hold the MAC address
	// of the interface. Others are somebody's static entries.
	if g.State == StateNoARP && bytes.Equal(g.MAC, i.MAC) {
		g.MAC = nil
	}
}

// hop is a gateway of a route, or any next hop of a default route.
type hop struct {
	device  int        // index
	gateway netip.Addr // not valid: none
	family  int        // of the route, unix.AF_INET or unix.AF_INET6
	kind    hopKind
	table   int // of the route
	metric  int // of a default route, as is tos
	tos     int
	source  netip.Prefix // whose packets a default route of any table takes; not valid for other routes
	to      netip.Prefix // of a route of replypath's own
}

type hopKind int

const (
	byRoute    hopKind = iota // of a route, or configured
	byDefault                 // of a default route of the main table
	byFallback                // of a route of replypath's own, which makes no gateway
	byBound                   // of one for bound sockets, which makes none either
)

// collectHops adds the next hops of a route, all of them where it has several.
func collectHops(r *dump.Route, add func(hop)) {
	if r.Type != unix.RTN_UNICAST {
		return
	}
	kind, isDefault := byRoute, r.Table == unix.RT_TABLE_MAIN && r.Dst.Bits() == 0
	switch {
	case r.Protocol == discover.OwnProtocol && uint32(r.Metric) == discover.BoundMetric:
		kind = byBound
	case r.Protocol == discover.OwnProtocol:
		kind = byFallback
	case isDefault:
		kind = byDefault
	}
	for _, h := range r.Hops {
		if h.Gateway.IsValid() || kind != byRoute {
			found := hop{device: h.Interface, gateway: h.Gateway, family: r.Family, kind: kind, table: r.Table}
			if kind == byDefault {
				found.metric, found.tos = r.Metric, r.TOS
			}
			if r.Dst.Bits() == 0 {
				found.source = r.Src.Masked()
			}
			if found.isOwn() {
				found.to = r.Dst.Masked()
			}
			add(found)
		}
	}
}

// isOwn tells what replypath has made.
func (h *hop) isOwn() bool { return h.kind == byFallback || h.kind == byBound }

// isGateway tells what makes a router a gateway of its interface.
func (h *hop) isGateway() bool { return h.gateway.IsValid() && !h.isOwn() }

// gatewaysOf returns the gateways of one interface, ordered by address.
func gatewaysOf(i discover.Interface, routed []hop, reaches *reaches, by map[int]*tables) []Gateway {
	hops := configuredHops(i)
	replaced := map[int]bool{}
	for _, h := range hops {
		replaced[h.family] = true
	}
	for _, h := range routed {
		if h.device == i.Index && h.isGateway() && !replaced[h.family] && by[h.family].have(h.table, h.source.IsValid()) {
			hops = append(hops, h)
		}
	}
	gateways := merge(hops)
	for n := range gateways {
		g := &gateways[n]
		reach := func(family int, takes bool) Reach {
			if !takes || replaced[family] {
				return Reach{Everything: takes}
			}
			return reaches.of(g.Address, family, by[family])
		}
		g.Reach4, g.Reach6 = reach(unix.AF_INET, g.IPv4), reach(unix.AF_INET6, g.IPv6)
	}
	return gateways
}

// configuredHops are the gateways that the configuration gives to an interface.
func configuredHops(i discover.Interface) []hop {
	var hops []hop
	for _, address := range i.Settings.Gateways {
		family := unix.AF_INET
		if address.Is6() {
			family = unix.AF_INET6
		}
		hops = append(hops, hop{device: i.Index, gateway: address, family: family})
	}
	return hops
}

// merge makes one gateway of the hops with the same address.
func merge(hops []hop) []Gateway {
	slices.SortFunc(hops, func(a, b hop) int { return a.gateway.Compare(b.gateway) })
	var gateways []Gateway
	for _, h := range hops {
		if n := len(gateways); n == 0 || gateways[n-1].Address != h.gateway {
			gateways = append(gateways, Gateway{Interface: h.device, Address: h.gateway})
		}
		g := &gateways[len(gateways)-1]
		g.IPv4 = g.IPv4 || h.family == unix.AF_INET
		g.IPv6 = g.IPv6 || h.family == unix.AF_INET6
		g.Main = g.Main || h.table == unix.RT_TABLE_MAIN
		if h.family == unix.AF_INET6 && h.source.IsValid() && !slices.Contains(g.Sources, h.source) {
			g.Sources = append(g.Sources, h.source)
		}
	}
	for n := range gateways {
		gateways[n].tellSources()
	}
	return gateways
}

// tellSources leaves out sources that tell nothing, and puts the others in order.
func (g *Gateway) tellSources() {
	if !slices.ContainsFunc(g.Sources, func(p netip.Prefix) bool { return p.Bits() > 0 }) {
		g.Sources = nil
	}
	slices.SortFunc(g.Sources, netip.Prefix.Compare)
}
