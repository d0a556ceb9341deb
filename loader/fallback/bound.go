package fallback

import (
	"errors"
	"fmt"
	"net"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"replypath/loader/discover"
	"replypath/loader/nexthop"
)

// BoundMetric is that of the default routes for sockets that are bound to a device, the kernel's largest: who
// is not bound has the fallback route before.
const BoundMetric uint32 = 1<<32 - 1

func boundRoute(hop nexthop.Default) *netlink.Route {
	r := &netlink.Route{
		LinkIndex: hop.Interface,
		Table:     unix.RT_TABLE_MAIN,
		Protocol:  discover.OwnProtocol,
		Priority:  int(BoundMetric),
		Flags:     int(netlink.FLAG_ONLINK), // a gateway may be outside the networks of its interface
		Dst:       &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)},
		Gw:        hop.Gateway.AsSlice(),
	}
	if hop.Family == unix.AF_INET6 {
		r.Dst = &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
	}
	return r
}

// SyncBound makes the default routes for bound sockets the wanted ones, where `present` are those that are
// there now. It returns what it has added and removed. Interfaces that are down or gone have none.
func SyncBound(nl *netlink.Handle, present, wanted []nexthop.Default) (added, removed []nexthop.Default, err error) {
	var errs []error
	for _, hop := range present {
		if slices.Contains(wanted, hop) {
			continue
		}
		switch err := nl.RouteDel(boundRoute(hop)); {
		case err == nil:
			removed = append(removed, hop)
		case !errors.Is(err, unix.ESRCH) && !errors.Is(err, unix.ENODEV):
			errs = append(errs, fmt.Errorf("delete the %s default route for bound sockets: %w", Name(hop.Family), err))
		}
	}
	for _, hop := range wanted {
		if slices.Contains(present, hop) {
			continue
		}
		// By IPv4, routes of one metric by several interfaces are told from one another by that only.
		switch err := nl.RouteAppend(boundRoute(hop)); {
		case err == nil:
			added = append(added, hop)
		case !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.ENETDOWN) && !errors.Is(err, unix.ENODEV):
			errs = append(errs, fmt.Errorf("add the %s default route for bound sockets: %w", Name(hop.Family), err))
		}
	}
	return added, removed, errors.Join(errs...)
}
