// SPDX-License-Identifier: Apache-2.0

package netfilter

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"golang.org/x/sys/unix"
)

// Sent is an answer of this host, as far as rules are told of it. What else they name, such as a port, a user or a network of
// the peer, it does not have.
type Sent struct {
	Source   netip.Addr
	Device   string // that its route leads by
	Index    int    // of the device
	Protocol uint8
}

// Fate is the rule that decides on a packet.
type Fate struct {
	Chain *Chain
	Rule  *Rule // nil: the policy of the chain
}

// Walker follows packets through the chains of a set of rules.
type Walker struct {
	rules  *Ruleset
	chains map[string]*Chain // by String()
}

// Walker returns one of these rules.
func (f *Ruleset) Walker() *Walker { return &Walker{rules: f, chains: byName(f.Chains)} }

// Refused tells where a packet of a known connection is dropped or rejected before it leaves; nil for nowhere.
func (w *Walker) Refused(p *Sent) *Fate {
	isFilter := func(c *Chain) bool {
		if c.Family == "netdev" {
			return c.IsHookedAt("egress") && slices.Contains(c.Devices, p.Device)
		}
		return c.Type != "nat" && (c.IsHookedAt("output") || c.IsHookedAt("postrouting"))
	}
	return w.first(p, expr.CtStateBitESTABLISHED, expr.VerdictDrop, isFilter)
}

// RefusedByWay tells where a packet of a known connection is refused for the device that its route leads by, while it would pass by
// another one; nil for nowhere.
func (w *Walker) RefusedByWay(p *Sent, device string, index int) *Fate {
	moved := *p
	moved.Device, moved.Index = device, index
	if fate := w.Refused(p); fate != nil && w.Refused(&moved) == nil {
		return fate
	}
	return nil
}

// Place names what decides in the chain.
func (f *Fate) Place() string {
	if f.Rule == nil {
		return "its policy"
	}
	return fmt.Sprintf("rule %d", f.Rule.Handle)
}

// Translated tells where a packet of an unknown connection gets another source; nil for nowhere.
func (w *Walker) Translated(p *Sent) *Fate {
	isNAT := func(c *Chain) bool { return c.Type == "nat" && c.IsHookedAt("postrouting") }
	return w.first(p, expr.CtStateBitNEW, translates.Kind, isNAT)
}

// first is the first fate of a kind that one of some base chains has for a packet.
func (w *Walker) first(p *Sent, state uint32, kind expr.VerdictKind, isMeant func(*Chain) bool) *Fate {
	for n := range w.rules.Chains {
		c := &w.rules.Chains[n]
		k := w.walk(p, state)
		if c.Policy == "" || c.Family != "inet" && c.Family != "netdev" && c.Family != families[k.family()] || !isMeant(c) {
			continue
		}
		got := k.chain(c)
		if got == expr.VerdictContinue && c.Policy == "drop" {
			got, k.fate = expr.VerdictDrop, Fate{Chain: c}
		}
		if got == kind {
			return &k.fate
		}
	}
	return nil
}

func (w *Walker) walk(p *Sent, state uint32) *walk {
	return &walk{Walker: w, packet: p, state: state, mark: make([]byte, 4), values: map[uint32]value{}}
}

// walk is the way of a packet. Values are kept by the number of the first 32-bit register.
type walk struct {
	*Walker
	packet *Sent
	state  uint32 // of its connection
	mark   []byte // nil: not known
	values map[uint32]value
	fate   Fate
}

// value is what a register holds.
type value struct {
	data   []byte // nil: something that no rule names
	masked bool   // some bits of it: none of them is set
}

// Verdicts of expressions beside nil, after which the rule goes on.
var (
	breaks     = &expr.Verdict{Kind: expr.VerdictBreak}
	drops      = &expr.Verdict{Kind: expr.VerdictDrop}
	translates = &expr.Verdict{Kind: expr.VerdictStop + 1} // which nf_tables has not
)

// chain runs the rules of a chain.
func (w *walk) chain(c *Chain) expr.VerdictKind {
	for n := range c.Rules {
		switch v := w.rule(c, &c.Rules[n]); v.Kind {
		case expr.VerdictBreak, expr.VerdictContinue:
		case expr.VerdictReturn:
			return expr.VerdictContinue
		case expr.VerdictJump, expr.VerdictGoto:
			got := expr.VerdictContinue
			if to := w.chains[c.named(v.Chain)]; to != nil {
				got = w.chain(to)
			}
			if got != expr.VerdictContinue || v.Kind == expr.VerdictGoto {
				return got
			}
		default:
			w.fate = Fate{c, &c.Rules[n]}
			return v.Kind
		}
	}
	return expr.VerdictContinue
}

func (w *walk) rule(c *Chain, r *Rule) *expr.Verdict {
	clear(w.values)
	for _, e := range r.Expressions {
		if v := w.step(c, e); v != nil {
			return v
		}
	}
	return breaks
}

