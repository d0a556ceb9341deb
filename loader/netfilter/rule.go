// SPDX-License-Identifier: Apache-2.0

package netfilter

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"golang.org/x/sys/unix"
)

// ruleReader reads the expressions of a rule, which hand values to each other in
// registers.
type ruleReader struct {
	rule      Rule
	registers map[uint32]string // what is in a register: "oif", "iif", "mark", "ct mark"
	values    map[uint32][]byte // a constant in a register
	held      map[uint32]Held   // the destination, by the number of the first 32-bit register
	low       netip.Addr        // the lower end of a range of destinations
	readsMark bool              // the connection's
	copies    bool              // it reads the packet's mark
	computes  bool              // it looks a value up, or makes one
	name      func(index int) string
}

// readRule reads the expressions of a rule.
func readRule(expressions []expr.Any, deviceName func(index int) string) Rule {
	r := &ruleReader{registers: map[uint32]string{}, values: map[uint32][]byte{}, held: map[uint32]Held{}, name: deviceName}
	for _, e := range expressions {
		r.read(e)
	}
	return r.rule
}

// read follows an expression. One that is not known may have written to any register.
func (r *ruleReader) read(e expr.Any) {
	switch e := e.(type) {
	case *expr.Meta:
		r.meta(e)
	case *expr.Ct:
		r.connection(e)
	case *expr.Payload:
		r.load(e)
	case *expr.Bitwise:
		r.mask(e)
	case *expr.Fib:
		if e.FlagSADDR && e.FlagIIF && (e.ResultOIF || e.ResultOIFNAME) {
			r.rule.ReversePath = true
		}
		r.forget(e.Register)
	case *expr.Cmp:
		r.compare(e)
		r.compareDestination(e)
	case *expr.Lookup:
		r.lookUp(e)
	case *expr.Numgen, *expr.Hash:
		r.computes = true
		clear(r.held)
	case *expr.Immediate:
		r.values[e.Register] = e.Data
		r.forget(e.Register)
	case *expr.Reject:
		r.rule.Refuses = true
	case *expr.Verdict:
		r.verdict(e)
	case *expr.Match:
		r.match(e.Name, e.Info)
	case *expr.Target:
		r.target(e.Name, e.Rev, e.Info)
	case *expr.NAT:
		r.rule.Translates = r.rule.Translates || e.Type == expr.NATTypeDestNAT
	case *expr.Redir, *expr.TProxy:
		r.rule.Translates = true
	case nil:
		clear(r.held)
	}
}

func (r *ruleReader) meta(e *expr.Meta) {
	if e.SourceRegister {
		if e.Key == expr.MetaKeyMARK {
			r.rule.Restores = r.rule.Restores || r.readsMark
			r.give(r.values[e.Register])
			r.rule.GivesUnknown = r.rule.GivesUnknown || r.values[e.Register] == nil && (!r.readsMark || r.computes)
		}
		return
	}
	r.copies = r.copies || e.Key == expr.MetaKeyMARK
	r.forget(e.Register)
	r.registers[e.Register] = metaKeys[e.Key]
}

// metaKeys are nft's words for what tells of interfaces, and of the packet's mark.
var metaKeys = map[expr.MetaKey]string{
	expr.MetaKeyMARK:    "mark",
	expr.MetaKeyOIFNAME: "oifname", expr.MetaKeyOIF: "oif", expr.MetaKeyIIFNAME: "iifname", expr.MetaKeyIIF: "iif",
}

// connection reads what is done with the mark of the connection. Of one that is set the
// library does not tell the register, which is 0 then: it is a constant of the rule.
func (r *ruleReader) connection(e *expr.Ct) {
	switch {
	case e.Key != expr.CtKeyMARK:
		r.forget(e.Register)
	case e.Register == 0:
		for _, value := range r.values {
			r.give(value)
		}
		r.rule.GivesUnknown = r.rule.GivesUnknown || r.computes || len(r.values) == 0 && !r.copies
	default:
		r.forget(e.Register)
		r.registers[e.Register], r.readsMark = "ct mark", true
	}
}

