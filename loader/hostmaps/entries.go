// SPDX-License-Identifier: Apache-2.0

package hostmaps

import (
	"net/netip"
	"slices"

	"replypath/bpf"
	"replypath/loader/config"
	"replypath/loader/datapath"
	"replypath/loader/discover"
)

// OnLinkNetworks are the networks that are on the link, as the programs find them.
func OnLinkNetworks(networks []discover.OnLink) map[bpf.DatapathPrefixKey]uint32 {
	entries := make(map[bpf.DatapathPrefixKey]uint32)
	for _, n := range networks {
		entries[datapath.PrefixKey(bpf.DatapathPrefixKindPREFIX_ON_LINK, n.Interface, n.Prefix)] = uint32(onLinkFlags(n))
	}
	return entries
}

func onLinkFlags(n discover.OnLink) bpf.DatapathOnLinkFlags {
	if n.Routed {
		return bpf.DatapathOnLinkFlagsON_LINK | bpf.DatapathOnLinkFlagsON_LINK_ROUTED
	}
	return bpf.DatapathOnLinkFlagsON_LINK
}

// mostHostBits bounds the local routes that are taken apart, so that sockets of the wildcard answer from their addresses.
const mostHostBits = 8

// OwnAddresses returns the host's own addresses. One that only lo or a dummy device has is like any other where the
// configuration names it. idOf is the id of a device, 0 where it is not managed.
func OwnAddresses(found *discover.Result, configured []netip.Prefix, idOf func(device int) uint16) map[[16]byte]uint32 {
	entries := make(map[[16]byte]uint32)
	for _, p := range found.OwnPrefixes {
		for a := p.Prefix.Masked().Addr(); !isLarge(p.Prefix) && p.Prefix.Contains(a); a = a.Next() {
			entries[a.As16()] = ownFlags(p.LoopbackOnly)
		}
	}
	for _, a := range found.Own {
		isNamed := slices.ContainsFunc(configured, func(p netip.Prefix) bool { return p.Contains(a.Address) })
		entries[a.Address.As16()] = ownFlags(a.LoopbackOnly && !isNamed) | uint32(idOf(a.Interface))<<bpf.DatapathOwnFlagsOWN_INTERFACE_SHIFT
	}
	return entries
}

func isLarge(p netip.Prefix) bool { return p.Addr().BitLen()-p.Bits() > mostHostBits }

// ServedAddresses returns the networks that the host serves although no interface has them: large local routes, what
// rules translate, and what the configuration names.
func ServedAddresses(found *discover.Result, translated, configured []netip.Prefix) map[bpf.DatapathPrefixKey]uint32 {
	entries := make(map[bpf.DatapathPrefixKey]uint32)
	add := func(p netip.Prefix, flags uint32) {
		entries[datapath.PrefixKey(bpf.DatapathPrefixKindPREFIX_SERVED, 0, p)] = flags
	}
	for _, p := range found.OwnPrefixes {
		if isLarge(p.Prefix) {
			add(p.Prefix, ownFlags(p.LoopbackOnly))
		}
	}
	for _, p := range translated {
		add(p, uint32(bpf.DatapathOwnFlagsOWN_ADDRESS|bpf.DatapathOwnFlagsOWN_TRANSLATED))
	}
	for _, p := range configured {
		add(p, configuredFlags)
	}
	return entries
}

const configuredFlags = uint32(bpf.DatapathOwnFlagsOWN_ADDRESS | bpf.DatapathOwnFlagsOWN_CONFIGURED)

func ownFlags(loopbackOnly bool) uint32 {
	flags := uint32(bpf.DatapathOwnFlagsOWN_ADDRESS)
	if loopbackOnly {
		flags |= uint32(bpf.DatapathOwnFlagsOWN_LOOPBACK_ONLY)
	}
	return flags
}

// exclusionSet are the exclusions as the programs read them, at most
// config.MaxExclusions.
func exclusionSet(exclusions []config.Exclusion) bpf.DatapathExclusionSet {
	set := bpf.DatapathExclusionSet{Count: uint32(len(exclusions))}
	for i, e := range exclusions {
		rule := bpf.DatapathExclusion{Protocol: e.Protocol, SelfPort: datapath.Port(e.SelfPort)}
		rule.Peer, rule.PeerMask = datapath.PrefixWords(e.Peer)
		rule.Self, rule.SelfMask = datapath.PrefixWords(e.Self)
		set.Rule[i] = rule
	}
	return set
}

// settings are the configuration as the programs read it, without the exclusions,
// and a mode that was set by hand.
func settings(cfg *config.Config) bpf.DatapathSettings {
	entry := bpf.DatapathSettings{
		Follow: uint8(followPolicies[cfg.Follow]),
	}
	if cfg.Scope == config.ScopeAll {
		entry.ScopeAll = 1
	}
	if cfg.Related {
		entry.Related = 1
	}
	if cfg.LoopbackAddresses == config.LoopbackSymmetric {
		entry.Loopback = 1
	}
	for _, protocol := range cfg.Protocols {
		entry.Protocols[protocol/8] |= 1 << (protocol % 8)
	}
	return entry
}

var followPolicies = map[config.Follow]bpf.DatapathFollow{
	config.FollowValidated: bpf.DatapathFollowFOLLOW_VALIDATED,
	config.FollowPinned:    bpf.DatapathFollowFOLLOW_PINNED,
	config.FollowLatest:    bpf.DatapathFollowFOLLOW_LATEST,
}

// takesOfAny is the record of no interface, which takes what any of the others does.
func takesOfAny(interfaces map[uint32]bpf.DatapathInterface) (none bpf.DatapathInterface) {
	for _, entry := range interfaces {
		none.Takes |= entry.Takes &^ uint8(bpf.DatapathTakesTAKES_ITS_OWN_ONLY)
	}
	return none
}

// markNarrow marks the interfaces whose MTU another one exceeds: replies that are
// built for that one may be too large for them.
func markNarrow(interfaces map[uint32]bpf.DatapathInterface) {
	var largest uint32
	for _, entry := range interfaces {
		largest = max(largest, entry.Mtu)
	}
	for id, entry := range interfaces {
		if entry.Mtu < largest {
			entry.Flags |= uint8(bpf.DatapathInterfaceFlagsINTERFACE_NARROW)
			interfaces[id] = entry
		}
	}
}