// step runs an expression. One that is not known holds for no packet.
func (w *walk) step(c *Chain, e expr.Any) *expr.Verdict {
	switch e := e.(type) {
	case *expr.Meta:
		w.meta(e)
	case *expr.Ct:
		w.connection(e)
	case *expr.Fib:
		w.fib(e)
	case *expr.Payload:
		w.payload(e)
	case *expr.Immediate:
		w.store(e.Register, e.Data)
	case *expr.Bitwise:
		w.mask(e)
	case *expr.Counter: // and others that decide nothing
	case *expr.Cmp:
		return holds(w.compare(e.Op, e.Register, e.Data))
	case *expr.Range:
		within := w.compare(expr.CmpOpGte, e.Register, e.FromData) && w.compare(expr.CmpOpLte, e.Register, e.ToData)
		return holds(within != (e.Op == expr.CmpOpNeq))
	case *expr.Lookup:
		return w.lookUp(e, w.rules.Sets[c.named(e.SetName)])
	case *expr.Match:
		return holds(w.matches(e))
	case *expr.Target:
		return w.target(e)
	case *expr.NAT:
		if e.Type == expr.NATTypeSourceNAT && e.Family == uint32(w.family()) {
			return translates
		}
	case *expr.Masq:
		return translates
	case *expr.Reject:
		return drops
	case *expr.Verdict:
		return e
	default:
		return breaks
	}
	return nil
}

// holds lets a rule go on where a condition of it is met.
func holds(met bool) *expr.Verdict {
	if met {
		return nil
	}
	return breaks
}

func (w *walk) store(register uint32, data []byte) { w.values[slot(register)] = value{data: data} }

// load reads as many bytes as some data has from a register and those that follow, nil where they are not known.
func (w *walk) load(register uint32, length int) []byte {
	var loaded []byte
	for next := slot(register); len(loaded) < length; {
		data := w.values[next].data
		if len(data) == 0 {
			return nil
		}
		words := (len(data) + 3) / 4
		loaded = append(loaded, data...)
		if next += uint32(words); len(loaded) < length {
			loaded = append(loaded, make([]byte, 4*words-len(data))...)
		}
	}
	return loaded[:length]
}

func (w *walk) family() byte {
	if w.packet.Source.Is4() {
		return unix.NFPROTO_IPV4
	}
	return unix.NFPROTO_IPV6
}

// etherTypes are those of families, in network byte order (RFC 9542).
var etherTypes = map[byte][]byte{unix.NFPROTO_IPV4: {0x08, 0x00}, unix.NFPROTO_IPV6: {0x86, 0xdd}}

func (w *walk) meta(e *expr.Meta) {
	number := func(n int) []byte { return binary.NativeEndian.AppendUint32(nil, uint32(n)) }
	name := func(text string) []byte {
		return append([]byte(text), make([]byte, max(0, unix.IFNAMSIZ-len(text)))...)
	}
	switch {
	case e.SourceRegister && e.Key == expr.MetaKeyMARK:
		w.mark = w.load(e.Register, 4)
	case e.SourceRegister:
	default:
		w.store(e.Register, map[expr.MetaKey][]byte{
			expr.MetaKeyOIFNAME: name(w.packet.Device), expr.MetaKeyOIF: number(w.packet.Index),
			expr.MetaKeyIIFNAME: name(""), expr.MetaKeyIIF: number(0), expr.MetaKeyMARK: w.mark,
			expr.MetaKeyNFPROTO: {w.family()}, expr.MetaKeyPROTOCOL: etherTypes[w.family()],
			expr.MetaKeyL4PROTO: {w.packet.Protocol},
		}[e.Key])
	}
}

// connection loads what connection tracking knows. Of what is set the library does not tell the register, which is 0 then.
func (w *walk) connection(e *expr.Ct) {
	if e.Register != 0 {
		w.store(e.Register, map[expr.CtKey][]byte{
			expr.CtKeySTATE: binary.NativeEndian.AppendUint32(nil, w.state), expr.CtKeyMARK: make([]byte, 4),
		}[e.Key])
	}
}

// fib loads the types of the addresses: the source is local, the destination is not.
func (w *walk) fib(e *expr.Fib) {
	var kind []byte
	if e.ResultADDRTYPE {
		kind = binary.NativeEndian.AppendUint32(nil, map[bool]uint32{true: unix.RTN_LOCAL, false: unix.RTN_UNICAST}[e.FlagSADDR])
	}
	w.store(e.Register, kind)
}

// payload loads what is known of the header of IPv4 (RFC 791, 3.1) or IPv6 (RFC 8200, 3).
func (w *walk) payload(e *expr.Payload) {
	source, protocol := uint32(8), uint32(6)
	if w.packet.Source.Is4() {
		source, protocol = 12, 9
	}
	if e.OperationType != expr.PayloadLoad {
		return
	}
	var data []byte
	address := w.packet.Source.AsSlice()
	switch from, to := e.Offset, e.Offset+e.Len; {
	case e.Base != expr.PayloadBaseNetworkHeader:
	case from == protocol && e.Len == 1:
		data = []byte{w.packet.Protocol}
	case from >= source && to <= source+uint32(len(address)):
		data = address[from-source : to-source]
	}
	w.store(e.DestRegister, data)
}

