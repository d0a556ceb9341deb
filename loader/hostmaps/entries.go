// SPDX-License-Identifier: Apache-2.0

package hostmaps

import (
	"replypath/bpf"
	"replypath/loader/config"
	"replypath/loader/datapath"
	"replypath/loader/discover"
)

// interfaceBits are those of the prefix of an on_link key that tell the interface.
const interfaceBits = 32

// OnLinkNetworks are the networks that are on the link, as the programs find them.
func OnLinkNetworks(networks []discover.OnLink) map[bpf.DatapathOnLinkKey]uint32 {
	entries := make(map[bpf.DatapathOnLinkKey]uint32)
	for _, n := range networks {
		entries[bpf.DatapathOnLinkKey{
			PrefixLength: interfaceBits + uint32(datapath.MappedBits(n.Prefix)),
			Ifindex:      uint32(n.Interface),
			Address:      n.Prefix.Masked().Addr().As16(),
		}] = uint32(onLinkFlags(n))
	}
	return entries
}

func onLinkFlags(n discover.OnLink) bpf.DatapathOnLinkFlags {
	if n.Routed {
		return bpf.DatapathOnLinkFlagsON_LINK | bpf.DatapathOnLinkFlagsON_LINK_ROUTED
	}
	return bpf.DatapathOnLinkFlagsON_LINK
}

// mostHostBits bounds the local routes that are taken apart: the programs know
// single addresses only.
const mostHostBits = 8

// OwnAddresses returns the host's own addresses, and the local routes that are too
// large to be taken apart. idOf is the index into the map `interfaces` of a device, 0 where it is not managed.
func OwnAddresses(found *discover.Result, idOf func(device int) uint16) (entries map[bpf.DatapathAddress]uint32, left []discover.OwnPrefix) {
	entries = make(map[bpf.DatapathAddress]uint32)
	for _, p := range found.OwnPrefixes {
		if p.Prefix.Addr().BitLen()-p.Prefix.Bits() > mostHostBits {
			left = append(left, p)
			continue
		}
		for a := p.Prefix.Masked().Addr(); p.Prefix.Contains(a); a = a.Next() {
			entries[bpf.DatapathAddress{Bytes: a.As16()}] = ownFlags(p.LoopbackOnly)
		}
	}
	for _, a := range found.Own {
		entries[bpf.DatapathAddress{Bytes: a.Address.As16()}] = ownFlags(a.LoopbackOnly) | uint32(idOf(a.Interface))<<bpf.DatapathOwnFlagsOWN_INTERFACE_SHIFT
	}
	return entries, left
}

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

// settings is the configuration as the programs read it, without the exclusions,
// and a mode that was set by hand.
func settings(cfg *config.Config) bpf.DatapathSettings {
	entry := bpf.DatapathSettings{
		Follow: uint8(followPolicies[cfg.Follow]),
	}
	if cfg.Scope == config.ScopeAll {
		entry.ScopeAll = 1
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
