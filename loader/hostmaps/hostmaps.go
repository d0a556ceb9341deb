// SPDX-License-Identifier: Apache-2.0

// Package hostmaps owns the maps that tell the programs about the host: what they hold, and in which order that is written.
package hostmaps

import (
	"errors"
	"slices"

	"github.com/cilium/ebpf"

	"replypath/bpf"
)

// Maps are the maps that tell the programs about the host.
type Maps struct {
	Interfaces *Mirror[uint32, bpf.DatapathInterface] // by bpf.PlaceOf
	Gateways   *Mirror[uint32, bpf.DatapathGateway]   // by id
	OnLink     *Mirror[bpf.DatapathPrefixKey, uint32]
	Own        *Mirror[[16]byte, uint32]              // flags
	Served     *Mirror[bpf.DatapathPrefixKey, uint32] // flags

	gatewayMACs *Mirror[bpf.DatapathPrefixKey, uint32]
	routes      *Mirror[bpf.DatapathPrefixKey, uint32]

	configuration    *ebpf.Variable
	namesMore        bool // a network that the configuration names has come since the settings were written
	generationWrites int  // admissionWrites() at the last change of generation
	decidedBy        int  // decisiveWrites() when decisions became void the last time
}

// Read reads what an earlier process left in the maps. An error names the map.
func Read(m *bpf.Maps) (*Maps, error) {
	t := &Maps{configuration: m.Configuration, generationWrites: unknownWrites, decidedBy: unknownWrites}
	var prefixes *Mirror[bpf.DatapathPrefixKey, uint32]
	err := errors.Join(
		readMirror(&t.Interfaces, bpf.DatapathMapInterfaces, m.Interfaces),
		readMirror(&t.Gateways, bpf.DatapathMapGateways, m.Gateways),
		readMirror(&prefixes, bpf.DatapathMapPrefixes, m.Prefixes),
		readMirror(&t.Own, bpf.DatapathMapOwnAddresses, m.OwnAddresses),
	)
	if err != nil {
		return nil, err
	}
	t.OnLink = prefixes.part(isOf(bpf.DatapathPrefixKindPREFIX_ON_LINK))
	t.Served = prefixes.part(isOf(bpf.DatapathPrefixKindPREFIX_SERVED))
	t.gatewayMACs = prefixes.part(isOf(bpf.DatapathPrefixKindPREFIX_GATEWAY)) // those that are held are of package gateways
	t.routes = prefixes.part(isOf(bpf.DatapathPrefixKindPREFIX_ROUTED, bpf.DatapathPrefixKindPREFIX_SOURCE))
	return t, nil
}

func isOf(kinds ...bpf.DatapathPrefixKind) func(bpf.DatapathPrefixKey) bool {
	return func(key bpf.DatapathPrefixKey) bool { return slices.Contains(kinds, bpf.DatapathPrefixKind(key.Kind)) }
}

// WriteServed writes the networks that the host serves although no interface has them.
func (m *Maps) WriteServed(desired map[bpf.DatapathPrefixKey]uint32) error {
	for key, flags := range desired {
		before, _ := m.Served.Get(key)
		m.namesMore = m.namesMore || flags == configuredFlags && before == 0
	}
	return m.Served.Sync(desired)
}

// Ways are the interfaces and the gateways by which replies may leave.
type Ways struct {
	Interfaces map[uint32]bpf.DatapathInterface
	Gateways   map[uint32]bpf.DatapathGateway
	MACs       map[bpf.DatapathPrefixKey]uint32
	Routes     map[bpf.DatapathPrefixKey]uint32 // gateways of networks, and of own addresses
}

// WriteWays writes the gateways, and the interfaces, which count them and name the only
// one: there are as many as they say, and more, at any moment. It marks the interfaces that are narrow. What the programs
// decided for what the host originates is void at the end, if anything has changed that they decide by; and whom they
// refused and admitted, if other requests start flows.
func (m *Maps) WriteWays(w *Ways) error {
	markNarrow(w.Interfaces)
	w.Interfaces[bpf.InterfacePlaces] = takesOfAny(w.Interfaces)
	takesOthers := m.takesOthers(w.Interfaces)
	err := errors.Join(
		m.Gateways.enter(w.Gateways),
		m.gatewayMACs.enter(w.MACs),
		m.routes.enter(w.Routes),
		m.syncInterfaces(w.Interfaces),
		m.routes.drop(w.Routes),
		m.gatewayMACs.drop(w.MACs),
		m.Gateways.drop(w.Gateways),
	)
	if takesOthers {
		err = errors.Join(err, m.outdate())
	}
	return errors.Join(err, m.outdateDecisions())
}

// takesOthers tells whether an interface is going to record other requests than it does.
func (m *Maps) takesOthers(desired map[uint32]bpf.DatapathInterface) bool {
	for place, entry := range desired {
		if m.Interfaces.actual[place].Takes != entry.Takes {
			return true
		}
	}
	return false
}

// syncInterfaces has the map hold what is desired. A place that another interface takes is emptied before, and its index is
// written after all else: no program takes half an entry for it.
func (m *Maps) syncInterfaces(desired map[uint32]bpf.DatapathInterface) error {
	empty, unborn := make(map[uint32]bpf.DatapathInterface), make(map[uint32]bpf.DatapathInterface)
	for place, entry := range desired {
		if before := m.Interfaces.actual[place]; before.Ifindex != entry.Ifindex || before.Id != entry.Id {
			entry.Ifindex = 0
			empty[place], unborn[place] = bpf.DatapathInterface{}, entry
		}
	}
	return errors.Join(m.Interfaces.enter(empty), m.Interfaces.enter(unborn), m.Interfaces.Sync(desired))
}
