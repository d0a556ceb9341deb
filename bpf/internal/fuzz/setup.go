// SPDX-License-Identifier: Apache-2.0

package fuzz

import (
	"fmt"
	"net/netip"

	"replypath/bpf"
	"replypath/bpf/internal/model"
	"replypath/bpf/internal/rig"
)

// Setup is the configuration that a program runs under.
type Setup struct {
	follow            bpf.DatapathFollow
	scopeAll          bool
	loopbackSymmetric bool
	grace             bool
	withoutUDP        bool // not among the recorded protocols
	withGRE           bool
	related           bool
	mode              bpf.DatapathMode // by hand
	trialOver         bool
	repair            bpf.DatapathSourceRepair
	exclusion         int
	onLink            int  // the device that has the network of the on-link peer; devices: none
	unmanaged         int  // a device that is not managed; devices: none
	bare              int  // a device whose frames have no Ethernet header; devices: none
	serves            bool // an address that no interface has
	source            int  // the device that has the own addresses alone; devices: several have them
	devices           [devices]deviceSetup
}

type deviceSetup struct {
	nextHop  bpf.DatapathNextHopMode
	gateways uint8
	routes   routes
	observe  bool
	down     bool
	mtu      uint32
	narrow   bool // another interface has a larger MTU
	strong   bool // host_model
	strict   bool // rp_filter
	takes    bpf.DatapathTakes
}

// routes is what is told of those by a device's gateways.
type routes uint8

const (
	allPeers       routes = iota // the gateways serve all peers
	somePeers                    // the only one, or the second, serves some; of IPv6, one everybody too
	unknownGateway               // some are served by one of the gateways
	onlyIPv4                     // as somePeers, but by IPv6 they serve all
	routesEnd      = iota
)

func decodeSetup(r record) Setup {
	s := Setup{
		follow:            bpf.DatapathFollow([]byte{0, 0, 0, 1, 2}[r[0]%5]),
		scopeAll:          r[1]&3 == 3,
		loopbackSymmetric: r[1]>>2&1 == 1,
		grace:             r[1]>>3&7 == 7,
		withoutUDP:        r[1]>>6 == 3,
		withGRE:           r[2]&1 == 1,
		related:           r[2]>>6&1 == 0,
		mode:              bpf.DatapathMode([]byte{0, 0, 0, 0, 1, 2}[r[3]%6]),
		trialOver:         r[14]>>4 == 15,
		repair:            bpf.DatapathSourceRepair([]byte{2, 2, 1, 0}[r[14]&3]),
		exclusion:         int(r[4]) % len(exclusions),
		onLink:            []int{devices, 1, 0, 2}[r[5]&3],
		unmanaged:         devices,
		bare:              devices,
		source:            int(r[2]) >> 1 & 3,
		serves:            r[14]>>2&3 == 3,
	}
	if r[13] >= 128 {
		s.bare = int(r[13]) % devices
	}
	if r[6] >= 224 {
		s.unmanaged = int(r[6]) % devices
	}
	for i := range s.devices {
		b, c := r[7+2*i], r[8+2*i]
		s.devices[i] = deviceSetup{
			nextHop:  bpf.DatapathNextHopMode([]byte{0, 0, 1, 2}[b&3]),
			gateways: []uint8{1, 2, 1, 0}[b>>2&3],
			routes:   []routes{allPeers, somePeers, unknownGateway, onlyIPv4}[b>>7<<1|c>>7],
			observe:  b>>4&7 == 7,
			down:     c&15 == 15,
			mtu:      []uint32{1500, 1500, 1500, 1280, 1500, 1400, 1279, 551}[c>>4&7],
			strong:   r[2]>>(3+i)&1 == 1,
			strict:   r[13]>>i&1 == 1,
			takes:    bpf.DatapathTakes([]uint8{0, 0, 0, 1, 2, 6, 7, 4}[r[15]>>(2*i)&7]),
		}
	}
	for i := range s.devices {
		for j, other := range s.devices {
			s.devices[i].narrow = s.devices[i].narrow || j != s.unmanaged && other.mtu > s.devices[i].mtu
		}
	}
	return s
}

// exclusions that a setup may have; the first is none.
var exclusions = [...]model.Exclusion{
	{SelfPort: 1},
	{SelfPort: 1},
	{Peer: netip.MustParsePrefix("10.2.0.101/32")},
	{Peer: netip.MustParsePrefix("fd00:2::/64")},
	{Self: netip.MustParsePrefix("10.3.0.0/16")},
	{SelfPort: 5433},
	{Protocol: 17, SelfPort: 5432},
	{Protocol: 1},
}

func (s Setup) String() string {
	type fields Setup
	return fmt.Sprintf("%+v", fields(s))
}

func interfaceID(device int) uint16 { return uint16(device + 1) }

// gatewayID is the index of one of a device's gateways: two of IPv4, two of IPv6.
func gatewayID(device, index int) uint16 { return uint16(device*gatewaysPerDevice + index + 1) }

