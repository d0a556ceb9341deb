package snapshot

import (
	"cmp"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Routing is where packets are sent.
type Routing struct {
	Routes    []Route // those that one of the checks asks for
	Rules     []Rule
	RuleLines []RuleLine
}

// Route is a route that is of interest here: every default route, every one that
// refuses, that has no gateway although it leads far, or whose gateway is this
// host.
type Route struct {
	Family, Type, Table, Metric, Protocol int
	Dst                                   netip.Prefix
	Device                                int // index, 0 where there is none
	Gateway                               netip.Addr
}

// IsUnicast tells a route that leads somewhere.
func (r *Route) IsUnicast() bool { return r.Type == unix.RTN_UNICAST }

// IsDefault tells a route that leads everywhere, or refuses everything.
func (r *Route) IsDefault() bool { return r.Dst.IsValid() && r.Dst.Bits() == 0 }

// LeadsFar tells a route to more than any single link holds: a default route or its halves.
func (r *Route) LeadsFar() bool {
	if r.Dst.Addr().Is4() {
		return r.Dst.Bits() < 8
	}
	return r.Dst.Bits() < 16 && !r.Dst.Addr().IsMulticast()
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
		if rule.Family != family || !rule.isUnconditional() {
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

// LeavesBy tells whether the default route of a table leaves by an interface.
func (t *Routing) LeavesBy(family, table, device int) bool {
	for _, r := range t.Routes {
		if r.Family == family && r.Table == table && r.IsUnicast() && r.IsDefault() && r.Device == device {
			return true
		}
	}
	return false
}

// LinesOf returns the lines that add a rule.
func (t *Routing) LinesOf(r *Rule) []*RuleLine {
	var lines []*RuleLine
	for n := range t.RuleLines {
		if line := &t.RuleLines[n]; line.Adds(r) {
			lines = append(lines, line)
		}
	}
	return lines
}

// TableName is what ip(8) calls a table.
func TableName(table int) string {
	names := map[int]string{unix.RT_TABLE_MAIN: "main", unix.RT_TABLE_DEFAULT: "default", unix.RT_TABLE_LOCAL: "local"}
	return cmp.Or(names[table], fmt.Sprint(table))
}
