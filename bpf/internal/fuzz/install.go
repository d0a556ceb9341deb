// SPDX-License-Identifier: Apache-2.0

package fuzz

import (
	"errors"
	"fmt"
	"math"

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
		r.installPrefixes(h),
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

// prefixes are what the map of that name holds.
type prefixes map[bpf.DatapathPrefixKey]uint32

// installPrefixes has the map of prefixes hold what the settings say now.
func (r *Runner) installPrefixes(h model.Host) error {
	want := make(prefixes)
	for id, g := range h.Gateways {
		want[rig.GatewayKey(g)] = uint32(id)
	}
	for ifindex, prefixes := range h.OnLink {
		for _, prefix := range prefixes {
			want[rig.PrefixKey(bpf.DatapathPrefixKindPREFIX_ON_LINK, ifindex, prefix)] = uint32(rig.OnLinkRouted)
		}
	}
	for ifindex, routes := range h.Routes {
		for _, route := range routes {
			want[rig.PrefixKey(bpf.DatapathPrefixKindPREFIX_ROUTED, ifindex, route.Prefix)] = uint32(route.Gateway)
		}
	}
	for own, gateway := range h.Sources {
		want[rig.SourceKey(own)] = uint32(gateway)
	}
	for prefix, flags := range h.Served {
		want[rig.PrefixKey(bpf.DatapathPrefixKindPREFIX_SERVED, 0, prefix)] = uint32(flags)
	}
	return r.replacePrefixes(want)
}

// replacePrefixes makes the map hold what is wanted, and notes it.
func (r *Runner) replacePrefixes(want prefixes) error {
	var errs []error
	for key := range r.prefixes {
		if _, stays := want[key]; !stays {
			errs = append(errs, r.d.Prefixes.Delete(key))
		}
	}
	for key, value := range want {
		if before, known := r.prefixes[key]; !known || before != value {
			errs = append(errs, r.d.Prefixes.Put(key, value))
		}
	}
	r.prefixes = want
	return errors.Join(errs...)
}
