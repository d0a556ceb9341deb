// SPDX-License-Identifier: Apache-2.0

package netfilter

import (
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Where the destination stands in the headers of IPv4 (RFC 791, 3.1) and IPv6 (RFC 8200, 3).
const (
	destinationIPv4 = 16
	destinationIPv6 = 24
)

// slot is the number of a 32-bit register: those of 128 bits share their place (enum nft_registers, linux/netfilter/nf_tables.h).
func slot(register uint32) uint32 {
	if register < unix.NFT_REG32_00 {
		return unix.NFT_REG32_00 + (register-unix.NFT_REG_1)*4
	}
	return register
}

// load reads a part of the destination.
func (r *ruleReader) load(e *expr.Payload) {
	r.forget(e.DestRegister)
	if e.OperationType != expr.PayloadLoad || e.Base != expr.PayloadBaseNetworkHeader {
		return
	}
	switch {
	case e.Offset == destinationIPv4 && e.Len <= 4:
		r.held[slot(e.DestRegister)] = Held{Family: 4, Loaded: int(e.Len)}
	case e.Offset == destinationIPv6 && e.Len <= 16:
		r.held[slot(e.DestRegister)] = Held{Family: 16, Loaded: int(e.Len)}
	}
}

// forget takes out what a register that is written to was, or was part of.
func (r *ruleReader) forget(register uint32) {
	delete(r.registers, register)
	written := slot(register)
	for first, h := range r.held {
		if first <= written && written < first+uint32(h.Family/4) {
			delete(r.held, first)
		}
	}
}

func (r *ruleReader) mask(e *expr.Bitwise) {
	what, h, isDestination := r.registers[e.SourceRegister], r.held[slot(e.SourceRegister)], r.held[slot(e.SourceRegister)].Family > 0
	r.forget(e.DestRegister)
	r.registers[e.DestRegister] = what
	r.computes = r.computes || !isZero(e.Xor)
	if isDestination && isZero(e.Xor) && len(e.Mask) == h.Loaded {
		h.Mask = string(e.Mask)
		r.held[slot(e.DestRegister)] = h
	}
}

// within returns what is known of the destination in a value that begins with a register, and its place there.
func (r *ruleReader) within(register uint32) (h Held, at int) {
	for first, h := range r.held {
		if first >= slot(register) {
			return h, int(first-slot(register)) * 4
		}
	}
	return Held{}, 0
}

// compareDestination reads a constant that the destination has to equal, or both ends of a range.
func (r *ruleReader) compareDestination(e *expr.Cmp) {
	h, at := r.within(e.Register)
	if e.Op != expr.CmpOpGte { // which the other end follows
		clear(r.held)
	}
	p, ok := h.prefixIn(e.Data, at)
	switch {
	case !ok:
	case e.Op == expr.CmpOpEq:
		r.rule.To = []netip.Prefix{p}
	case e.Op == expr.CmpOpGte:
		r.low = p.Addr()
	case e.Op == expr.CmpOpLte && r.low.IsValid():
		r.rule.To = prefixesBetween(r.low, p.Addr())
	}
}

func (r *ruleReader) lookUp(e *expr.Lookup) {
	r.rule.OutUnknown = r.rule.OutUnknown || strings.HasPrefix(r.registers[e.SourceRegister], "oif")
	if e.IsDestRegSet {
		r.computes = true
		delete(r.values, e.DestRegister)
	}
	h, at := r.within(e.SourceRegister)
	clear(r.held)
	l := Lookup{Set: e.SetName, At: at, Of: h}
	if h.Family == 0 {
		r.rule.Sets = append(r.rule.Sets, e.SetName)
	}
	switch {
	case e.IsDestRegSet && e.DestRegister == unix.NFT_REG_VERDICT:
		r.rule.Verdicts = &l
	case h.Family > 0 && !e.Invert:
		r.rule.Within = append(r.rule.Within, l)
	}
}

// prefixIn reads the destination at a place in a value; false where it does not stand there, or its mask is none of a network.
func (h Held) prefixIn(value []byte, at int) (p netip.Prefix, ok bool) {
	if h.Family == 0 || at+h.Loaded > len(value) {
		return p, false
	}
	address := make([]byte, h.Family)
	copy(address, value[at:at+h.Loaded])
	length := 8 * h.Loaded
	if h.Mask != "" {
		var bits int
		if length, bits = net.IPMask(h.Mask).Size(); bits == 0 {
			return p, false
		}
	}
	a, _ := netip.AddrFromSlice(address)
	return netip.PrefixFrom(a, length).Masked(), true
}

func isZero(data []byte) bool {
	return !slices.ContainsFunc(data, func(b byte) bool { return b != 0 })
}

// prefixesBetween are the fewest networks that hold the addresses of a range and no other.
func prefixesBetween(first, last netip.Addr) (list []netip.Prefix) {
	for first.IsValid() && first.BitLen() == last.BitLen() && !last.Less(first) {
		p := netip.PrefixFrom(first, first.BitLen())
		for p.Bits() > 0 {
			wider := netip.PrefixFrom(first, p.Bits()-1).Masked()
			if wider.Addr() != first || last.Less(lastOf(wider)) {
				break
			}
			p = wider
		}
		list = append(list, p)
		first = lastOf(p).Next()
	}
	return list
}

// lastOf is the last address of a network.
func lastOf(p netip.Prefix) netip.Addr {
	address := p.Masked().Addr().AsSlice()
	for n := p.Bits(); n < 8*len(address); n++ {
		address[n/8] |= 0x80 >> (n % 8)
	}
	last, _ := netip.AddrFromSlice(address)
	return last
}
