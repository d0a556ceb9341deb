// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"replypath/loader/discover/dump"
)

// Routing is where packets are sent.
type Routing struct {
	Routes []Route          // those that one of the checks asks for
	Tables map[TableOf]bool // those that have any route
	Rules  []Rule
	// LedBy are gateways of default routes that the datapath's daemon has seen since its start, by family, as "10.3.0.1 of eth0".
	LedBy map[int]string
}

// TableOf is a routing table of a family.
type TableOf struct{ Family, Table int }

// Route is a route that is of interest here: every one that leads everywhere, every one that
// refuses, that has no gateway although it leads far, or whose gateway is this
// host, and every static one by a managed interface.
type Route struct {
	Family, Type, Table, Metric, Protocol int
	Dst                                   netip.Prefix
	Device                                int // index, 0 where there is none
	Gateway                               netip.Addr
	Limits                                dump.Limits
}

// makers are those of routes and rules, by linux/rtnetlink.h and zebra/rt_netlink.h of FRR. Static tells nobody: networkd,
// NetworkManager and people write it.
var makers = map[int]string{
	unix.RTPROT_KERNEL: "the kernel", unix.RTPROT_DHCP: "a DHCP client", unix.RTPROT_RA: "router advertisements", unix.RTPROT_KEEPALIVED: "keepalived",
	unix.RTPROT_BIRD: "BIRD", unix.RTPROT_ZEBRA: "FRR", unix.RTPROT_BGP: "FRR", unix.RTPROT_ISIS: "FRR", unix.RTPROT_OSPF: "FRR",
	unix.RTPROT_RIP: "FRR", unix.RTPROT_EIGRP: "FRR", 190: "FRR", 191: "FRR", 193: "FRR", 194: "FRR", 195: "FRR", 196: "FRR", 197: "FRR",
}

// Owner is who made it, by its protocol; empty where that tells nothing.
func (r *Route) Owner() string { return makers[r.Protocol] }

// IsUnicast tells a route that leads somewhere.
func (r *Route) IsUnicast() bool { return r.Type == unix.RTN_UNICAST }

// IsDefault tells a route that leads everywhere, or refuses everything.
func (r *Route) IsDefault() bool { return r.Dst.IsValid() && r.Dst.Bits() == 0 }

// IsStatic tells a route of the main table that somebody made by hand to networks behind a router.
func (r *Route) IsStatic() bool {
	return r.IsUnicast() && !r.IsDefault() && r.Gateway.IsValid() && r.Table == unix.RT_TABLE_MAIN &&
		(r.Protocol == unix.RTPROT_BOOT || r.Protocol == unix.RTPROT_STATIC)
}

// refusals are the types of routes that refuse, by the words of ip(8).
var refusals = map[int]string{
	unix.RTN_BLACKHOLE: "blackhole", unix.RTN_UNREACHABLE: "unreachable", unix.RTN_PROHIBIT: "prohibit", unix.RTN_THROW: "throw",
}

// Kind is the word of ip(8) for a route that leads nowhere, empty for others.
func (r *Route) Kind() string { return refusals[r.Type] }

// Refuses leaves out throw, which goes on with the next rule.
func (r *Route) Refuses() bool { return r.Kind() != "" && r.Type != unix.RTN_THROW }

// BestDefault returns the default route that a packet without a source takes: by
// the tables that rules without conditions lead to, in their order, and there the
// one with the smallest metric.
func (t *Routing) BestDefault(family int) *Route {
	for _, rule := range t.Rules {
		if rule.Family != family || rule.Src.IsValid() || !rule.isBySource() {
			continue
		}
		var best *Route
		for n := range t.Routes {
			r := &t.Routes[n]
			if r.Family == family && r.Table == rule.Table && r.IsDefault() && (best == nil || r.Metric < best.Metric) {
				best = r
			}
		}
		if best != nil {
			return best
		}
	}
	return nil
}

// HopsLike returns all hops of a route, which is one of them.
func (t *Routing) HopsLike(r *Route) []Route {
	return slices.DeleteFunc(slices.Clone(t.Routes), func(o Route) bool {
		return o.Family != r.Family || o.Table != r.Table || o.Metric != r.Metric || o.Dst != r.Dst
	})
}

// IsForAll tells a table that a rule without conditions leads to.
func (t *Routing) IsForAll(family, table int) bool {
	return slices.ContainsFunc(t.Rules, func(r Rule) bool {
		return r.Family == family && r.Table == table && !r.Src.IsValid() && (r.isBySource() || r.SuppressesDefault)
	})
}

