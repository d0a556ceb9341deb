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

	"replypath/bpf"
	"replypath/loader/datapath"
)

// Rules are those of the configuration in force, as the programs read them.
type Rules struct {
	Settings bpf.DatapathSettings
	// Own returns what an address is to this host, 0 for one that is not its own.
	Own func(netip.Addr) bpf.DatapathOwnFlags
	// Prefixes has the same of networks that no interface has.
	Prefixes *ebpf.Map
	// Takes is what starts flows beside requests for own addresses, by the id of the interface.
	Takes map[uint16]bpf.DatapathTakes
}

// Tuple is what a flow is about.
type Tuple struct {
	Protocol   uint8
	Peer, Self netip.AddrPort
	Interface  uint16 // by its id
}

// Records tells whether a flow of this tuple is recorded: as may_start() does.
func (r *Rules) Records(t *Tuple) (bool, error) {
	peer, self := t.Peer.Addr(), t.Self.Addr()
	takes, err := r.takesSelf(self, t.Interface)
	isOrdinary := peer.IsGlobalUnicast() && self.IsGlobalUnicast() && r.Own(peer) == 0 // address_is_ordinary() in bpf/src/tuple.h
	return takes && isOrdinary && r.isListed(t.Protocol) && !r.excludes(t), err
}

// takesSelf is refusal_of_self() in bpf/src/admission.h.
func (r *Rules) takesSelf(self netip.Addr, id uint16) (bool, error) {
	own, takes, all := r.Own(self), r.Takes[id], bpf.DatapathTakesTAKES_ALL6
	if own == 0 {
		key := datapath.PrefixKey(bpf.DatapathPrefixKindPREFIX_SERVED, 0, netip.PrefixFrom(self, self.BitLen()))
		err := r.Prefixes.Lookup(key, &own)
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return false, fmt.Errorf("read the addresses that no interface has: %w", err)
		}
	}
	if self.Is4() {
		all = bpf.DatapathTakesTAKES_ALL4
	}
	switch {
	case own == 0 && r.Settings.ScopeAll == 0 && takes&all == 0,
		own&bpf.DatapathOwnFlagsOWN_LOOPBACK_ONLY != 0 && r.Settings.Loopback == 0,
		takes&bpf.DatapathTakesTAKES_ITS_OWN_ONLY != 0 && uint16(own>>bpf.DatapathOwnFlagsOWN_INTERFACE_SHIFT) != id:
		return false, nil
	}
	return true, nil
}

func (r *Rules) isListed(protocol uint8) bool {
	return r.Settings.Protocols[protocol/8]&(1<<(protocol%8)) != 0
}

// excludes is is_excluded() in bpf/src/admission.h.
func (r *Rules) excludes(t *Tuple) bool {
	set := &r.Settings.Exclusions[r.Settings.InForce]
	return slices.ContainsFunc(set.Rule[:set.Count], func(e bpf.DatapathExclusion) bool {
		return (e.Protocol == 0 || t.Protocol == e.Protocol) &&
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
