// SPDX-License-Identifier: Apache-2.0

package netfilter

import (
	"bytes"
	"cmp"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// MostTranslated bounds Ruleset.Translated.
const MostTranslated = 4096

// The widest networks that a rule may name. A transparent proxy may take the packets to half of the internet.
const (
	widestIPv4 = 16
	widestIPv6 = 48
)

// cases reads the elements of a set: the destinations that stand in the keys, and the chains that they lead to.
func (l *Lookup) cases(elements []element) (list []Case) {
	isOfIntervals := slices.ContainsFunc(elements, func(e element) bool { return e.begins == 0 })
	if isOfIntervals {
		slices.SortFunc(elements, func(a, b element) int { // the end of one goes before the beginning of the next
			return cmp.Or(bytes.Compare(a.key, b.key), cmp.Compare(a.begins, b.begins))
		})
	}
	for n, e := range elements {
		if e.begins == 0 {
			continue
		}
		c := Case{Chain: chainOf(e.value)}
		if first, ok := l.Of.prefixIn(e.key, l.At); ok {
			c.To = []netip.Prefix{first}
			last := first.Addr()
			if end, ok := l.Of.prefixIn(e.keyEnd, l.At); ok {
				last = end.Addr()
			} else if isOfIntervals && n+1 < len(elements) {
				next, _ := l.Of.prefixIn(elements[n+1].key, l.At)
				last = next.Addr().Prev()
			} else if isOfIntervals {
				last = lastOf(netip.PrefixFrom(last, 0))
			}
			if last != first.Addr() {
				c.To = prefixesBetween(first.Addr(), last)
			}
		}
		list = append(list, c)
	}
	return list
}

// chainOf is the chain that an element of a map leads to, empty for none.
func chainOf(value []byte) string {
	return text(attribute(value, unix.NFTA_DATA_VERDICT), unix.NFTA_VERDICT_CHAIN)
}

// reached is what happens to packets that come to a chain.
type reached struct {
	all bool           // they are translated, wherever they go to
	to  []netip.Prefix // or those are that go there
}

// limited is what happens to those of them that go to some networks.
func (r reached) limited(to []netip.Prefix) reached {
	var within reached
	for _, limit := range to {
		if r.all {
			within.to = append(within.to, limit)
		}
		for _, p := range r.to {
			switch {
			case !p.Overlaps(limit):
			case p.Bits() > limit.Bits():
				within.to = append(within.to, p)
			default:
				within.to = append(within.to, limit)
			}
		}
	}
	return within
}

func (r *reached) add(other reached) {
	r.all = r.all || other.all
	r.to = append(r.to, other.to...)
}

// translated returns the destinations that rules name whose packets are translated as they come in. Chains have the hooks
// that they stand in, and no others.
func translated(chains []Chain, byName map[string]*Chain, within func(*Chain, *Lookup) ([]netip.Prefix, error)) ([]netip.Prefix, error) {
	t := &translations{chains: byName, within: within, known: map[*Chain]reached{}}
	var all []netip.Prefix
	for n := range chains {
		if c := &chains[n]; c.IsHookedAt("prerouting") {
			all = append(all, t.of(c).to...)
		}
	}
	return compact(all), t.err
}

// translations finds them.
type translations struct {
	chains map[string]*Chain // by String()
	within func(c *Chain, l *Lookup) ([]netip.Prefix, error)
	known  map[*Chain]reached
	err    error
}

// of returns what happens in a chain.
func (t *translations) of(c *Chain) (found reached) {
	if found, known := t.known[c]; known || c == nil {
		return found
	}
	t.known[c] = reached{} // nft refuses loops
	for n := range c.Rules {
		found.add(t.ofRule(c, &c.Rules[n]))
	}
	t.known[c] = found
	return found
}

func (t *translations) ofRule(c *Chain, r *Rule) reached {
	found := reached{all: r.Translates}
	for _, name := range r.Jumps {
		found.add(t.of(t.chains[c.named(name)]))
	}
	for _, each := range r.Cases {
		next := t.of(t.chains[c.named(each.Chain)])
		if each.To != nil {
			next = next.limited(each.To)
		}
		found.add(next)
	}
	if r.To != nil {
		found = found.limited(r.To)
	}
	for n := range r.Within {
		if !found.all && len(found.to) == 0 {
			break // so that the large sets of filters are not read
		}
		within, err := t.within(c, &r.Within[n])
		if err != nil {
			t.err = err
		}
		found = found.limited(within)
	}
	return found
}

// compact leaves out what is no unicast network, or too wide, and what another network holds already.
func compact(list []netip.Prefix) (kept []netip.Prefix) {
	slices.SortFunc(list, netip.Prefix.Compare) // the wider network goes first
	for _, p := range list {
		widest := widestIPv4
		if p.Addr().Is6() {
			widest = widestIPv6
		}
		isHeld := len(kept) > 0 && kept[len(kept)-1].Overlaps(p)
		if p.Addr().IsGlobalUnicast() && p.Bits() >= widest && !isHeld {
			kept = append(kept, p)
		}
	}
	return kept
}