// host is what the loader would make of the setup.
func (s Setup) host(real []rig.Device) model.Host {
	h := model.Host{
		Interfaces:        make(map[uint16]model.Interface),
		Gone:              make(map[uint16]bool),
		Down:              make(map[uint16]bool),
		Downs:             map[uint16]uint16{1: 1, 2: 1, 3: 1},
		Gateways:          make(map[uint16]model.Gateway),
		OwnAddresses:      make(map[netip.Addr]bpf.DatapathOwnFlags),
		Served:            make(map[netip.Prefix]bpf.DatapathOwnFlags),
		OnLink:            make(map[uint32][]netip.Prefix),
		Routes:            make(map[uint32][]model.Route),
		Exclusions:        []model.Exclusion{exclusions[s.exclusion]},
		Protocols:         map[uint8]bool{1: true, 6: true, 17: !s.withoutUDP, 47: s.withGRE, 58: true, 132: true},
		Follow:            s.follow,
		ScopeAll:          s.scopeAll,
		LoopbackSymmetric: s.loopbackSymmetric,
		ModeByHand:        s.mode,
		TrialOver:         s.trialOver,
		Repair:            s.repair,
		Related:           s.related,
	}
	for i, d := range s.devices {
		if i != s.unmanaged {
			r := d.record(real[i], i)
			if i == s.bare {
				r.Flags |= uint8(bpf.DatapathInterfaceFlagsINTERFACE_NO_HEADER)
			}
			h.Interfaces[interfaceID(i)] = r
			h.Down[interfaceID(i)] = d.down
		}
		for g := range gatewaysPerDevice {
			if g%2 < int(d.gateways) {
				h.Gateways[gatewayID(i, g)] = gateway(real[i], i, g)
			}
		}
	}
	for i, d := range s.devices {
		h.Routes[real[i].Index] = d.routed(i)
	}
	for _, n := range networks {
		for _, own := range n.selves[:ownSelves] {
			h.OwnAddresses[own] = bpf.DatapathOwnFlagsOWN_ADDRESS | s.sourceInterface()
		}
		h.OwnAddresses[n.selves[loopbackOnly]] |= bpf.DatapathOwnFlagsOWN_LOOPBACK_ONLY
		if s.serves {
			h.Served[netip.PrefixFrom(n.selves[notOwn], n.selves[notOwn].BitLen()-3).Masked()] = bpf.DatapathOwnFlagsOWN_ADDRESS
		}
		if s.onLink < devices {
			ifindex := real[s.onLink].Index
			h.OnLink[ifindex] = append(h.OnLink[ifindex], n.onLink)
		}
	}
	return h
}

// sourceInterface is the interface that has the own addresses, where they tell of it.
func (s Setup) sourceInterface() bpf.DatapathOwnFlags {
	if s.source == devices {
		return 0
	}
	return bpf.DatapathOwnFlags(interfaceID(s.source)) << bpf.DatapathOwnFlagsOWN_INTERFACE_SHIFT
}

func (d deviceSetup) record(real rig.Device, device int) model.Interface {
	r := rig.Record(real, 0)
	r.Id = interfaceID(device)
	r.NextHop, r.Gateways4, r.Gateways6, r.Mtu = uint8(d.nextHop), d.gateways, d.gateways, d.mtu
	if d.gateways == 1 {
		r.Gateway4, r.Gateway6 = gatewayID(device, 0), gatewayID(device, 2)
	}
	if d.gateways > 0 {
		r.FirstGateway4, r.FirstGateway6 = gatewayID(device, 0), gatewayID(device, 2)
	}
	r.Takes = uint8(d.takes)
	for flag, isSet := range map[bpf.DatapathInterfaceFlags]bool{
		bpf.DatapathInterfaceFlagsINTERFACE_STRONG:  d.strong,
		bpf.DatapathInterfaceFlagsINTERFACE_STRICT:  d.strict,
		bpf.DatapathInterfaceFlagsINTERFACE_NARROW:  d.narrow,
		bpf.DatapathInterfaceFlagsINTERFACE_ROUTES4: d.routes != allPeers,
		bpf.DatapathInterfaceFlagsINTERFACE_ROUTES6: d.routes == somePeers || d.routes == unknownGateway,
	} {
		if isSet {
			r.Flags |= uint8(flag)
		}
	}
	if d.observe {
		r.Mode = uint8(bpf.DatapathModeMODE_OBSERVE)
	}
	if d.down {
		r.Flags &^= uint8(bpf.DatapathInterfaceFlagsINTERFACE_UP)
	}
	return r
}

// routed are the routes by a device's gateways. Of two the second has one, and of IPv6 the first all others, which
// says nothing of IPv4.
func (d deviceSetup) routed(device int) []model.Route {
	if d.routes == allPeers || d.gateways == 0 {
		return nil
	}
	var all []model.Route
	for i, n := range networks {
		ofFamily := i % 2 * 2
		gateway := gatewayID(device, ofFamily+int(d.gateways)-1)
		if d.routes == unknownGateway {
			gateway = 0
		}
		all = append(all, model.Route{Prefix: n.routed, Gateway: gateway})
	}
	if d.routes == somePeers && d.gateways == 2 {
		all = append(all, model.Route{Prefix: netip.MustParsePrefix("::/0"), Gateway: gatewayID(device, 2)})
	}
	return all
}

func gateway(real rig.Device, device, index int) model.Gateway {
	g := model.Gateway{Ifindex: real.Index, Mac: rig.MAC(router.mac(device)), Usable: 1}
	if index%2 == 1 {
		g.Mac = rig.MAC(secondRouter.mac(device))
	}
	g.Address = networks[index/2].peers[5].As16() // only its family matters
	return g
}
