// SPDX-License-Identifier: Apache-2.0

// Package admission decides, as bpf/src/admission.h does, whether a flow is recorded.
package admission

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/loader/datapath"
)

// Rules are those of the configuration in force, as the programs read them.
type Rules struct {
	Settings   bpf.DatapathSettings
	Exclusions []bpf.DatapathExclusion
	// Own returns what an address is to this host, 0 for one that is not its own.
	Own func(netip.Addr) (bpf.DatapathOwnFlags, error)
	// Served returns the same of an address that no interface has.
	Served func(netip.Addr) (bpf.DatapathOwnFlags, error)
	// Takes returns what starts flows by an interface beside requests for own addresses; by 0, by any.
	Takes func(id uint16) (bpf.DatapathTakes, error)
}

// ServedBy asks a map of networks, as served_address() in bpf/src/address.h does.
func ServedBy(table *ebpf.Map) func(netip.Addr) (bpf.DatapathOwnFlags, error) {
	return func(a netip.Addr) (flags bpf.DatapathOwnFlags, err error) {
		err = table.Lookup(bpf.DatapathServedKey{PrefixLength: 128, Address: a.As16()}, &flags)
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return 0, nil
		}
		if err != nil {
			return 0, fmt.Errorf("read the addresses that no interface has: %w", err)
		}
		return flags, nil
	}
}

// Tuple is what a flow is about. A protocol that is nil is any that is listed.
type Tuple struct {
	Protocol   *uint8
	Peer, Self netip.AddrPort
	Interface  uint16 // by its id; 0: by any
}

// Reason tells why no flow is recorded, "" where one is.
type Reason string

// Reasons, in the words that `replypath explain` has for them.
const (
	NotOwn   Reason = "not_own"
	Tunnel   Reason = "tunnel"
	Loopback Reason = "loopback"
	Source   Reason = "source"
	Protocol Reason = "protocol"
)

// Refusal tells why no flow of this tuple is recorded, apart from the exclusions: as may_start() does.
func (r *Rules) Refusal(t *Tuple) (Reason, error) {
	if t.Protocol != nil && (!r.isListed(*t.Protocol) || isDHCP(t)) {
		return Protocol, nil
	}
	peer, self := t.Peer.Addr(), t.Self.Addr()
	if reason, err := r.refusalOfSelf(self, t.Interface); reason != "" || err != nil {
		return reason, err
	}
	ownPeer, err := r.Own(peer)
	if err != nil {
		return "", err
	}
	if !peer.IsGlobalUnicast() || !self.IsGlobalUnicast() || ownPeer != 0 { // address_is_ordinary() in bpf/src/address.h
		return Source, nil
	}
	return "", nil
}

// refusalOfSelf is refusal_of_self() in bpf/src/admission.h.
func (r *Rules) refusalOfSelf(self netip.Addr, id uint16) (Reason, error) {
	own, err := r.Own(self)
	if err == nil && own == 0 {
		own, err = r.Served(self)
	}
	if err != nil {
		return "", err
	}
	takes, err := r.Takes(id)
	all := bpf.DatapathTakesTAKES_ALL6
	if self.Is4() {
		all = bpf.DatapathTakesTAKES_ALL4
	}
	switch {
	case err != nil:
		return "", err
	case own == 0 && r.Settings.ScopeAll == 0 && takes&all == 0:
		return NotOwn, nil
	case own&bpf.DatapathOwnFlagsOWN_LOOPBACK_ONLY != 0 && r.Settings.Loopback == 0:
		return Loopback, nil
	case takes&bpf.DatapathTakesTAKES_ITS_OWN_ONLY != 0 && uint16(own>>bpf.DatapathOwnFlagsOWN_INTERFACE_SHIFT) != id:
		return Tunnel, nil
	}
	return "", nil
}

func (r *Rules) isListed(protocol uint8) bool {
	return r.Settings.Protocols[protocol/8]&(1<<(protocol%8)) != 0
}

// isDHCP is is_dhcp() in bpf/src/admission.h.
func isDHCP(t *Tuple) bool {
	return *t.Protocol == unix.IPPROTO_UDP && slices.Contains([]uint16{67, 68, 546, 547}, t.Self.Port())
}

// Excludes tells whether every flow of this tuple is excluded: as is_excluded() in bpf/src/admission.h.
func (r *Rules) Excludes(t *Tuple) bool {
	return slices.ContainsFunc(r.Exclusions, func(e bpf.DatapathExclusion) bool {
		return (e.Protocol == 0 || t.Protocol != nil && *t.Protocol == e.Protocol) &&
			(e.SelfPort == 0 || datapath.Port(t.Self.Port()) == e.SelfPort) &&
			isMasked(t.Peer.Addr(), e.Peer, e.PeerMask) && isMasked(t.Self.Addr(), e.Self, e.SelfMask)
	})
}

func isMasked(a netip.Addr, want, mask [2]uint64) bool {
	bytes := a.As16()
	for i := range want {
		if binary.NativeEndian.Uint64(bytes[8*i:])&mask[i] != want[i] {
			return false
		}
	}
	return true
}
