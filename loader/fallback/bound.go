package fallback

import (
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"replypath/loader/discover"
	"replypath/loader/nexthop"
)

func boundRoute(hop nexthop.Default) *netlink.Route {
	r := &netlink.Route{
		LinkIndex: hop.Interface,
		Table:     unix.RT_TABLE_MAIN,
		Protocol:  discover.OwnProtocol,
		Priority:  int(discover.BoundMetric),
		Flags:     int(netlink.FLAG_ONLINK), // a gateway may be outside the networks of its interface
		Dst:       &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)},
		Gw:        hop.Gateway.AsSlice(),
	}
	if hop.Family == unix.AF_INET6 {
		r.Dst = &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
	}
	return r
}

// AddBound adds default routes for sockets that are bound to a device, behind the fallback route of their family,
// which has to be there. It returns those that it has added: an interface that is down or gone gets none.
func AddBound(hops []nexthop.Default) (added []nexthop.Default, err error) {
	var errs []error
	for _, hop := range hops {
		switch err := send(toAppend, boundRoute(hop)); {
		case err == nil:
			added = append(added, hop)
		case !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.ENETDOWN) && !errors.Is(err, unix.ENODEV):
			errs = append(errs, fmt.Errorf("add the %s default route for bound sockets by %s: %w", Name(hop.Family), hop.Gateway, err))
		}
	}
	return added, errors.Join(errs...)
}

// RemoveBound removes such routes, before the fallback route. One that has gone already is no error.
func RemoveBound(nl *netlink.Handle, hops []nexthop.Default) (removed []nexthop.Default, err error) {
	var errs []error
	for _, hop := range hops {
		switch err := nl.RouteDel(boundRoute(hop)); {
		case err == nil:
			removed = append(removed, hop)
		case !errors.Is(err, unix.ESRCH) && !errors.Is(err, unix.ENODEV):
			errs = append(errs, fmt.Errorf("delete the %s default route for bound sockets by %s: %w", Name(hop.Family), hop.Gateway, err))
		}
	}
	return removed, errors.Join(errs...)
}