// give notes a constant mark that packets or connections get.
func (r *ruleReader) give(data []byte) {
	r.mark(data)
	if len(data) >= 4 {
		r.rule.Gives = append(r.rule.Gives, binary.NativeEndian.Uint32(data))
	}
}

// mark notes a constant mark; no data is none.
func (r *ruleReader) mark(data []byte) {
	if len(data) >= 4 {
		r.rule.Marks = append(r.rule.Marks, binary.NativeEndian.Uint32(data))
	}
}

// compare reads a comparison with an interface or a mark. One with "not equal" concerns
// every other interface, so that it limits nothing.
func (r *ruleReader) compare(e *expr.Cmp) {
	kind := r.registers[e.Register]
	name := ""
	switch kind {
	case "oifname", "iifname":
		name = interfacePattern(e.Data)
	case "oif", "iif":
		if len(e.Data) == 4 && r.name != nil {
			name = r.name(int(binary.NativeEndian.Uint32(e.Data)))
		}
	case "ct mark":
		r.mark(e.Data)
	case "mark":
		r.rule.Marked = r.rule.Marked || e.Op == expr.CmpOpEq && !isZero(e.Data)
	}
	switch {
	case name == "":
	case strings.HasPrefix(kind, "oif") && e.Op == expr.CmpOpEq:
		r.rule.OutNames = append(r.rule.OutNames, name)
	case strings.HasPrefix(kind, "oif"):
		r.rule.OutNames = append(r.rule.OutNames, "*")
	case e.Op == expr.CmpOpEq:
		r.rule.In = append(r.rule.In, name)
	}
}

// interfacePattern reads a name, which ends with a zero, or a part of one, which
// does not and stands for all that begin with it.
func interfacePattern(data []byte) string {
	if end := bytes.IndexByte(data, 0); end >= 0 {
		return string(data[:end])
	}
	return string(data) + "*"
}

func (r *ruleReader) verdict(e *expr.Verdict) {
	switch e.Kind {
	case expr.VerdictDrop:
		r.rule.Refuses = true
	case expr.VerdictJump, expr.VerdictGoto:
		r.rule.Jumps = append(r.rule.Jumps, e.Chain)
	}
}

// match and target read what iptables-nft leaves to its own extensions.
func (r *ruleReader) match(name string, info xt.InfoAny) {
	r.rule.ReversePath = r.rule.ReversePath || name == "rpfilter"
	data := extension(info)
	switch name {
	case "connmark":
		r.readsMark = true
		r.mark(data) // struct xt_connmark_mtinfo1 begins with it
	case "mark": // struct xt_mark_mtinfo1: the mark, its mask, and whether it is inverted
		const mark, invert = 4, 8
		r.rule.Marked = r.rule.Marked || len(data) > invert && !isZero(data[:mark]) && data[invert] == 0
	}
}

// connmarkMode is the place of the mode in struct xt_connmark_tginfo1 and 2 of
// linux/netfilter/xt_connmark.h, by revision.
var connmarkMode = map[uint32]int{1: 12, 2: 14}

func (r *ruleReader) target(name string, revision uint32, info xt.InfoAny) {
	data := extension(info)
	switch name {
	case "MARK": // struct xt_mark_tginfo2 begins with it
		r.give(data)
	case "CONNMARK":
		const set, restore = 0, 2
		mode := byte(restore) // what it does is not told
		if place := connmarkMode[revision]; place > 0 && place < len(data) {
			mode = data[place]
		}
		r.rule.Restores = r.rule.Restores || mode == restore
		if mode == set {
			r.give(data)
		}
	case "HMARK", "SET", "TPROXY": // by a hash, of a set, or for a proxy
		r.rule.GivesUnknown = true
	case "REJECT":
		r.rule.Refuses = true
	}
	r.rule.Translates = r.rule.Translates || slices.Contains([]string{"DNAT", "REDIRECT", "TPROXY", "NETMAP"}, name)
}

// extension is what an extension was given, in bytes.
func extension(info xt.InfoAny) []byte {
	if data, ok := info.(*xt.Unknown); ok && data != nil {
		return *data
	}
	return nil
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
