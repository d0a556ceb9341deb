package doctor

import (
	"fmt"
	"net/netip"
	"slices"

	"replypath/loader/discover"
	"replypath/loader/nexthop"
)

// silentGateways finds gateways that do not answer ARP or neighbour discovery.
// Answers by way of them go nowhere, and packets to them are not even built.
func silentGateways(h *Host) []Finding {
	var found []Finding
	for _, g := range h.Gateways {
		i := h.managed(g.Interface)
		if i == nil {
			continue
		}
		text := fmt.Sprintf("gateway %s is %s", g.Address, g.State)
		switch {
		case isDown(&h.Links, i.Index):
			found = append(found, seen(Warning, i.Name, text+": the interface is down", "ip link show dev "+quote(i.Name)).of(ownerOfDevice(i.Name)))
		case !i.Up:
			found = append(found, seen(Warning, i.Name, text+": the interface has no carrier", carrier(&h.Links, i)).of(ownerOfDevice(i.Name)))
		case !nexthop.Usable(g.State):
			found = append(found, silentGateway(&h.Routing, i, &g, text))
		case g.State == nexthop.StateDelay || g.State == nexthop.StateProbe:
			found = append(found, seen(Warning, i.Name, text+": it has not answered for some seconds", showNeighbour(i, &g)).of(ownerOfGateway(&h.Routing, &g)))
		default:
			found = append(found, fine(i.Name, text))
		}
	}
	return found
}

// silentGateway tells of one that does not answer. It may come back by itself: what
// leads by it stays, and so does what the configuration says of it.
func silentGateway(t *Routing, i *discover.Interface, g *nexthop.Gateway, text string) Finding {
	text += ": it does not answer " + resolution(familyOf(netip.PrefixFrom(g.Address, g.Address.BitLen())))
	if networks := onlyTo(g); networks != "" {
		return seen(Warning, i.Name, text+", and leads to "+networks+" only", showNeighbour(i, g)).of(ownerOfGateway(t, g))
	}
	if slices.Contains(i.Settings.Gateways, g.Address) {
		text += ", and the configuration names it"
	}
	return seen(Error, i.Name, text, showNeighbour(i, g)).of(ownerOfGateway(t, g))
}

func showNeighbour(i *discover.Interface, g *nexthop.Gateway) string {
	return fmt.Sprintf("ip neigh show %s dev %s", g.Address, quote(i.Name))
}

// ownerOfGateway is whose the first route is that leads by a gateway.
func ownerOfGateway(t *Routing, g *nexthop.Gateway) string {
	for n := range t.Routes {
		if r := &t.Routes[n]; r.Device == g.Interface && r.Gateway == g.Address && r.isUnicast() {
			return ownerOfRoute(r)
		}
	}
	return ""
}

// carrier is the command for an interface without a carrier: what it stands on may
// be down, else it is the cable or the other side.
func carrier(l *Links, i *discover.Interface) string {
	if lower := l.device(i.Lower); lower != nil && lower.Down {
		return "ip link show dev " + quote(lower.Name)
	}
	return explained("ethtool "+quote(i.Name), "look at the cable and the port of the switch")
}

func isDown(l *Links, index int) bool {
	d := l.device(index)
	return d != nil && d.Down
}
