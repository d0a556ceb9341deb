// SPDX-License-Identifier: Apache-2.0

package peers

import (
	"bytes"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"replypath/loader/config"
	"replypath/loader/discover"
	"replypath/loader/doctor/finding"
	"replypath/loader/doctor/remedy"
	"replypath/loader/doctor/snapshot"
	"replypath/loader/flows"
	"replypath/loader/nexthop"
)

// UnknownGateways looks at interfaces without a gateway of a family, whose replies go back to the MAC that the question came
// from. It tells of frames from a MAC that no neighbour has: such a router may take only what is sent to another one, as those of
// HSRP do.
func UnknownGateways(h *snapshot.Host) []finding.Finding {
	var found []finding.Finding
	for _, i := range h.Interfaces {
		for _, family := range snapshot.Families {
			if i.MAC == nil || i.Settings.NextHop == config.NextHopLastHop || hasGateway(h, &i, family) {
				continue
			}
			found = append(found, strangers(h, &i, family)...)
		}
	}
	return found
}

func hasGateway(h *snapshot.Host, i *discover.Interface, family int) bool {
	return slices.ContainsFunc(h.Gateways, func(g nexthop.Gateway) bool {
		return g.Interface == i.Index && (family == unix.AF_INET && g.IPv4 || family == unix.AF_INET6 && g.IPv6)
	})
}

// strangers tells of MACs that brought questions from far away, that no neighbour has, and by which no connection was completed.
func strangers(h *snapshot.Host, i *discover.Interface, family int) (found []finding.Finding) {
	known, count, works := h.OwnersOfMACs(i.Index), make(map[string]int), make(map[string]bool)
	h.Unnamed(i.Name, func(f *flows.Flow, peer netip.Addr) {
		mac := finding.OrEmpty(f.NextHopMAC)
		isOther := snapshot.FamilyOf(netip.PrefixFrom(peer, 0)) != family || h.IsOnLink(i.Index, peer)
		if !isOther && mac != "" && len(known[mac]) == 0 {
			count[mac]++
			works[mac] = works[mac] || f.State == flows.StateEstablished
		}
	})
	for _, mac := range slices.Sorted(maps.Keys(count)) {
		if works[mac] {
			continue
		}
		found = append(found, finding.Problem(finding.Warning, i.Name, fmt.Sprintf(
			"%d flows came from mac %s, which no neighbour has, and none was completed: the router may take replies by another mac only (HSRP, VRRP)",
			count[mac], mac), remedy.ConfigureInterface(h, i.Name, "gateways: ["+routerSeen(h, i, family)+"]")))
	}
	return found
}

// virtual are the beginnings of MACs of virtual routers: RFC 9568, 7.3, for IPv4 and IPv6; Cisco's HSRP 1, 2 and for IPv6; GLBP.
var virtual = []net.HardwareAddr{
	{0x00, 0x00, 0x5e, 0x00, 0x01}, {0x00, 0x00, 0x5e, 0x00, 0x02}, {0x00, 0x00, 0x0c, 0x07, 0xac}, {0x00, 0x00, 0x0c, 0x9f},
	{0x00, 0x05, 0x73, 0xa0}, {0x00, 0x07, 0xb4, 0x00},
}

// routerSeen is the neighbour that is a router by its MAC, or has said that it is one; else a word for it.
func routerSeen(h *snapshot.Host, i *discover.Interface, family int) string {
	isVirtual := func(n *snapshot.Neighbour) bool {
		return slices.ContainsFunc(virtual, func(prefix net.HardwareAddr) bool { return bytes.HasPrefix(n.MAC, prefix) })
	}
	for _, is := range []func(*snapshot.Neighbour) bool{isVirtual, func(n *snapshot.Neighbour) bool { return n.Router }} {
		for _, n := range h.Neighbours {
			if n.Interface == i.Index && snapshot.FamilyOf(netip.PrefixFrom(n.Address, 0)) == family && is(&n) {
				return n.Address.String()
			}
		}
	}
	return "ADDRESS"
}
