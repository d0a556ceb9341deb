package doctor

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"replypath/loader/discover"
	"replypath/loader/discover/dump"
	"replypath/loader/nexthop"
)

// newDefault is what mends a missing default route: the route, where a router is
// known; else replypath, which has replies be built without one. Where that does so
// already, the router is for a person to tell.
func (h *Host) newDefault(family int) string {
	v4 := family == unix.AF_INET
	for _, known := range []func(discover.Interface, bool) netip.Addr{
		func(i discover.Interface, v4 bool) netip.Addr { return h.gatewayOf(i.Index, v4) }, h.routerSeen,
	} {
		for _, i := range h.Interfaces {
			if router := known(i, v4); router.IsValid() {
				return h.defaultBy(i, router, family)
			}
		}
	}
	const alone = "no router is known here; what this host starts needs a default route, too"
	switch {
	case !h.Config.FallbackRoute:
		return h.configure("set fallback_route: true")
	case !h.Attached:
		return explained(h.start(), alone)
	}
	version := map[bool]string{true: "-4", false: "-6"}[v4]
	device := h.firstWith(v4)
	return explained(fmt.Sprintf("ip %s neigh show dev %s", version, device), alone+": which router "+device+" has is for you to say")
}

// defaultBy is the command that adds a default route. Nothing tells which interface
// the one that is gone led by: where there are several to choose from, what this one
// means has to be known.
func (h *Host) defaultBy(i discover.Interface, router netip.Addr, family int) string {
	command := fmt.Sprintf("ip %sroute add default via %s dev %s", familyFlag(family), router, i.Name)
	several := slices.ContainsFunc(h.Interfaces, func(other discover.Interface) bool {
		return other.Index != i.Index && hasFamily(other, family == unix.AF_INET)
	})
	if !several {
		return command
	}
	return explained(command, fmt.Sprintf("what this host starts goes by %s from then on, unless another route says otherwise", i.Name))
}

// firstWith names the first managed interface with an address of a family.
func (h *Host) firstWith(v4 bool) string {
	for _, i := range h.Interfaces {
		if hasFamily(i, v4) {
			return i.Name
		}
	}
	return ""
}

// routerSeen returns a router next to an interface that no route names: a neighbour
// that says that it is one, or whose MAC packets from afar come from.
func (h *Host) routerSeen(i discover.Interface, v4 bool) netip.Addr {
	for _, n := range h.Neighbours {
		if n.Interface == i.Index && n.Router && n.Address.Is4() == v4 {
			return n.Address
		}
	}
	owners := h.ownersOfMACs(i.Index)
	for n := range h.Flows {
		f := &h.Flows[n]
		peer, err := netip.ParseAddr(f.Peer)
		if err != nil || f.Interface == nil || *f.Interface != i.Name || f.NextHopMAC == nil {
			continue
		}
		if _, onLink := h.onLink(i.Index, peer); onLink {
			continue
		}
		for _, owner := range owners[*f.NextHopMAC] {
			if owner.Is4() == v4 {
				return owner
			}
		}
	}
	return netip.Addr{}
}

// withGateway is the command that gives a route of an interface a gateway. Where
// none is known the route goes: replies then are sent to who their question came
// from.
func (h *Host) withGateway(i *discover.Interface, r *Route) string {
	gateway := h.gatewayOf(i.Index, r.Family == unix.AF_INET)
	if !gateway.IsValid() {
		return explained(h.without(r), "no router is known here; replies need none with replypath, what this host starts does")
	}
	via := *r
	via.Gateway = gateway
	if r.Others == "" {
		return explained("ip "+familyFlag(r.Family)+"route replace "+h.show(&via), attributes)
	}
	hop := h.showHop(dump.Hop{Interface: via.Device, Gateway: via.Gateway}, r.Family)
	return explained(h.replaceHops(r, r.Others+" "+hop), attributes)
}

// attributes is what a command that replaces a route leaves to who types it.
const attributes = "with src, mtu, onlink and the like if ip route shows that it has them"

// without is the command that takes a route away, and of one with several hops this
// hop only.
func (h *Host) without(r *Route) string {
	if r.Others == "" {
		return "ip " + familyFlag(r.Family) + "route del " + h.show(r)
	}
	return h.replaceHops(r, r.Others)
}

func (h *Host) replaceHops(r *Route, hops string) string {
	return "ip " + familyFlag(r.Family) + "route replace " + target(r) + place(r) + " " + hops
}

// withoutGateway is what mends a gateway that does not answer: not to use it, or
// another one of the interface that does answer in its place.
func (h *Host) withoutGateway(i *discover.Interface, g *nexthop.Gateway) string {
	if slices.Contains(i.Settings.Gateways, g.Address) {
		return h.unconfigureGateway(*i, g.Address)
	}
	const unless = "unless it is to come back by itself"
	for n := range h.Routes {
		r := &h.Routes[n]
		if r.Device != g.Interface || r.Gateway != g.Address || !r.isUnicast() {
			continue
		}
		if other := h.answering(g); other.IsValid() && r.Others == "" {
			via := *r
			via.Gateway = other
			return explained("ip "+familyFlag(r.Family)+"route replace "+h.show(&via), unless+", "+attributes)
		}
		return explained(h.without(r), unless)
	}
	family := ""
	if !g.IPv4 {
		family = familyFlag(unix.AF_INET6)
	}
	return explained(fmt.Sprintf("ip %sroute flush table all via %s dev %s", family, g.Address, i.Name), unless)
}

// answering returns another gateway of the same interface and family that answers.
func (h *Host) answering(silent *nexthop.Gateway) netip.Addr {
	for _, g := range h.Gateways {
		if g.Interface == silent.Interface && g.Address != silent.Address && g.IPv4 == silent.IPv4 && nexthop.Usable(g.State) {
			return g.Address
		}
	}
	return netip.Addr{}
}

// unconfigureGateway takes a gateway out of the configuration of an interface.
func (h *Host) unconfigureGateway(i discover.Interface, gateway netip.Addr) string {
	var rest []string
	for _, g := range i.Settings.Gateways {
		if g != gateway {
			rest = append(rest, g.String())
		}
	}
	if len(rest) == 0 {
		return h.configure(fmt.Sprintf("remove gateways: [%s] of %s", gateway, i.Name))
	}
	return h.configure(fmt.Sprintf("set gateways: [%s] of %s", strings.Join(rest, ", "), i.Name))
}

// carrier is the command for an interface without a carrier: what it stands on may
// be down, else it is the cable or the other side.
func (h *Host) carrier(i *discover.Interface) string {
	if lower := h.device(i.Lower); lower != nil && lower.Down {
		return "ip link set dev " + lower.Name + " up"
	}
	return explained("ethtool "+i.Name, "look at the cable and the port of the switch")
}
