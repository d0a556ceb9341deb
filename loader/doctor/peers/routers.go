package peers

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"replypath/loader/config"
	"replypath/loader/discover"
	"replypath/loader/doctor/finding"
	"replypath/loader/doctor/remedy"
	"replypath/loader/doctor/snapshot"
	"replypath/loader/flows"
	"replypath/loader/nexthop"
)

// UnnamedRouters tells of flows that came through a router which no route names, while routes by their interface
// name others, that lead to somewhere else. These are nobody's business: the reply goes back to the
// MAC that the question came from. Only with `next_hop: gateway` there is nobody to send it to.
func UnnamedRouters(h *snapshot.Host) []finding.Finding {
	var found []finding.Finding
	for _, i := range h.Interfaces {
		peers := unnamed(h, &i)
		for _, mac := range slices.Sorted(maps.Keys(peers)) {
			who := some(peers[mac])
			switch i.Settings.NextHop {
			case config.NextHopGateway:
				found = append(found, finding.Problem(finding.Warning, i.Name,
					"no gateway that a route names leads to "+who+": next_hop gateway leaves their answers to the kernel",
					remedy.ConfigureInterface(h, i.Name, "next_hop: auto")))
			case config.NextHopAuto:
				found = append(found, finding.Fine(i.Name, fmt.Sprintf(
					"no route names the router %s of %s: they are answered through it",
					nameMAC(&h.Neighbourhood, i.Index, mac), who)))
			}
		}
	}
	return found
}

// unnamed returns the peers of an interface's flows that came so, by the MAC of their router, "" where it does not count.
func unnamed(h *snapshot.Host, i *discover.Interface) map[string][]string {
	peers := make(map[string][]string)
	h.Unnamed(i.Name, func(f *flows.Flow, peer netip.Addr) {
		isNear := h.IsOnLink(i.Index, peer) && i.Settings.NextHop != config.NextHopGateway
		mac := finding.OrEmpty(f.NextHopMAC)
		if !isNear && leadsElsewhere(h.Gateways, i.Index, peer) && !slices.Contains(peers[mac], f.Peer) {
			peers[mac] = append(peers[mac], f.Peer)
		}
	})
	return peers
}

// leadsElsewhere tells whether an interface has gateways of a peer's family, of which none leads to the peer.
func leadsElsewhere(gateways []nexthop.Gateway, device int, peer netip.Addr) bool {
	family := unix.AF_INET
	if peer.Is6() {
		family = unix.AF_INET6
	}
	has := false
	for n := range gateways {
		g := &gateways[n]
		if g.Interface != device || family == unix.AF_INET && !g.IPv4 || family == unix.AF_INET6 && !g.IPv6 {
			continue
		}
		reach := g.Reach(family)
		if reach.Many || reach.Has(peer) {
			return false
		}
		has = has || len(reach.Networks) > 0
	}
	return has
}

// onlyTo tells of a gateway to where alone routes lead by it, "" for one that takes everything.
func onlyTo(g *nexthop.Gateway) string {
	networks := slices.Concat(g.Reach4.Networks, g.Reach6.Networks)
	if g.Reach4.Everything || g.Reach6.Everything || len(networks) == 0 {
		return ""
	}
	var texts []string
	for _, n := range networks {
		texts = append(texts, n.String())
	}
	return some(texts)
}

// nameMAC adds to a MAC the address that the kernel knows with it.
func nameMAC(b *snapshot.Neighbourhood, device int, mac string) string {
	if owners := b.OwnersOfMACs(device)[mac]; len(owners) > 0 {
		return fmt.Sprintf("%s (%s)", mac, owners[0])
	}
	return mac
}

// some names the first three.
func some(names []string) string {
	names = slices.Sorted(slices.Values(names))
	if len(names) > 3 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:3], ", "), len(names)-3)
	}
	return strings.Join(names, ", ")
}

// LastHop finds interfaces where on-link peers arrive by another host's MAC, as
// behind a load balancer with NAT: answered directly, they take the answer for a
// stranger's.
func LastHop(h *snapshot.Host) []finding.Finding {
	var found []finding.Finding
	if h.FlowError != "" {
		found = append(found, finding.Problem(finding.Warning, "", "not looked at: "+h.FlowError, remedy.Start(&h.State)))
	}
	for _, i := range h.Interfaces {
		peers := h.LastHopPeers(i)
		if len(peers) == 0 || i.Settings.NextHop == config.NextHopLastHop {
			continue
		}
		found = append(found, finding.Problem(finding.Warning, i.Name,
			"peers of this network arrive from another's mac: "+some(peers)+": next_hop last-hop answers them through it",
			remedy.ConfigureInterface(h, i.Name, "next_hop: last-hop")))
	}
	return found
}
