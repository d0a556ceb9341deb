// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"net/netip"
	"slices"
	"strings"
)

// Firewall is what nf_tables holds, as far as checks ask for it, and what else handles packets of connections.
type Firewall struct {
	Chains     []Chain
	Flowtables []Flowtable
	// Legacy names the tables of iptables-legacy that are in use, "ip filter":
	// their rules cannot be read by netlink.
	Legacy    []string
	Firewalld *Firewalld // nil: not installed
	IPVS      int        // virtual services of the kernel's load balancer
}

// Firewalld is what its configuration says.
type Firewalld struct {
	File         string
	IPv6RPFilter string // as written, "yes" where the file does not say
	Enabled      bool   // systemd starts it at boot
}

// IsStrict follows firewalld.conf(5): yes is the default and means strict.
func (f *Firewalld) IsStrict() bool {
	return slices.Contains([]string{"yes", "true", "strict"}, strings.ToLower(f.IPv6RPFilter))
}

// Chain is a chain with the rules that matter.
type Chain struct {
	Family, Table, Name string
	Type                string   // "filter", "nat", "route", empty for one that is no base chain
	Hooks               []string // that lead to it, by jumps as well: "prerouting", "output", ...
	Devices             []string // of the hooks of family netdev
	Rules               []FirewallRule
}

// String names a chain as nft does.
func (c *Chain) String() string { return c.Family + " " + c.Table + " " + c.Name }

// IsHookedAt tells whether a hook leads to it.
func (c *Chain) IsHookedAt(hook string) bool { return slices.Contains(c.Hooks, hook) }

// JumpsTo tells whether a rule of it leads to another chain.
func (c *Chain) JumpsTo(to *Chain) bool {
	jumps := func(r FirewallRule) bool { return slices.Contains(r.Jumps, to.Name) }
	return c.Family == to.Family && c.Table == to.Table && slices.ContainsFunc(c.Rules, jumps)
}

// FirewallRule is what a rule looks at and does.
type FirewallRule struct {
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
	DNAT         []netip.Addr // constant destinations
	Jumps        []string     // chains
}

// Flowtable is a flow table of nf_tables.
type Flowtable struct {
	Family, Table, Name string
	Devices             []string
	Hardware            bool
}
