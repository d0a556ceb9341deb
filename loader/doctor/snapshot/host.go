// SPDX-License-Identifier: Apache-2.0

// Package snapshot is what doctor knows of a network namespace: what was read, and what follows from it.
package snapshot

import (
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"replypath/loader/attach"
	"replypath/loader/discover"
	"replypath/loader/flows"
	"replypath/loader/hostsettings"
	"replypath/loader/netfilter"
	"replypath/loader/nexthop"
)

// Host is a snapshot of a network namespace, as far as checks ask for it.
type Host struct {
	State
	Links
	Routing
	Neighbourhood
	Settings Settings
	// RPFilterDrops are the packets that rp_filter dropped in this network namespace; nil: not known.
	RPFilterDrops *uint64
	Firewall      netfilter.Ruleset
	Hooked
	Traffic
	// Translations are of what comes from other hosts.
	Translations []Translation
	// Unread are parts of the host that this process may not read, by name, and why.
	Unread map[string]string
	// Failed are parts that could not be read, by name, with the error.
	Failed map[string]string
}

// The parts that not everybody may read.
const (
	PartPins     = "what is pinned"
	PartGateways = "whether gateways answer"
	PartFirewall = "the firewall"
	PartFlows    = "the flow table"
	PartHooks    = "the tc hooks"
	PartTraffic  = "the counters"
	PartKernel   = "what the kernel's bpf can do" // which only who may load programs can find out
	PartTracked  = "connection tracking"
	PartStatus   = "the datapath"
)

// MissingProgram is a place that a program of replypath was taken from.
type MissingProgram struct {
	Interface string
	Direction attach.Direction
}

// MissingPrograms returns the hooks of managed interfaces that lack our program, none where nothing is attached.
func (h *Host) MissingPrograms() []MissingProgram {
	if !h.Attached {
		return nil
	}
	var missing []MissingProgram
	for _, i := range h.Interfaces {
		for _, direction := range attach.Directions {
			isOurs := func(hook Hook) bool {
				return hook.Interface == i.Index && hook.Egress == (direction == attach.Egress) && hook.Ours
			}
			if !slices.ContainsFunc(h.Hooks, isOurs) {
				missing = append(missing, MissingProgram{i.Name, direction})
			}
		}
	}
	return missing
}

// EnforcesAll tells whether every managed interface is enforced.
func (h *Host) EnforcesAll() bool {
	return h.Attached && !slices.ContainsFunc(h.Interfaces, func(i discover.Interface) bool { return !h.Enforcing[i.Index] })
}

// Observed tells whether nothing is corrected on a managed interface.
func (h *Host) Observed(name string) bool {
	return slices.ContainsFunc(h.Interfaces, func(i discover.Interface) bool {
		enforces, known := h.Enforcing[i.Index]
		return i.Name == name && known && !enforces
	})
}

// IsAskedFromAfar tells whether questions arrive by an interface, as far as is known, from peers that no route by it names.
func (h *Host) IsAskedFromAfar(i *discover.Interface) (asked bool) {
	asked = slices.ContainsFunc(h.Gateways, func(g nexthop.Gateway) bool {
		isOfAll := func(family int) bool { return g.Reach(family).Everything }
		return g.Interface == i.Index && slices.ContainsFunc(Families, isOfAll)
	})
	h.Unnamed(i.Name, func(_ *flows.Flow, peer netip.Addr) { asked = asked || !h.IsOnLink(i.Index, peer) })
	return asked
}

// Forwards tells whether packets of others pass by way of a managed interface.
func (h *Host) Forwards(family int) bool {
	name := FamilyName[family]
	return slices.ContainsFunc(h.Interfaces, func(i discover.Interface) bool {
		return h.Settings[hostsettings.Key(name, i.Name, "forwarding")] != 0 || h.Settings[hostsettings.Key(name, "all", "forwarding")] != 0
	})
}

