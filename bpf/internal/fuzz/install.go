// SPDX-License-Identifier: Apache-2.0

package fuzz

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"

	"replypath/bpf"
	"replypath/bpf/internal/model"
	"replypath/bpf/internal/rig"
)

// install writes into the maps what the loader would.
func (r *Runner) install(h model.Host) error {
	var errs []error
	r.ways++
	for i := range devices {
		id := interfaceID(i)
		record, ok := h.Interfaces[id]
		managed := uint32(0)
		if ok {
			managed = uint32(id)
		}
		errs = append(errs,
			r.d.Interfaces.Put(uint32(id), record),
			r.d.Managed.Put(r.devices[i].Index, managed),
			r.setDevice(i, ok),
			r.setLink(i, !h.Down[id]))
		for g := range gatewaysPerDevice {
			gid := gatewayID(i, g)
			errs = append(errs, r.d.Gateways.Put(uint32(gid), h.Gateways[gid]))
		}
	}
	errs = append(errs,
		r.installGatewayMACs(h),
		r.installOnLink(h),
		r.installRoutes(h),
		r.installSources(h),
		r.installExclusions(h),
		r.d.ModeByHand.Put(uint32(0), uint32(h.ModeByHand)),
		r.d.Grace.Put(uint32(0), h.GraceUntil),
		r.d.SetSettings(r.settings(h)),
	)
	for address, flags := range h.OwnAddresses {
		errs = append(errs, r.d.SetOwnAddress(address, flags))
	}
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

// Close gives all devices their carrier, and takes the addresses away that NewRunner added: the kernel would
// send from them.
func (r *Runner) Close() error {
	var errs []error
	for _, n := range networks {
		errs = append(errs, r.h.RemoveAddress(r.devices[comeTo], n.selves[justCome]))
	}
	return errors.Join(append(errs, r.h.Do(func() error {
		var errs []error
		for i := range r.devices {
			errs = append(errs, r.setLink(i, true))
		}
		return errors.Join(errs...)
	}))...)
}

func (r *Runner) settings(h model.Host) bpf.DatapathSettings {
	s := bpf.DatapathSettings{Generation: 1, Follow: uint8(h.Follow), Repair: uint8(h.Repair), Ways: r.ways}
	if h.ScopeAll {
		s.ScopeAll = 1
	}
	if h.LoopbackSymmetric {
		s.Loopback = 1
	}
	var listed []uint8
	for protocol, on := range h.Protocols {
		if on {
			listed = append(listed, protocol)
		}
	}
	s.Protocols = rig.Listed(listed...)
	return s
}

// installGatewayMACs replaces the map that finds gateways by their MAC.
func (r *Runner) installGatewayMACs(h model.Host) error {
	var errs []error
	for key := range r.gatewayMACs {
		errs = append(errs, r.d.GatewayMacs.Delete(key))
	}
	clear(r.gatewayMACs)
	for id, g := range h.Gateways {
		family := uint8(6)
		if netip.AddrFrom16(g.Address).Is4In6() {
			family = 4
		}
		key := bpf.DatapathGatewayMac{Ifindex: g.Ifindex, Mac: g.Mac, Family: family}
		errs = append(errs, r.d.GatewayMacs.Put(key, uint32(id)))
		r.gatewayMACs[key] = true
	}
	return errors.Join(errs...)
}

func (r *Runner) installOnLink(h model.Host) error {
	var errs []error
	for _, device := range r.devices {
		for _, n := range networks {
			length := uint32(n.onLink.Bits() + 32)
			if n.family == 4 {
				length += 96
			}
			key := bpf.DatapathOnLinkKey{PrefixLength: length, Ifindex: device.Index, Address: n.onLink.Addr().As16()}
			if len(h.OnLink[device.Index]) > 0 {
				errs = append(errs, r.d.OnLink.Put(key, uint32(rig.OnLinkRouted)))
			} else if err := r.d.OnLink.Delete(key); !errors.Is(err, ebpf.ErrKeyNotExist) {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

// installRoutes replaces what the gateways' routes lead to.
func (r *Runner) installRoutes(h model.Host) error {
	var errs []error
	for key := range r.routes {
		errs = append(errs, r.d.GatewayRoutes.Delete(key))
	}
	clear(r.routes)
	for ifindex, routes := range h.Routes {
		for _, route := range routes {
			errs = append(errs, r.d.SetRoute(ifindex, route.Prefix, uint32(route.Gateway)))
			r.routes[rig.RouteKey(ifindex, route.Prefix)] = true
		}
	}
	return errors.Join(errs...)
}

// installSources replaces the gateways of own addresses.
func (r *Runner) installSources(h model.Host) error {
	var errs []error
	for _, n := range networks {
		for _, own := range n.selves[:ownSelves] {
			key := bpf.DatapathAddress{Bytes: own.As16()}
			if gateway, known := h.Sources[own]; known {
				errs = append(errs, r.d.SetSource(own, uint32(gateway)))
			} else if err := r.d.SourceGateways.Delete(key); !errors.Is(err, ebpf.ErrKeyNotExist) {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

func (r *Runner) installExclusions(h model.Host) error {
	var rules []bpf.DatapathExclusion
	for _, rule := range h.Exclusions {
		e := bpf.DatapathExclusion{Protocol: rule.Protocol}
		if rule.SelfPort != 0 {
			e.SelfPort = rig.Port(rule.SelfPort)
		}
		e.Peer, e.PeerMask = masked(rule.Peer)
		e.Self, e.SelfMask = masked(rule.Self)
		rules = append(rules, e)
	}
	return r.d.SetExclusions(rules...)
}

// masked is a prefix as the maps hold it.
func masked(prefix netip.Prefix) (want, mask [2]uint64) {
	if !prefix.IsValid() {
		return want, mask
	}
	bits := prefix.Bits()
	if prefix.Addr().Is4() {
		bits += 96
	}
	address := prefix.Addr().As16()
	var ones [16]byte
	for i := range bits {
		ones[i/8] |= 0x80 >> (i % 8)
	}
	for i := range ones {
		address[i] &= ones[i]
	}
	for i := range want {
		want[i] = binary.NativeEndian.Uint64(address[i*8:])
		mask[i] = binary.NativeEndian.Uint64(ones[i*8:])
	}
	return want, mask
}
