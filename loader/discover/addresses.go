// SPDX-License-Identifier: Apache-2.0

package discover

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"replypath/loader/discover/dump"
)

// routed is what a scan wants to know of a route.
type routed struct {
	kind   routedKind
	device int          // index
	prefix netip.Prefix // masked; of a gateway: its address alone

	byDefault bool // the route leads everywhere
}

type routedKind int

const (
	connected routedKind = iota // on-link
	local                       // this host's own
	through                     // a gateway
)

// widest bounds the length of prefixes that are no network of one link. VPNs cover a default route by its two halves.
const widest = 8

// leadsOut tells a way by which replies to peers behind routers may leave.
func (r routed) leadsOut() bool {
	return r.kind == through || r.kind == connected && r.prefix.Bits() < widest && !r.prefix.Addr().IsMulticast()
}

// collectRouted sorts a route's hops by what they tell. A local route in another
// table than the local one makes no address the host's: such are part of
// transparent proxies, which take packets to anywhere for their own. What every link has for itself tells nothing,
// nor do replypath's own routes.
func collectRouted(r *dump.Route, add func(routed)) {
	if r.Protocol == OwnProtocol {
		return
	}
	isOfLink, byDefault := r.Dst.Addr().IsLinkLocalUnicast(), r.Dst.IsValid() && r.Dst.Bits() == 0
	for _, hop := range r.Hops {
		switch {
		case isOfLink && !hop.Gateway.IsValid():
		case r.Type == unix.RTN_LOCAL && r.Table == unix.RT_TABLE_LOCAL:
			add(routed{local, hop.Interface, r.Dst, byDefault})
		case r.Type != unix.RTN_UNICAST || r.Table == unix.RT_TABLE_LOCAL:
		case hop.Gateway.IsValid():
			add(routed{through, hop.Interface, single(hop.Gateway), byDefault})
		default:
			add(routed{connected, hop.Interface, r.Dst, byDefault})
		}
	}
}

// network is what the kernel says of a network namespace.
type network struct {
	links     []netlink.Link
	addresses []netlink.Addr
	routed    []routed
	leadOut   func(index int) bool       // tells of routes; nil: there are none
	served    func(index int) *Interface // nil: none
}

// onLink collects the networks of managed interfaces: those with a route that
// names no gateway, and those that follow from an address or its peer.
//
// An IPv6 address by itself does not make its prefix on-link (RFC 5942). It is
// taken for it all the same: a peer wrongly believed on-link is answered by way
// of the MAC address that its packets come from, which is right then too, while
// one wrongly believed behind the router would be answered through it.
func (n *network) onLink(managed []Interface) []OnLink {
	isManaged := map[int]bool{}
	for _, i := range managed {
		isManaged[i.Index] = true
	}
	// Of an address without a network, IPv6 has a route as to any other host.
	isOwn := map[netip.Prefix]bool{}
	for i := range n.addresses {
		isOwn[single(dump.Address(n.addresses[i].IP))] = true
	}
	found := map[OnLink]bool{} // whether it is routed
	add := func(device int, prefix netip.Prefix, routed bool) {
		if isManaged[device] && prefix.Bits() > 0 && !prefix.Addr().IsLinkLocalUnicast() && !isOwn[prefix] {
			key := OnLink{Interface: device, Prefix: prefix.Masked()}
			found[key] = found[key] || routed
		}
	}
	for _, r := range n.routed {
		if r.kind == connected {
			add(r.device, r.prefix, true)
		}
	}
	for i := range n.addresses {
		add(n.addresses[i].LinkIndex, dump.Prefix(n.addresses[i].IPNet), false)
		add(n.addresses[i].LinkIndex, dump.Prefix(n.addresses[i].Peer), false)
	}
	var list []OnLink
	for network, routed := range found {
		network.Routed = routed
		list = append(list, network)
	}
	slices.SortFunc(list, func(a, b OnLink) int {
		return cmp.Or(cmp.Compare(a.Interface, b.Interface), a.Prefix.Compare(b.Prefix))
	})
	return list
}

// ownAddresses collects the addresses of all interfaces, and the single ones
// that only a local route makes this host's.
func (n *network) ownAddresses(ds *devices) []OwnAddress {
	assigned := make(map[netip.Addr]OwnAddress)
	for i := range n.addresses {
		carry(assigned, dump.Address(n.addresses[i].IP), n.addresses[i].LinkIndex, ds)
	}
	routed := make(map[netip.Addr]OwnAddress)
	for _, r := range n.routed {
		address := r.prefix.Addr()
		if _, known := assigned[address]; !known && r.kind == local && r.prefix.IsSingleIP() {
			carry(routed, address, r.device, ds)
		}
	}
	maps.Copy(assigned, routed)
	var own []OwnAddress
	for _, address := range slices.SortedFunc(maps.Keys(assigned), netip.Addr.Compare) {
		if address.IsGlobalUnicast() {
			own = append(own, assigned[address])
		}
	}
	return own
}

// carry remembers that a device carries an address.
func carry(seen map[netip.Addr]OwnAddress, address netip.Addr, device int, ds *devices) {
	own, known := seen[address]
	if !known {
		own = OwnAddress{Address: address, LoopbackOnly: true, Interface: device}
	}
	if own.Interface != device {
		own.Interface = 0
	}
	own.LoopbackOnly = own.LoopbackOnly && ds.leadsNowhere(device)
	seen[address] = own
}

// ownPrefixes collects the local routes to more than one address.
func (n *network) ownPrefixes(ds *devices) []OwnPrefix {
	found := map[netip.Prefix]bool{}
	for _, r := range n.routed {
		if r.kind == local && !r.prefix.IsSingleIP() && r.prefix.Addr().IsGlobalUnicast() {
			note(found, r.prefix, ds.leadsNowhere(r.device))
		}
	}
	var own []OwnPrefix
	for _, prefix := range slices.SortedFunc(maps.Keys(found), netip.Prefix.Compare) {
		own = append(own, OwnPrefix{prefix, found[prefix]})
	}
	return own
}

// note remembers of an address or prefix whether every device that has it leads
// nowhere.
func note[K comparable](seen map[K]bool, key K, leadsNowhere bool) {
	before, known := seen[key]
	seen[key] = leadsNowhere && (before || !known)
}

// strayGateways warns of configured gateways that no network of their interface
// holds at present, and that no route uses either. They are tried all the same:
// the host may be about to get the address, or have none there on purpose.
func (n *network) strayGateways(r *Result) []string {
	var warnings []string
	for _, i := range r.Interfaces {
		for _, gateway := range i.Settings.Gateways {
			if !gateway.IsLinkLocalUnicast() && !n.reaches(i.Index, gateway, r.OnLink) {
				warnings = append(warnings, fmt.Sprintf(
					"gateway %s is outside the present networks of interface %s: it is used once it answers there", gateway, i.Name))
			}
		}
	}
	return warnings
}

// reaches tells whether a gateway can be told to be next to an interface.
func (n *network) reaches(device int, gateway netip.Addr, onLink []OnLink) bool {
	return slices.ContainsFunc(onLink, func(o OnLink) bool {
		return o.Interface == device && o.Prefix.Contains(gateway)
	}) || slices.ContainsFunc(n.routed, func(r routed) bool {
		return r.kind == through && r.device == device && r.prefix.Addr() == gateway
	})
}

// single is the prefix that holds one address.
func single(address netip.Addr) netip.Prefix { return netip.PrefixFrom(address, address.BitLen()) }
