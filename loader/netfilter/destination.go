// SPDX-License-Identifier: Apache-2.0

package netfilter

import (
	"net"
	"net/netip"
	"slices"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// destinationReader follows the packet's destination through the registers of a rule.
type destinationReader struct {
	rule *Rule
	held map[uint32]Held // by the number of the first 32-bit register
	low  netip.Addr      // the lower end of a range
}

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

// read follows an expression. One that is not known may have written to any register.
func (d *destinationReader) read(e expr.Any) {
	switch e := e.(type) {
	case *expr.Payload:
		d.load(e)
	case *expr.Bitwise:
		d.mask(e)
	case *expr.Cmp:
		d.compare(e)
	case *expr.Lookup:
		d.lookUp(e)
	case *expr.Meta:
		if !e.SourceRegister {
			d.forget(e.Register)
		}
	case *expr.Ct:
		d.forget(e.Register)
	case *expr.NAT:
		d.rule.Translates = d.rule.Translates || e.Type == expr.NATTypeDestNAT
	case *expr.Redir, *expr.TProxy:
		d.rule.Translates = true
	case *expr.Target:
		translating := []string{"DNAT", "REDIRECT", "TPROXY", "NETMAP"}
		d.rule.Translates = d.rule.Translates || slices.Contains(translating, e.Name)
	default:
		clear(d.held)
	}
}

func (d *destinationReader) load(e *expr.Payload) {
	d.forget(e.DestRegister)
	if e.OperationType != expr.PayloadLoad || e.Base != expr.PayloadBaseNetworkHeader {
		return
	}
	switch {
	case e.Offset == destinationIPv4 && e.Len <= 4:
		d.held[slot(e.DestRegister)] = Held{Family: 4, Loaded: int(e.Len)}
	case e.Offset == destinationIPv6 && e.Len <= 16:
		d.held[slot(e.DestRegister)] = Held{Family: 16, Loaded: int(e.Len)}
	}
}

// forget takes out what a register that is written to was part of.
func (d *destinationReader) forget(register uint32) {
	written := slot(register)
	for first, h := range d.held {
		if first <= written && written < first+uint32(h.Family/4) {
			delete(d.held, first)
		}
	}
}

func (d *destinationReader) mask(e *expr.Bitwise) {
	h, known := d.held[slot(e.SourceRegister)]
	d.forget(e.DestRegister)
	if known && isZero(e.Xor) && len(e.Mask) == h.Loaded {
		h.Mask = string(e.Mask)
		d.held[slot(e.DestRegister)] = h
	}
}

// within returns what is known of the destination in a value that begins with a register, and its place there.
func (d *destinationReader) within(register uint32) (h Held, at int) {
	for first, h := range d.held {
		if first >= slot(register) {
			return h, int(first-slot(register)) * 4
		}
	}
	return Held{}, 0
}

// compare reads a constant that the destination has to equal, or both ends of a range.
func (d *destinationReader) compare(e *expr.Cmp) {
	h, at := d.within(e.Register)
	if e.Op != expr.CmpOpGte { // which the other end follows
		clear(d.held)
	}
	p, ok := h.prefixIn(e.Data, at)
	switch {
	case !ok:
	case e.Op == expr.CmpOpEq:
		d.rule.To = []netip.Prefix{p}
	case e.Op == expr.CmpOpGte:
		d.low = p.Addr()
	case e.Op == expr.CmpOpLte && d.low.IsValid():
		d.rule.To = prefixesBetween(d.low, p.Addr())
	}
}

func (d *destinationReader) lookUp(e *expr.Lookup) {
	h, at := d.within(e.SourceRegister)
	clear(d.held)
	l := Lookup{Set: e.SetName, At: at, Of: h}
	switch {
	case e.IsDestRegSet && e.DestRegister == unix.NFT_REG_VERDICT:
		d.rule.Verdicts = &l
	case h.Family > 0 && !e.Invert:
		d.rule.Within = append(d.rule.Within, l)
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
