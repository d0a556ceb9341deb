package loader

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"replypath/loader/config"
	"replypath/loader/fallback"
	"replypath/loader/nexthop"
	"replypath/loader/pins"
)

// A socket that is bound to a device is not moved off it, so that replies of its flows are built only where a
// route leads out of that device: without one, IPv6 refuses, and IPv4 takes every peer for a neighbour and asks
// for its MAC in vain (ip_route_output_key_hash_rcu() in net/ipv4/route.c). Where an interface has a known
// gateway and no default route by it, there is one behind the fallback route: the kernel looks past that for
// sockets that name the interface, and for nobody else.

// syncBoundRoutes makes these routes.
func (l *Loader) syncBoundRoutes(routers *nexthop.Routers) error {
	present, wanted := l.boundRoutes(routers), l.wantedBound()
	added, removed, err := fallback.SyncBound(l.netlink, present, wanted)
	if l.starting() && len(added)+len(removed) > 0 {
		l.rollback.add(func() error {
			_, _, err := fallback.SyncBound(l.netlink, added, removed)
			return err
		})
	}
	for _, hop := range added {
		l.log.Info("sockets that are bound to the interface have a default route", "interface", l.nameOf(hop.Interface),
			"family", fallback.Name(hop.Family), "gateway", hop.Gateway)
	}
	l.state.Fallback.Bound = nil
	for _, hop := range wanted {
		l.state.Fallback.Bound = append(l.state.Fallback.Bound, pins.BoundRecord{
			Name: l.nameOf(hop.Interface), Family: fallback.Name(hop.Family), Gateway: hop.Gateway.String(),
		})
	}
	return err
}

// boundRoutes returns those that are there.
func (l *Loader) boundRoutes(routers *nexthop.Routers) []nexthop.Default {
	return slices.DeleteFunc(slices.Clone(routers.Fallback), func(hop nexthop.Default) bool {
		return l.fallback.device != nil && hop.Interface == l.fallback.device.Index
	})
}

// wantedBound returns the routes that there should be: none in a VRF, which has a table of its own.
func (l *Loader) wantedBound() []nexthop.Default {
	var wanted []nexthop.Default
	for _, s := range l.inOrder() {
		if s.VRF != 0 || s.Settings.Mode != config.ModeEnforce {
			continue
		}
		for _, family := range l.fallback.families {
			isDefault := func(d nexthop.Default) bool { return d.Interface == s.Index && d.Family == family }
			gateway := l.firstGateway(s.Index, family)
			if gateway != nil && !slices.ContainsFunc(l.fallback.defaults, isDefault) {
				wanted = append(wanted, nexthop.Default{Interface: s.Index, Gateway: gateway.Address, Family: family})
			}
		}
	}
	return wanted
}

// firstGateway returns the gateway of an interface with the lowest address of a family, nil where none is known.
// It is any of them that has an address of that family: on egress each reply gets the MAC of its flow's.
func (l *Loader) firstGateway(device, family int) *gateway {
	var first *gateway
	for _, g := range l.gateways {
		takes := familyOf(g.Address) == family && (g.IPv4 && family == unix.AF_INET || g.IPv6 && family == unix.AF_INET6)
		if g.Interface == device && takes && (first == nil || g.Address.Less(first.Address)) {
			first = g
		}
	}
	return first
}

// boundRoutes removes them, whoever made them.
func (d *detacher) boundRoutes() error {
	routers, err := nexthop.Find(d.netlink, nil)
	if err != nil {
		return err
	}
	_, removed, err := fallback.SyncBound(d.netlink, routers.Fallback, nil)
	if len(removed) > 0 {
		d.done("%d default routes for sockets that are bound to a device", len(removed))
	}
	return err
}

// boundRoutes makes them those of before, on interfaces that are still there. `own` is the index of the
// device of the fallback routes.
func (r *restorer) boundRoutes(own int) error {
	routers, err := nexthop.Find(r.netlink, nil)
	if err != nil {
		return err
	}
	isOwn := func(hop nexthop.Default) bool { return hop.Interface == own }
	var before []nexthop.Default
	for _, record := range r.before.Fallback.Bound {
		hop, err := r.hopOf(record)
		if err != nil {
			return err
		}
		if hop.Interface != 0 {
			before = append(before, hop)
		}
	}
	_, _, err = fallback.SyncBound(r.netlink, slices.DeleteFunc(routers.Fallback, isOwn), before)
	return err
}

// hopOf finds the interface of a record, index 0 where it has gone.
func (r *restorer) hopOf(record pins.BoundRecord) (hop nexthop.Default, err error) {
	if hop.Gateway, err = netip.ParseAddr(record.Gateway); err != nil {
		return hop, fmt.Errorf("default route for sockets that are bound to %s: %w", record.Name, err)
	}
	link, err := r.netlink.LinkByName(record.Name)
	if notFound := (netlink.LinkNotFoundError{}); errors.As(err, &notFound) {
		return hop, nil
	}
	if err != nil {
		return hop, fmt.Errorf("look for %s: %w", record.Name, err)
	}
	hop.Interface, hop.Family = link.Attrs().Index, familyOf(hop.Gateway)
	return hop, nil
}

// boundChanges tells of them.
func boundChanges(records []pins.BoundRecord) []HostChange {
	var changes []HostChange
	for _, r := range records {
		flag := ""
		if r.Family == "ipv6" {
			flag = "-6 "
		}
		changes = append(changes, HostChange{
			Object: fmt.Sprintf("%s default route by %s for sockets that are bound to it", r.Family, r.Name), Before: "none",
			After: fmt.Sprintf("via %s with metric %d", r.Gateway, fallback.BoundMetric),
			Undo:  fmt.Sprintf("ip %sroute del default via %s dev %s metric %d", flag, r.Gateway, r.Name, fallback.BoundMetric),
		})
	}
	return changes
}
