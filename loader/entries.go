package loader

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/loader/config"
	"replypath/loader/datapath"
	"replypath/loader/discover"
)

// interfaceEntry is what the programs know of an interface with these gateways.
func interfaceEntry(s *served, gateways []*gateway) bpf.DatapathInterface {
	entry := bpf.DatapathInterface{
		Ifindex: uint32(s.Index),
		Mtu:     uint32(s.MTU),
		Vrf:     uint32(s.VRF),
		Lower:   uint32(s.Lower),
		Since:   s.watched.since,
		NextHop: uint8(nextHopModes[s.Settings.NextHop]),
		Mode:    uint8(modes[s.Settings.Mode]),
	}
	copy(entry.Mac[:], s.MAC)
	if s.Up {
		entry.Flags |= uint8(bpf.DatapathInterfaceFlagsINTERFACE_UP)
	}
	if !s.hasHeader() {
		entry.Flags |= uint8(bpf.DatapathInterfaceFlagsINTERFACE_NO_HEADER)
	}
	for _, g := range gateways {
		if g.IPv4 {
			countGateway(&entry.Gateways4, &entry.Gateway4, g.id)
		}
		if g.IPv6 {
			countGateway(&entry.Gateways6, &entry.Gateway6, g.id)
		}
	}
	if asksRoutes(s, gateways, unix.AF_INET) {
		entry.Flags |= uint8(bpf.DatapathInterfaceFlagsINTERFACE_ROUTES4)
	}
	if asksRoutes(s, gateways, unix.AF_INET6) {
		entry.Flags |= uint8(bpf.DatapathInterfaceFlagsINTERFACE_ROUTES6)
	}
	return entry
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

// countGateway adds a gateway of one family. only is the index of the only one.
func countGateway(count *uint8, only *uint16, id uint16) {
	if *count == 0 {
		*only = id
	} else {
		*only = 0
	}
	if *count < 255 {
		*count++
	}
}

var nextHopModes = map[config.NextHop]bpf.DatapathNextHopMode{
	config.NextHopAuto:    bpf.DatapathNextHopModeNEXT_HOP_AUTO,
	config.NextHopGateway: bpf.DatapathNextHopModeNEXT_HOP_GATEWAY,
	config.NextHopLastHop: bpf.DatapathNextHopModeNEXT_HOP_LAST,
}

var modes = map[config.Mode]bpf.DatapathMode{
	config.ModeEnforce: bpf.DatapathModeMODE_ENFORCE,
	config.ModeObserve: bpf.DatapathModeMODE_OBSERVE,
}

var followPolicies = map[config.Follow]bpf.DatapathFollow{
	config.FollowValidated: bpf.DatapathFollowFOLLOW_VALIDATED,
	config.FollowPinned:    bpf.DatapathFollowFOLLOW_PINNED,
	config.FollowLatest:    bpf.DatapathFollowFOLLOW_LATEST,
}

// gatewayEntry is what the programs know of a gateway.
func gatewayEntry(g *gateway) bpf.DatapathGateway {
	entry := bpf.DatapathGateway{Address: g.Address.As16(), Ifindex: uint32(g.Interface)}
	if len(g.mac) == len(entry.Mac) {
		copy(entry.Mac[:], g.mac)
		entry.Usable = 1
	}
	return entry
}

// gatewayMACs are how the programs know from which gateway a frame came. Of
// several addresses of one router, the one that was known first stands for it.
func gatewayMACs(gateways map[gatewayKey]*gateway) map[bpf.DatapathGatewayMac]uint32 {
	macs := make(map[bpf.DatapathGatewayMac]uint32)
	add := func(g *gateway, family uint8) {
		key := bpf.DatapathGatewayMac{Ifindex: uint32(g.Interface), Family: family}
		copy(key.Mac[:], g.mac)
		if id, known := macs[key]; !known || uint32(g.id) < id {
			macs[key] = uint32(g.id)
		}
	}
	for _, g := range gateways {
		if len(g.mac) == 0 {
			continue
		}
		if g.IPv4 {
			add(g, 4)
		}
		if g.IPv6 {
			add(g, 6)
		}
	}
	return macs
}

// interfaceBits are those of the prefix of an on_link key that tell the interface.
const interfaceBits = 32

func onLinkEntries(networks []discover.OnLink) map[bpf.DatapathOnLinkKey]uint32 {
	entries := make(map[bpf.DatapathOnLinkKey]uint32)
	for _, n := range networks {
		entries[bpf.DatapathOnLinkKey{
			PrefixLength: interfaceBits + uint32(mappedBits(n.Prefix)),
			Ifindex:      uint32(n.Interface),
			Address:      n.Prefix.Masked().Addr().As16(),
		}] = 1
	}
	return entries
}

// mappedBits is the length of a prefix of 16-byte addresses: that of IPv4 counts
// from ::ffff:0:0/96.
func mappedBits(p netip.Prefix) int { return p.Bits() + 128 - p.Addr().BitLen() }

// mostHostBits bounds the local routes that are taken apart: the programs know
// single addresses only.
const mostHostBits = 8

// ownEntries returns the host's own addresses, and the local routes that are too
// large to be taken apart.
func ownEntries(found *discover.Result) (entries map[bpf.DatapathAddress]uint32, left []discover.OwnPrefix) {
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
		entries[bpf.DatapathAddress{Bytes: a.Address.As16()}] = ownFlags(a.LoopbackOnly)
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
		rule := bpf.DatapathExclusion{Protocol: e.Protocol, SelfPort: networkOrder(e.SelfPort)}
		rule.Peer, rule.PeerMask = datapath.PrefixWords(e.Peer)
		rule.Self, rule.SelfMask = datapath.PrefixWords(e.Self)
		set.Rule[i] = rule
	}
	return set
}

// networkOrder returns the number whose bytes in memory are in network order.
func networkOrder(port uint16) uint16 {
	var bytes [2]byte
	binary.BigEndian.PutUint16(bytes[:], port)
	return binary.NativeEndian.Uint16(bytes[:])
}

// settingsEntry is the configuration as the programs read it, without the exclusions,
// and a mode that was set by hand.
func settingsEntry(cfg *config.Config) bpf.DatapathSettings {
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
