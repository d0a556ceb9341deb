package gather

import (
	"cmp"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"replypath/loader/discover"
	"replypath/loader/discover/dump"
	"replypath/loader/doctor/snapshot"
)

// routes keeps the few that a check asks for, of perhaps a million.
func routes(handle *netlink.Handle, host *snapshot.Links) ([]snapshot.Route, error) {
	found, err := dump.Routes(handle, func(r dump.Route, add func(snapshot.Route)) {
		isForBound := r.Protocol == discover.OwnProtocol && uint32(r.Metric) == discover.BoundMetric
		if r.Table == unix.RT_TABLE_LOCAL || isForBound { // of replypath's own, which nobody takes whose socket is not bound
			return
		}
		if len(r.Hops) == 0 {
			r.Hops = []dump.Hop{{}}
		}
		for _, hop := range r.Hops {
			route := snapshot.Route{
				Family: r.Family, Type: r.Type, Table: r.Table, Metric: r.Metric, Protocol: r.Protocol,
				Dst: r.Dst, Device: hop.Interface, Gateway: hop.Gateway,
			}
			if isOfInterest(host, &route) {
				add(route)
			}
		}
	})
	slices.SortFunc(found, func(a, b snapshot.Route) int {
		return cmp.Or(cmp.Compare(a.Family, b.Family), cmp.Compare(a.Table, b.Table), cmp.Compare(a.Dst.String(), b.Dst.String()),
			cmp.Compare(a.Metric, b.Metric), cmp.Compare(a.Device, b.Device), a.Gateway.Compare(b.Gateway))
	})
	return found, err
}

// isOfInterest leaves out the entry that the kernel itself holds for a family
// without a default route.
func isOfInterest(host *snapshot.Links, r *snapshot.Route) bool {
	switch {
	case r.Refuses():
		return r.Protocol != unix.RTPROT_KERNEL
	case !r.IsUnicast():
		return false
	}
	return r.IsDefault() || r.Gateway.IsValid() && host.IsOwn(r.Gateway) || !r.Gateway.IsValid() && r.LeadsFar()
}

// rules reads the rules of both families.
func rules(handle *netlink.Handle) ([]snapshot.Rule, error) {
	list, err := dump.Rules(handle)
	var found []snapshot.Rule
	for n := range list {
		r := newRule(&list[n].Rule)
		r.Refuses = ruleRefusals[list[n].Action]
		found = append(found, r)
	}
	return found, err
}

var ruleRefusals = map[uint8]string{
	nl.FR_ACT_BLACKHOLE: "blackhole", nl.FR_ACT_UNREACHABLE: "unreachable", nl.FR_ACT_PROHIBIT: "prohibit",
}

func newRule(r *netlink.Rule) snapshot.Rule {
	rule := snapshot.Rule{
		Family: r.Family, Priority: r.Priority, Table: r.Table, Src: dump.Prefix(r.Src), Dst: dump.Prefix(r.Dst),
		Mark: r.Mark, IIF: r.IifName, OIF: r.OifName, Invert: r.Invert,
		Protocol: int(r.Protocol), SuppressesDefault: r.SuppressPrefixlen == 0,
		Other: r.Tos != 0 || r.Dport != nil || r.Sport != nil || r.IPProto != 0 || r.UIDRange != nil || r.TunID != 0 ||
			r.SuppressPrefixlen >= 0 || r.SuppressIfgroup >= 0 || r.Goto >= 0,
	}
	if r.Mask != nil {
		rule.Mask = *r.Mask
	}
	return rule
}
