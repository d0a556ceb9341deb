// SPDX-License-Identifier: Apache-2.0

package netfilter

import (
	"net/netip"
	"slices"
)

// Ruleset is what nf_tables holds, as far as somebody asks for it.
type Ruleset struct {
	Chains []Chain
	// Legacy names the tables of iptables-legacy that are in use, "ip filter":
	// their rules cannot be read by netlink.
	Legacy []string
	// Translated are the destinations that rules name whose packets they translate, or hand to a local proxy, as they
	// come in.
	Translated []netip.Prefix
}

// element is one of a set or a map.
type element struct {
	key, keyEnd []byte // keyEnd: of an interval of a concatenation
	value       []byte
	begins      int // 1; 0 for the end of an interval, which this is no part of
}

// Chain is a chain with its rules.
type Chain struct {
	Family, Table, Name string
	Type                string   // "filter", "nat", "route", empty for one that is no base chain
	Hooks               []string // that lead to it, by jumps as well: "prerouting", "output", ...
	Rules               []Rule
}

// String names a chain as nft does.
func (c *Chain) String() string { return c.named(c.Name) }

// named names a chain of the same table.
func (c *Chain) named(name string) string { return c.Family + " " + c.Table + " " + name }

func byName(chains []Chain) map[string]*Chain {
	named := make(map[string]*Chain, len(chains))
	for n := range chains {
		named[chains[n].String()] = &chains[n]
	}
	return named
}

// IsHookedAt tells whether a hook leads to it.
func (c *Chain) IsHookedAt(hook string) bool { return slices.Contains(c.Hooks, hook) }

// Rule is what a rule looks at and does.
type Rule struct {
	Handle uint64
	// ReversePath: it asks by which interface the way back to the source leaves,
	// and compares it with the one that the packet came in by.
	ReversePath bool
	Refuses     bool     // it drops or rejects
	Marked      bool     // it is limited to packets with a mark
	In          []string // "eth1", "eth*": the interfaces that it is limited to, none where it is not
	// OutNames are the outgoing interfaces that it compares with; OutUnknown, that
	// it looks at them by way of a set or a map.
	OutNames   []string
	OutUnknown bool
	Restores   bool     // it sets the packet's mark from that of the connection
	Marks      []uint32 // what it gives packets or connections for a mark, or compares the connection's with
	// Gives are those of Marks that it gives; GivesUnknown, that it may give any.
	Gives        []uint32
	GivesUnknown bool
	Destination
}

// Destination is what a rule does for whom: it has to be for the original destinations that it names.
type Destination struct {
	Translates bool           // it gives packets another destination, or hands them to a local proxy
	To         []netip.Prefix // that constants limit it to, none where no constant does
	Within     []Lookup       // sets and maps that have to hold it
	Jumps      []string       // chains
	Verdicts   *Lookup        // a map that leads to other chains
	Cases      []Case         // what it holds
}

// Lookup is a set or a map, and where in its keys the destination stands.
type Lookup struct {
	Set string
	At  int  // in bytes
	Of  Held // of no family where it does not stand there
}

// Held says what a register has of a packet's destination address.
type Held struct {
	Family int    // the length of an address of the family, in bytes
	Loaded int    // as many of the first bytes of the address
	Mask   string // nothing where all bits count
}

// Case is a chain that a map leads to, and the destinations for which it does; none for all.
type Case struct {
	Chain string
	To    []netip.Prefix
}

// leadsTo are the names of the chains that it leads to.
func (d *Destination) leadsTo() []string {
	names := slices.Clone(d.Jumps)
	for _, c := range d.Cases {
		names = append(names, c.Chain)
	}
	return names
}