// IsServed tells whether an address is this host's, or is served although no interface has it.
func (h *Host) IsServed(a netip.Addr) bool {
	holds := func(p netip.Prefix) bool { return p.Contains(a) }
	isLocal := func(p discover.OwnPrefix) bool { return p.Prefix.Contains(a) }
	return h.IsOwn(a) || slices.ContainsFunc(h.Config.Addresses, holds) ||
		slices.ContainsFunc(h.Firewall.Translated, holds) || slices.ContainsFunc(h.OwnPrefixes, isLocal)
}

// AnswersBySource returns the managed interface that a rule is for, nil where it
// does something else.
func (h *Host) AnswersBySource(r *Rule) *discover.Interface {
	i := h.HolderOf(r.Src)
	if i == nil || !r.isBySource() || !h.LeavesBy(r.Family, r.Table, i.Index) {
		return nil
	}
	return i
}

// LastHopPeers names the on-link peers of an interface's flows whose frames come
// from a MAC that is not theirs, and tells whether handshakes have taught to answer all of them by it. There are none where
// one was completed otherwise: a director does not take replies back.
func (h *Host) LastHopPeers(i *discover.Interface) (peers []string, learnt bool) {
	owners := h.OwnersOfMACs(i.Index)
	learnt = true
	otherwise := false
	h.Unnamed(i.Name, func(f *flows.Flow, peer netip.Addr) {
		otherwise = otherwise || f.IsDirect()
		if f.NextHopMAC == nil || !h.IsOnLink(i.Index, peer) || h.isGateway(i.Index, peer) {
			return
		}
		owner := owners[*f.NextHopMAC]
		if len(owner) == 0 || slices.Contains(owner, peer) {
			return
		}
		// Several addresses of one host look alike, unless the peer is known by
		// another MAC, or the owner for a router.
		if h.isNeighbour(i.Index, peer) || h.isGateway(i.Index, owner[0]) {
			isLearnt := f.Verdict != nil && *f.Verdict == flows.WayLastHop
			otherwise = otherwise || f.State == flows.StateEstablished && !isLearnt
			peers = append(peers, fmt.Sprintf("%s from %s (%s)", peer, *f.NextHopMAC, owner[0]))
			learnt = learnt && isLearnt
		}
	})
	if otherwise {
		return nil, false
	}
	slices.Sort(peers)
	return slices.Compact(peers), learnt
}

// Families are those of addresses.
var Families = []int{unix.AF_INET, unix.AF_INET6}

// Names of families, and of how the MAC of an address is found.
var (
	FamilyName = map[int]string{unix.AF_INET: "ipv4", unix.AF_INET6: "ipv6"}
	Resolution = map[int]string{unix.AF_INET: "arp", unix.AF_INET6: "neighbour discovery"}
)

// Hooked are the programs and filters in the TC hooks of the managed interfaces, in the order in which they run.
type Hooked struct {
	Hooks []Hook
	TCX   bool // the kernel has it, so that ours runs before all filters
	// Ingress are the interfaces with a qdisc of the kind `ingress`, by index. It has the place of clsact.
	Ingress []int
}

// ByClsact tells whether programs are attached by clsact, or would be.
func (h *Hooked) ByClsact() bool {
	return !h.TCX || slices.ContainsFunc(h.Hooks, func(h Hook) bool { return h.Ours && !h.TCX })
}

// Hook is a program or a filter in the TC hooks of an interface.
type Hook struct {
	Interface int
	Egress    bool
	TCX       bool // else a filter of a clsact qdisc, which runs after those
	Name      string
	Ours      bool
	Redirects bool // it is a filter that sends packets elsewhere; of programs that is not known
}

// Settings are sysctls by key; missing where the kernel has none.
type Settings map[string]int

// Leaves are the settings of interfaces that checks ask for.
var Leaves = map[string][]string{
	"ipv4": {"rp_filter", "arp_ignore", "forwarding"},
	"ipv6": {"forwarding"},
}