func (w *walk) mask(e *expr.Bitwise) {
	data := slices.Clone(w.load(e.SourceRegister, len(e.Mask)))
	for n := range data {
		data[n] = data[n]&e.Mask[n] ^ e.Xor[n]
	}
	w.values[slot(e.DestRegister)] = value{data: data, masked: len(e.Mask) > 0 && isZero(e.Xor)}
}

func (w *walk) compare(op expr.CmpOp, register uint32, data []byte) bool {
	loaded := w.load(register, len(data))
	if loaded == nil {
		isEqual := w.values[slot(register)].masked && isZero(data)
		return isEqual && op == expr.CmpOpEq || !isEqual && op == expr.CmpOpNeq
	}
	order := bytes.Compare(loaded, data)
	return map[expr.CmpOp]bool{
		expr.CmpOpEq: order == 0, expr.CmpOpNeq: order != 0, expr.CmpOpLt: order < 0,
		expr.CmpOpLte: order <= 0, expr.CmpOpGt: order > 0, expr.CmpOpGte: order >= 0,
	}[op]
}

func (w *walk) lookUp(e *expr.Lookup, elements []element) *expr.Verdict {
	length := 0
	for _, each := range elements {
		length = max(length, len(each.key))
	}
	found := holding(elements, w.load(e.SourceRegister, length))
	switch {
	case !e.IsDestRegSet:
		return holds((found != nil) != e.Invert)
	case found == nil:
		return breaks
	case e.DestRegister == unix.NFT_REG_VERDICT:
		return found.verdict()
	}
	w.store(e.DestRegister, nil)
	return nil
}

// verdict is what a map says of what the element holds.
func (e *element) verdict() *expr.Verdict {
	code := attribute(attribute(e.value, unix.NFTA_DATA_VERDICT), unix.NFTA_VERDICT_CODE)
	if len(code) != 4 {
		return breaks
	}
	return &expr.Verdict{Kind: expr.VerdictKind(int32(binary.BigEndian.Uint32(code))), Chain: chainOf(e.value)}
}

// holding returns the element that a key is in: that for all others where it is in none, nil where there is no such.
// Of an interval there are the beginning and the first key behind it.
func holding(elements []element, key []byte) (found *element) {
	isOfIntervals := slices.ContainsFunc(elements, func(e element) bool { return e.begins == 0 })
	var other *element
	for n := range elements {
		switch e := &elements[n]; {
		case len(e.key) == 0:
			other = e
		case isOfIntervals && bytes.Compare(e.key, key) <= 0:
			if found == nil || cmp.Or(bytes.Compare(e.key, found.key), e.begins-found.begins) > 0 {
				found = e
			}
		case bytes.Equal(e.key, key), e.keyEnd != nil && isBetween(key, e.key, e.keyEnd):
			return e
		}
	}
	if found == nil || found.begins == 0 {
		return other
	}
	return found
}

// isBetween compares concatenations by their words, which is right for fields of one word.
func isBetween(key, first, last []byte) bool {
	for n := 0; n < len(key); n += 4 {
		end := min(n+4, len(key), len(first), len(last))
		if n >= end || bytes.Compare(key[n:end], first[n:end]) < 0 || bytes.Compare(key[n:end], last[n:end]) > 0 {
			return false
		}
	}
	return len(key) > 0
}

// matches reads what iptables-nft leaves to extensions that decide about packets.
func (w *walk) matches(e *expr.Match) bool {
	const isInverted = 1
	switch info := e.Info.(type) {
	case *xt.Comment:
		return true
	case *xt.AddrTypeV1:
		return isOfType(info.Source, xt.AddrTypeLocal) != (info.Flags&isInverted != 0 && info.Source != 0) &&
			isOfType(info.Dest, xt.AddrTypeUnicast) != (info.Flags&(isInverted<<1) != 0 && info.Dest != 0)
	case *xt.ConntrackMtinfo3:
		isOfState := uint32(info.StateMask)&w.state != 0
		return info.MatchFlags&^uint16(xt.ConntrackStateAlias) == uint16(xt.ConntrackState) && isOfState == (info.InvertFlags == 0)
	}
	data := extension(e.Info)
	const mask, invert = 4, 8 // struct xt_mark_mtinfo1: the mark, its mask, and whether it is inverted
	if e.Name != "mark" || len(data) <= invert || w.mark == nil {
		return false
	}
	number := binary.NativeEndian.Uint32
	return (number(w.mark)&number(data[mask:]) == number(data)) == (data[invert] == 0)
}

func isOfType(mask uint16, kind xt.AddrTypeFlags) bool { return mask == 0 || mask&uint16(kind) != 0 }

func (w *walk) target(e *expr.Target) *expr.Verdict {
	switch e.Name {
	case "MASQUERADE", "SNAT", "NETMAP":
		return translates
	case "REJECT":
		return drops
	case "MARK", "CONNMARK", "HMARK":
		w.mark = nil
	}
	return nil
}
