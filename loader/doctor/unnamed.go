package doctor

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"replypath/loader/config"
	"replypath/loader/discover"
	"replypath/loader/flows"
	"replypath/loader/nexthop"
)

// unnamedRouters tells of flows that came through a router which no route names, while routes by their interface
// name others, that lead to somewhere else. These are nobody's business: the reply goes back to the
// MAC that the question came from. Only with `next_hop: gateway` there is nobody to send it to.
func unnamedRouters(h *Host) []Finding {
	var found []Finding
	for _, i := range h.Interfaces {
		peers := h.unnamed(&i)
		for _, mac := range slices.Sorted(maps.Keys(peers)) {
			who := some(peers[mac])
			switch i.Settings.NextHop {
			case config.NextHopGateway:
				found = append(found, problem(Warning, i.Name,
					"no gateway that a route names leads to "+who+": next_hop gateway leaves their answers to the kernel",
					h.configureInterface(i.Name, "next_hop: auto")))
			case config.NextHopAuto:
				found = append(found, fine(i.Name, fmt.Sprintf("no route names the router %s of %s: they are answered through it", h.nameMAC(i.Index, mac), who)))
			}
		}
	}
	return found
}

// unnamed returns the peers of an interface's flows that came so, by the MAC of their router, "" where it does not count.
func (h *Host) unnamed(i *discover.Interface) map[string][]string {
	peers := make(map[string][]string)
	for n := range h.Flows {
		f := &h.Flows[n]
		peer, err := netip.ParseAddr(f.Peer)
		if err != nil || f.Interface == nil || *f.Interface != i.Name || f.Gateway != nil || !h.leadsElsewhere(i.Index, peer) {
			continue
		}
		if _, onLink := h.onLink(i.Index, peer); onLink && i.Settings.NextHop != config.NextHopGateway {
			continue
		}
		mac := macOf(f)
		if !slices.Contains(peers[mac], f.Peer) {
			peers[mac] = append(peers[mac], f.Peer)
		}
	}
	return peers
}

func macOf(f *flows.Flow) string {
	if f.NextHopMAC == nil {
		return ""
	}
	return *f.NextHopMAC
}

// leadsElsewhere tells whether an interface has gateways of a peer's family, of which none leads to the peer.
func (h *Host) leadsElsewhere(device int, peer netip.Addr) bool {
	family := unix.AF_INET
	if peer.Is6() {
		family = unix.AF_INET6
	}
	has := false
	for n := range h.Gateways {
		g := &h.Gateways[n]
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
func (h *Host) nameMAC(device int, mac string) string {
	if owners := h.ownersOfMACs(device)[mac]; len(owners) > 0 {
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
