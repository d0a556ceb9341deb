// Package peers has the checks of doctor for who is at the other end: gateways, routers, and peers of sockets.
package peers

import (
	"fmt"
	"net/netip"
	"slices"

	"replypath/loader/discover"
	"replypath/loader/doctor/finding"
	"replypath/loader/doctor/owners"
	"replypath/loader/doctor/snapshot"
	"replypath/loader/nexthop"
)

// SilentGateways finds gateways that do not answer ARP or neighbour discovery.
// Answers by way of them go nowhere, and packets to them are not even built.
func SilentGateways(h *snapshot.Host) []finding.Finding {
	var found []finding.Finding
	for _, g := range h.Gateways {
		i := h.Managed(g.Interface)
		if i == nil {
			continue
		}
		text := fmt.Sprintf("gateway %s is %s", g.Address, g.State)
		switch {
		case isDown(&h.Links, i.Index):
			found = append(found, finding.Seen(finding.Warning, i.Name, text+": the interface is down",
				"ip link show dev "+finding.Quote(i.Name)).Of(owners.OfDevice(i.Name)))
		case !i.Up:
			found = append(found, finding.Seen(finding.Warning, i.Name, text+": the interface has no carrier",
				carrier(&h.Links, i)).Of(owners.OfDevice(i.Name)))
		case !nexthop.Usable(g.State):
			found = append(found, silentGateway(&h.Routing, i, &g, text))
		case g.State == nexthop.StateDelay || g.State == nexthop.StateProbe:
			found = append(found, finding.Seen(finding.Warning, i.Name, text+": it has not answered for some seconds",
				showNeighbour(i, &g)).Of(ownerOfGateway(&h.Routing, &g)))
		default:
			found = append(found, finding.Fine(i.Name, text))
		}
	}
	return found
}

// silentGateway tells of one that does not answer. It may come back by itself: what
// leads by it stays, and so does what the configuration says of it.
func silentGateway(t *snapshot.Routing, i *discover.Interface, g *nexthop.Gateway, text string) finding.Finding {
	text += ": it does not answer " + snapshot.Resolution(snapshot.FamilyOf(netip.PrefixFrom(g.Address, g.Address.BitLen())))
	if networks := onlyTo(g); networks != "" {
		return finding.Seen(finding.Warning, i.Name, text+", and leads to "+networks+" only", showNeighbour(i, g)).Of(ownerOfGateway(t, g))
	}
	if slices.Contains(i.Settings.Gateways, g.Address) {
		text += ", and the configuration names it"
	}
	return finding.Seen(finding.Error, i.Name, text, showNeighbour(i, g)).Of(ownerOfGateway(t, g))
}

func showNeighbour(i *discover.Interface, g *nexthop.Gateway) string {
	return fmt.Sprintf("ip neigh show %s dev %s", g.Address, finding.Quote(i.Name))
}

// ownerOfGateway is whose the first route is that leads by a gateway.
func ownerOfGateway(t *snapshot.Routing, g *nexthop.Gateway) string {
	for n := range t.Routes {
		if r := &t.Routes[n]; r.Device == g.Interface && r.Gateway == g.Address && r.IsUnicast() {
			return owners.OfRoute(r)
		}
	}
	return ""
}

// carrier is the command for an interface without a carrier: what it stands on may
// be down, else it is the cable or the other side.
func carrier(l *snapshot.Links, i *discover.Interface) string {
	if lower := l.Device(i.Lower); lower != nil && lower.Down {
		return "ip link show dev " + finding.Quote(lower.Name)
	}
	return finding.Explained("ethtool "+finding.Quote(i.Name), "look at the cable and the port of the switch")
}

func isDown(l *snapshot.Links, index int) bool {
	d := l.Device(index)
	return d != nil && d.Down
}
