// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"context"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// readyPoll is how often the kernel is asked again.
const readyPoll = time.Millisecond

// waitUntil asks again and again until nothing is missing.
func (i *Interface) waitUntil(ctx context.Context, missing func() (string, error)) error {
	ticker := time.NewTicker(readyPoll)
	defer ticker.Stop()
	for {
		what, err := missing()
		if err != nil || what == "" {
			return err
		}
		select {
		case <-ctx.Done():
			return i.errorf("%s: %w", what, context.Cause(ctx))
		case <-ticker.C:
		}
	}
}

// WaitReady returns when the interface has its carrier and, with IPv6 and a hardware address, a link-local address, and
// the kernel accepts packets for all its addresses.
func (i *Interface) WaitReady(ctx context.Context) error {
	return i.waitUntil(ctx, i.missing)
}

// missing says what the interface still lacks, or "".
func (i *Interface) missing() (string, error) {
	link, err := i.Link()
	if err != nil {
		return "", err
	}
	switch state := link.Attrs().OperState; {
	case state == netlink.OperUp:
	case state == netlink.OperUnknown && neverKnows(link):
	default:
		return "no carrier", nil
	}
	if i.Host.network.options.NoIPv6 || link.Attrs().MasterIndex != 0 {
		return "", nil
	}
	return i.missingIPv6(link)
}

// neverKnows tells devices that have no carrier to speak of.
func neverKnows(link netlink.Link) bool {
	return link.Type() == "vxlan" || link.Type() == "dummy" || len(link.Attrs().HardwareAddr) == 0
}

// missingIPv6 looks for addresses that the kernel does not accept packets for yet: it enters an address into the local
// table later, in a work queue, also without duplicate address detection.
func (i *Interface) missingIPv6(link netlink.Link) (string, error) {
	addresses, err := retryDump(func() ([]netlink.Addr, error) {
		return i.Host.handle.AddrList(link, netlink.FAMILY_V6)
	})
	if err != nil {
		return "", i.errorf("list addresses: %w", err)
	}
	local, err := i.localRoutes()
	if err != nil {
		return "", err
	}
	linkLocal := false
	for _, a := range addresses {
		if a.Flags&unix.IFA_F_TENTATIVE != 0 || !local[a.IP.String()] {
			return "address " + a.IP.String() + " is not ready", nil
		}
		linkLocal = linkLocal || a.IP.IsLinkLocalUnicast()
	}
	if !linkLocal && len(link.Attrs().HardwareAddr) > 0 {
		return "no link-local address", nil
	}
	return "", nil
}

// localRoutes returns the IPv6 addresses of the interface that the kernel accepts packets for.
func (i *Interface) localRoutes() (map[string]bool, error) {
	filter := &netlink.Route{Table: unix.RT_TABLE_LOCAL, LinkIndex: i.Index}
	routes, err := retryDump(func() ([]netlink.Route, error) {
		return i.Host.handle.RouteListFiltered(netlink.FAMILY_V6, filter, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_OIF)
	})
	if err != nil {
		return nil, i.errorf("list local routes: %w", err)
	}
	local := make(map[string]bool)
	for _, r := range routes {
		if r.Type == unix.RTN_LOCAL && r.Dst != nil {
			local[r.Dst.IP.String()] = true
		}
	}
	return local, nil
}

// Resolve has the kernel resolve a neighbour, with no packet to send to it, and waits for the answer.
//
// It matters for a server's first gateway. A packet that waits for a MAC lends its source to the ARP request
// (arp_announce), and a router that filters strictly does not answer a request from a source that does not belong
// there.
func (i *Interface) Resolve(ctx context.Context, address netip.Addr) error {
	err := i.change("resolve "+address.String(), func(link netlink.Link) error {
		return i.Host.handle.NeighSet(&netlink.Neigh{
			LinkIndex: link.Attrs().Index, IP: address.AsSlice(), Flags: netlink.NTF_USE,
		})
	})
	if err != nil {
		return err
	}
	return i.waitUntil(ctx, func() (string, error) { return i.unresolved(address) })
}

// resolvedStates are those in which a neighbour entry has a usable MAC.
const resolvedStates = netlink.NUD_REACHABLE | netlink.NUD_STALE | netlink.NUD_DELAY |
	netlink.NUD_PROBE | netlink.NUD_PERMANENT

// unresolved says that a neighbour's MAC is not known, or "".
func (i *Interface) unresolved(address netip.Addr) (string, error) {
	neighbours, err := retryDump(func() ([]netlink.Neigh, error) {
		return i.Host.handle.NeighList(i.Index, FamilyOf(address).netlink())
	})
	if err != nil {
		return "", i.errorf("list neighbours: %w", err)
	}
	for _, n := range neighbours {
		if a, _ := netip.AddrFromSlice(n.IP); a.Unmap() == address && n.State&resolvedStates != 0 {
			return "", nil
		}
	}
	return "no answer from neighbour " + address.String(), nil
}
