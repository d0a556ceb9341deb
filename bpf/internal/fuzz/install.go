// SPDX-License-Identifier: Apache-2.0

package fuzz

import (
	"errors"
	"fmt"
	"math"

	"github.com/cilium/ebpf"

	"replypath/bpf"
	"replypath/bpf/internal/model"
	"replypath/bpf/internal/rig"
)

// install writes into the maps what the loader would.
func (r *Runner) install(h model.Host) error {
	var errs []error
	r.ways++
	var none model.Interface // takes what any does
	for i := range devices {
		id := interfaceID(i)
		record, ok := h.Interfaces[id]
		none.Takes |= record.Takes &^ uint8(bpf.DatapathTakesTAKES_ITS_OWN_ONLY)
		errs = append(errs,
			r.d.Interfaces.Put(r.devices[i].Index, record),
			r.setDevice(i, ok),
			r.setLink(i, !h.Down[id]))
		for g := range gatewaysPerDevice {
			gid := gatewayID(i, g)
			errs = append(errs, r.d.Gateways.Put(uint32(gid), h.Gateways[gid]))
		}
	}
	for address, flags := range h.OwnAddresses {
		errs = append(errs, r.d.SetOwnAddress(address, flags))
	}
	errs = append(errs,
		r.d.Interfaces.Put(bpf.InterfacePlaces, none),
		r.installHashes(h),
		r.d.ModeByHand.Set(uint32(h.ModeByHand)),
		r.d.Grace.Set(h.GraceUntil),
		r.d.SetSettings(r.settings(h)),
	)
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("write settings: %w", err)
	}
	return nil
}

// setDevice says whether the kernel knows the device behind an interface.
func (r *Runner) setDevice(device int, there bool) error {
	var ifindex uint32
	if there {
		ifindex = r.devices[device].Index
	}
	return r.d.SetDevice(uint32(interfaceID(device)), ifindex)
}

// setLink gives a device its carrier or takes it away, and has the programs see it at once. Where they cannot
// ask the kernel they are spared.
func (r *Runner) setLink(device int, up bool) error {
	if r.d.Features.ProbeRead && r.down[device] == up {
		if err := r.devices[device].SetCarrier(up); err != nil {
			return err
		}
		r.down[device] = !up
	}
	return r.d.ForgetProof()
}

// Close gives all devices their carrier.
func (r *Runner) Close() error {
	return r.h.Do(func() error {
		var errs []error
		for i := range r.devices {
			errs = append(errs, r.setLink(i, true))
		}
		return errors.Join(errs...)
	})
}

func (r *Runner) settings(h model.Host) bpf.DatapathSettings {
	one := map[bool]uint8{true: 1}
	s := bpf.DatapathSettings{
		Generation: 1, Follow: uint8(h.Follow), Repair: uint8(h.Repair), RoutingGeneration: r.ways, Until: math.MaxUint64,
		ScopeAll: one[h.ScopeAll], Related: one[h.Related], Loopback: one[h.LoopbackSymmetric],
	}
	if h.TrialOver {
		s.Until = 1
	}
	var listed []uint8
	for protocol, on := range h.Protocols {
		if on {
			listed = append(listed, protocol)
		}
	}
	s.Protocols = rig.Listed(listed...)
	var rules []bpf.DatapathExclusion
	for _, rule := range h.Exclusions {
		rules = append(rules, rig.Exclusion(rule.Peer, rule.Self, rule.Protocol, rule.SelfPort))
	}
	s.Exclusions[0] = rig.Exclusions(rules...)
	return s
}

// hashes are what the hash maps of the settings hold.
type hashes struct {
	gatewayMACs map[bpf.DatapathGatewayMac]uint32
	prefixes    map[bpf.DatapathPrefixKey]uint32
}

func newHashes() hashes {
	return hashes{make(map[bpf.DatapathGatewayMac]uint32), make(map[bpf.DatapathPrefixKey]uint32)}
}

// installHashes has the hash maps hold what the settings say now.
func (r *Runner) installHashes(h model.Host) error {
	want := newHashes()
	for id, g := range h.Gateways {
		want.gatewayMACs[rig.GatewayKey(g)] = uint32(id)
	}
	for ifindex, prefixes := range h.OnLink {
		for _, prefix := range prefixes {
			want.prefixes[rig.PrefixKey(bpf.DatapathPrefixKindPREFIX_ON_LINK, ifindex, prefix)] = uint32(rig.OnLinkRouted)
		}
	}
	for ifindex, routes := range h.Routes {
		for _, route := range routes {
			want.prefixes[rig.PrefixKey(bpf.DatapathPrefixKindPREFIX_ROUTED, ifindex, route.Prefix)] = uint32(route.Gateway)
		}
	}
	for own, gateway := range h.Sources {
		want.prefixes[rig.SourceKey(own)] = uint32(gateway)
	}
	for prefix, flags := range h.Served {
		want.prefixes[rig.PrefixKey(bpf.DatapathPrefixKindPREFIX_SERVED, 0, prefix)] = uint32(flags)
	}
	return errors.Join(replace(r.d.GatewayMacs, r.gatewayMACs, want.gatewayMACs), replace(r.d.Prefixes, r.prefixes, want.prefixes))
}

// replace makes a map hold what is wanted, and notes it.
func replace[K comparable](m *ebpf.Map, held, want map[K]uint32) error {
	var errs []error
	for key := range held {
		if _, stays := want[key]; !stays {
			errs = append(errs, m.Delete(key))
			delete(held, key)
		}
	}
	for key, value := range want {
		if before, known := held[key]; !known || before != value {
			errs = append(errs, m.Put(key, value))
			held[key] = value
		}
	}
	return errors.Join(errs...)
}
