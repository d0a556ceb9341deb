// SPDX-License-Identifier: Apache-2.0

package fallback

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/loader/discover"
	"replypath/loader/nexthop"
)

// Of an interface without a known gateway the route leads by a next hop that nobody has, and whose neighbour entry holds a MAC
// that nobody has (bpf/src/nobody.h): so the kernel builds replies, which get the MAC of their flow on egress. The entry is a
// permanent one, as it is to serve without us as the route does; both are taken back together.
var anyPeer = map[int]netip.Addr{
	unix.AF_INET:  netip.MustParseAddr("192.0.0.8"), // as routes to our own device have it
	unix.AF_INET6: netip.MustParseAddr("fe80::7265:706c:7900"),
}

// AnyPeer is the next hop by an interface of which no gateway is known.
func AnyPeer(device, family int) nexthop.Default {
	return nexthop.Default{Interface: device, Gateway: anyPeer[family], Family: family}
}

// isAnyPeer tells whether a next hop is such a one.
func isAnyPeer(hop nexthop.Default) bool { return hop.Gateway == anyPeer[hop.Family] }

// anyPeerEntry is its neighbour entry.
func anyPeerEntry(hop nexthop.Default) *netlink.Neigh {
	return &netlink.Neigh{
		LinkIndex: hop.Interface, IP: hop.Gateway.AsSlice(), HardwareAddr: bpf.AnyPeer, State: netlink.NUD_PERMANENT,
	}
}

// setAnyPeers makes the neighbour entries of those of the next hops that have one. What goes with its interface is none
// of its errors.
func setAnyPeers(nl *netlink.Handle, hops []nexthop.Default) error {
	var errs []error
	for _, hop := range hops {
		if !isAnyPeer(hop) {
			continue
		}
		err := nl.NeighSet(anyPeerEntry(hop))
		if err != nil && !errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.ENETDOWN) {
			errs = append(errs, fmt.Errorf("set the neighbour entry of %s on interface %d: %w", hop.Gateway, hop.Interface, err))
		}
	}
	return errors.Join(errs...)
}

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
// which has to be there. It returns those that it has added: an interface that is down or gone gets none. By
// reading: the kernel refuses a route of somebody else's with this metric; `ip route replace` puts it in the place of ours.
func AddBound(nl *netlink.Handle, hops []nexthop.Default) (added []nexthop.Default, err error) {
	errs := []error{setAnyPeers(nl, hops)}
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
			continue
		}
		errs = append(errs, forgetAnyPeer(nl, hop))
	}
	return removed, errors.Join(errs...)
}

// forgetAnyPeer deletes the neighbour entry of a next hop that has one.
func forgetAnyPeer(nl *netlink.Handle, hop nexthop.Default) error {
	if !isAnyPeer(hop) {
		return nil
	}
	err := nl.NeighDel(anyPeerEntry(hop))
	if err == nil || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENETDOWN) {
		return nil
	}
	return fmt.Errorf("delete the neighbour entry of %s on interface %d: %w", hop.Gateway, hop.Interface, err)
}
