// SPDX-License-Identifier: Apache-2.0

// Package ways says what the programs are told of the ways by which replies may leave: interfaces, gateways, which
// networks are routed by which gateway, and which takes packets from which own address.
package ways

import (
	"maps"

	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/loader/config"
	"replypath/loader/datapath"
	"replypath/loader/gateways"
	"replypath/loader/hostmaps"
	"replypath/loader/interfaces"
)

// Watch tells whether our programs are on an interface.
type Watch interface {
	IsAttached(index int) bool
}

// Of returns what the programs know of the managed and caught interfaces, and of gateways.
func Of(served []*interfaces.Managed, watch Watch, known []*gateways.View) *hostmaps.Ways {
	of := byInterface(known)
	w := &hostmaps.Ways{
		Interfaces: make(map[uint32]bpf.DatapathInterface), Gateways: make(map[uint32]bpf.DatapathGateway), MACs: gatewayMACs(known),
	}
	for _, g := range known {
		w.Gateways[uint32(g.ID)] = gatewayEntry(g)
	}
	for _, i := range served {
		entry := interfaceEntry(i, of[i.Index])
		if !watch.IsAttached(i.Index) {
			entry.Flags |= uint8(bpf.DatapathInterfaceFlagsINTERFACE_UNSEEN)
		}
		w.Interfaces[bpf.PlaceOf(i.Index)] = entry
	}
	w.Routes, _ = routeEntries(served, of)
	maps.Copy(w.Routes, sourceEntries(served, of))
	return w
}

// interfaceEntry is what the programs know of an interface with these gateways.
func interfaceEntry(s *interfaces.Managed, known []*gateways.View) bpf.DatapathInterface {
	entry := bpf.DatapathInterface{
		Ifindex: uint32(s.Index),
		Id:      s.ID,
		Mtu:     uint32(s.MTU),
		Vrf:     uint32(s.VRF),
		Lower:   uint32(s.Lower),
		NextHop: uint8(nextHopModes[s.Settings.NextHop]),
		Mode:    uint8(datapath.Modes[s.Settings.Mode]),
	}
	if s.Settings.NextHop == config.NextHopAuto && len(s.Settings.Gateways) > 0 {
		entry.NextHop = uint8(bpf.DatapathNextHopModeNEXT_HOP_TOLD)
	}
	copy(entry.Mac[:], s.MAC)
	for flag, is := range map[bpf.DatapathInterfaceFlags]bool{
		bpf.DatapathInterfaceFlagsINTERFACE_UP:        s.Up,
		bpf.DatapathInterfaceFlagsINTERFACE_NO_HEADER: !s.HasHeader(),
		bpf.DatapathInterfaceFlagsINTERFACE_STRONG:    s.Settings.HostModel == config.HostModelStrong,
		bpf.DatapathInterfaceFlagsINTERFACE_STRICT:    s.Strict,
		bpf.DatapathInterfaceFlagsINTERFACE_ROUTES4:   asksRoutes(s, known, unix.AF_INET),
		bpf.DatapathInterfaceFlagsINTERFACE_ROUTES6:   asksRoutes(s, known, unix.AF_INET6),
	} {
		if is {
			entry.Flags |= uint8(flag)
		}
	}
	for what, is := range map[bpf.DatapathTakes]bool{ // beside requests for own addresses
		bpf.DatapathTakesTAKES_ITS_OWN_ONLY: s.OwnOnly, bpf.DatapathTakesTAKES_ALL4: s.TakesAll4, bpf.DatapathTakesTAKES_ALL6: s.TakesAll6,
	} {
		if is {
			entry.Takes |= uint8(what)
		}
	}
	for _, g := range known {
		if g.IPv4 {
			countGateway(&entry.Gateways4, &entry.Gateway4, g.ID)
		}
		if g.IPv6 {
			countGateway(&entry.Gateways6, &entry.Gateway6, g.ID)
		}
	}
	entry.FirstGateway4 = firstGateway(known, unix.AF_INET)
	entry.FirstGateway6 = firstGateway(known, unix.AF_INET6)
	return entry
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

// gatewayEntry is what the programs know of a gateway.
func gatewayEntry(g *gateways.View) bpf.DatapathGateway {
	entry := bpf.DatapathGateway{Address: g.Address.As16(), Ifindex: uint32(g.Interface)}
	if len(g.ReplyMAC) == len(entry.Mac) {
		copy(entry.Mac[:], g.ReplyMAC)
		entry.Usable = 1
	}
	return entry
}

// gatewayMACs are how the programs know from which gateway a frame came. Of
// several addresses of one router, the one that was known first stands for it.
func gatewayMACs(known []*gateways.View) map[bpf.DatapathPrefixKey]uint32 {
	macs := make(map[bpf.DatapathPrefixKey]uint32)
	add := func(g *gateways.View, family uint8) {
		key := datapath.MACKey(bpf.DatapathPrefixKindPREFIX_GATEWAY, g.Interface, g.ReplyMAC, family)
		if id, isTaken := macs[key]; !isTaken || uint32(g.ID) < id {
			macs[key] = uint32(g.ID)
		}
	}
	for _, g := range known {
		if len(g.ReplyMAC) == 0 {
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