// LeavesBy tells whether the default route of a table leaves by an interface.
func (t *Routing) LeavesBy(family, table, device int) bool {
	return slices.ContainsFunc(t.Routes, func(r Route) bool {
		return r.Family == family && r.Table == table && r.IsUnicast() && r.IsDefault() && r.Device == device
	})
}

// Rule is a rule of policy routing. What is not valid, 0 or empty is no condition.
type Rule struct {
	Family, Priority, Table int
	Src, Dst                netip.Prefix
	Mark, Mask              uint32
	IIF, OIF                string
	Invert                  bool
	Other                   bool   // it has conditions beside these: ports, protocol, user, TOS, a VRF
	Refuses                 string // "blackhole", ...: it leads to no table
	Protocol                int    // of who made it: unix.RTPROT_*
	// SuppressesDefault: default routes of its table count for nothing.
	SuppressesDefault bool
}

// Owner is who made it, by its protocol; empty where that tells nothing.
func (r *Rule) Owner() string { return makers[r.Protocol] }

// IsKernels tells the rules that every host has.
func (r *Rule) IsKernels() bool {
	return !r.Src.IsValid() && r.isBySource() && !r.SuppressesDefault &&
		slices.Contains([]int{unix.RT_TABLE_LOCAL, unix.RT_TABLE_MAIN, unix.RT_TABLE_DEFAULT}, r.Table)
}

// MayMatch tells whether a rule may match what this host sends from a source, not counting those of every host. A mark is
// not had by it, but others may be missing.
func (r *Rule) MayMatch(src netip.Prefix) bool {
	hasMark := r.HasMark() && !r.Invert
	return !r.IsKernels() && !r.IsVRFs() && !hasMark && (r.IIF == "" || r.IIF == "lo") && r.OIF == "" &&
		(!r.Src.IsValid() || r.Src.Overlaps(src)) && (r.Table != 0 || r.Refuses != "")
}

// IsVRFs tells the rule by which each VRF has its own table (l3mdev_fib_rule_match).
func (r *Rule) IsVRFs() bool { return r.Table == 0 && r.Refuses == "" && !r.Other }

// isBySource tells a rule to a table that has no condition beside a source.
func (r *Rule) isBySource() bool {
	return r.Table != 0 && !r.Dst.IsValid() && !r.HasMark() && r.IIF == "" && r.OIF == "" && !r.Invert && !r.Other
}

// String writes the rule as `ip rule show` does.
func (r *Rule) String() string {
	words := []string{fmt.Sprintf("rule %d:", r.Priority)}
	if r.Invert {
		words = append(words, "not")
	}
	words = append(words, "from", OrAll(r.Src))
	if r.Dst.IsValid() {
		words = append(words, "to", OrAll(r.Dst))
	}
	if r.HasMark() {
		mark := fmt.Sprintf("%#x", r.Mark)
		if r.Mask != AllBits {
			mark += fmt.Sprintf("/%#x", r.Mask)
		}
		words = append(words, "fwmark", mark)
	}
	if r.IIF != "" {
		words = append(words, "iif", r.IIF)
	}
	if r.OIF != "" {
		words = append(words, "oif", r.OIF)
	}
	switch {
	case r.Refuses != "":
		words = append(words, r.Refuses)
	case r.Table != 0:
		words = append(words, "lookup", dump.TableName(r.Table))
	}
	if r.Protocol != unix.RTPROT_UNSPEC && r.Protocol != unix.RTPROT_KERNEL {
		words = append(words, "proto", netlink.RouteProtocol(r.Protocol).String())
	}
	return strings.Join(words, " ")
}

// AllBits is the mask of a mark that is written without one.
const AllBits = 0xffffffff

// HasMark tells a rule that selects by a mark, also by that of none.
func (r *Rule) HasMark() bool { return r.Mark != 0 || r.Mask != 0 }

// SelectsMark tells whether a rule selects packets with a mark.
func (r *Rule) SelectsMark(mark uint32) bool { return mark&r.Mask == r.Mark }

// OrAll writes a single address without its length.
func OrAll(p netip.Prefix) string {
	switch {
	case !p.IsValid():
		return "all"
	case p.IsSingleIP():
		return p.Addr().String()
	}
	return p.String()
}
