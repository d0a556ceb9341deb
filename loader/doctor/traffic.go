package doctor

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"replypath/loader/config"
	"replypath/loader/discover"
	"replypath/loader/flows"
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
		case h.isDown(i.Index):
			found = append(found, seen(Warning, i.Name, text+": the interface is down", "ip link show dev "+quote(i.Name)).of(ownerOfDevice(i.Name)))
		case !i.Up:
			found = append(found, seen(Warning, i.Name, text+": the interface has no carrier", h.carrier(i)).of(ownerOfDevice(i.Name)))
		case !nexthop.Usable(g.State):
			found = append(found, h.silentGateway(i, &g, text))
		case g.State == nexthop.StateDelay || g.State == nexthop.StateProbe:
			found = append(found, seen(Warning, i.Name, text+": it has not answered for some seconds", showNeighbour(i, &g)).of(h.ownerOfGateway(&g)))
		default:
			found = append(found, fine(i.Name, text))
		}
	}
	return found
}

// silentGateway tells of one that does not answer. It may come back by itself: what
// leads by it stays, and so does what the configuration says of it.
func (h *Host) silentGateway(i *discover.Interface, g *nexthop.Gateway, text string) Finding {
	text += ": it does not answer " + resolution(familyOf(single(g.Address)))
	if networks := onlyTo(g); networks != "" {
		return seen(Warning, i.Name, text+", and leads to "+networks+" only", showNeighbour(i, g)).of(h.ownerOfGateway(g))
	}
	if slices.Contains(i.Settings.Gateways, g.Address) {
		text += ", and the configuration names it"
	}
	return seen(Error, i.Name, text, showNeighbour(i, g)).of(h.ownerOfGateway(g))
}

func showNeighbour(i *discover.Interface, g *nexthop.Gateway) string {
	return fmt.Sprintf("ip neigh show %s dev %s", g.Address, quote(i.Name))
}

// ownerOfGateway is whose the first route is that leads by a gateway.
func (h *Host) ownerOfGateway(g *nexthop.Gateway) string {
	for n := range h.Routes {
		if r := &h.Routes[n]; r.Device == g.Interface && r.Gateway == g.Address && r.isUnicast() {
			return ownerOfRoute(r)
		}
	}
	return ""
}

// carrier is the command for an interface without a carrier: what it stands on may
// be down, else it is the cable or the other side.
func (h *Host) carrier(i *discover.Interface) string {
	if lower := h.device(i.Lower); lower != nil && lower.Down {
		return "ip link show dev " + quote(lower.Name)
	}
	return explained("ethtool "+quote(i.Name), "look at the cable and the port of the switch")
}

func (h *Host) isDown(index int) bool {
	d := h.device(index)
	return d != nil && d.Down
}

func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// lastHop finds interfaces where on-link peers arrive by another host's MAC, as
// behind a load balancer with NAT: answered directly, they take the answer for a
// stranger's.
func lastHop(h *Host) []Finding {
	var found []Finding
	if h.FlowError != "" {
		found = append(found, problem(Warning, "", "not looked at: "+h.FlowError, h.start()))
	}
	for _, i := range h.Interfaces {
		peers := h.lastHopPeers(i)
		if len(peers) == 0 || i.Settings.NextHop == config.NextHopLastHop {
			continue
		}
		more := ""
		if len(peers) > 3 {
			more = fmt.Sprintf(" and %d more", len(peers)-3)
			peers = peers[:3]
		}
		found = append(found, problem(Warning, i.Name,
			fmt.Sprintf("peers of this network arrive from another's mac: %s%s: next_hop last-hop answers them through it", strings.Join(peers, ", "), more),
			h.configureInterface(i.Name, "next_hop: last-hop")))
	}
	return found
}

// lastHopPeers names the on-link peers of an interface's flows whose frames come
// from a MAC that is not theirs.
func (h *Host) lastHopPeers(i discover.Interface) []string {
	owners := h.ownersOfMACs(i.Index)
	var peers []string
	for n := range h.Flows {
		f := &h.Flows[n]
		peer, err := netip.ParseAddr(f.Peer)
		if err != nil || f.Interface == nil || *f.Interface != i.Name || f.Gateway != nil || f.NextHopMAC == nil {
			continue
		}
		if _, onLink := h.onLink(i.Index, peer); !onLink || h.isGateway(i.Index, peer) {
			continue
		}
		owner := owners[*f.NextHopMAC]
		if len(owner) == 0 || slices.Contains(owner, peer) {
			continue
		}
		// Several addresses of one host look alike, unless the peer is known by
		// another MAC, or the owner for a router.
		if h.isNeighbour(i.Index, peer) || h.isGateway(i.Index, owner[0]) {
			peers = append(peers, fmt.Sprintf("%s from %s (%s)", peer, *f.NextHopMAC, owner[0]))
		}
	}
	slices.Sort(peers)
	return slices.Compact(peers)
}

// ownersOfMACs returns whose MAC each is by the neighbour table.
func (h *Host) ownersOfMACs(device int) map[string][]netip.Addr {
	owners := map[string][]netip.Addr{}
	for _, n := range h.Neighbours {
		if n.Interface == device && len(n.MAC) == 6 {
			owners[n.MAC.String()] = append(owners[n.MAC.String()], n.Address)
		}
	}
	return owners
}

// isNeighbour tells whether the kernel knows the MAC of an address.
func (h *Host) isNeighbour(device int, a netip.Addr) bool {
	return slices.ContainsFunc(h.Neighbours, func(n Neighbour) bool {
		return n.Interface == device && n.Address == a && len(n.MAC) == 6
	})
}

func (h *Host) isGateway(device int, a netip.Addr) bool {
	return slices.ContainsFunc(h.Gateways, func(g nexthop.Gateway) bool { return g.Interface == device && g.Address == a })
}

// connectedSockets finds UDP daemons that connect a socket of theirs after they
// were asked on it, as iperf3 does: the source address of their answers is then
// the one of the route. Where the flow table shows what was asked, it is certain;
// else a connected socket beside a wildcard one on the same port is suspicious.
func connectedSockets(h *Host) []Finding {
	asked := h.datagrams()
	var found []Finding
	for n := range h.Sockets {
		s := &h.Sockets[n]
		if f := asked.elsewhere(s); f != nil {
			found = append(found, seen(Error, orEmpty(f.Interface), fmt.Sprintf(
				"%s answers %s from %s, but was asked on %s: it connects its wildcard socket, which cannot be mended from outside",
				s.owner(), s.Remote, s.Local.Addr(), f.Self), s.show("have it bind to "+f.Self)).of(s.Process))
		} else if asked.isSuspicious(s) {
			found = append(found, seen(Warning, "", fmt.Sprintf(
				"%s has a connected socket %s to %s beside a wildcard one: if it was asked on another address, its answers come from a wrong one",
				s.owner(), s.Local, s.Remote), s.show("have it bind to the address that it is asked on")).of(s.Process))
		}
	}
	return found
}

// datagrams is what the flow table and the sockets tell of UDP.
type datagrams struct {
	flows     map[datagram]*flows.Flow
	wildcards map[uint16]bool // ports
	several   bool            // the host has more than one interface to choose from
}

// datagram tells a conversation, but for the own address.
type datagram struct {
	peer               string
	peerPort, selfPort uint16
}

func (h *Host) datagrams() *datagrams {
	d := &datagrams{flows: map[datagram]*flows.Flow{}, wildcards: map[uint16]bool{}, several: len(h.Interfaces) > 1}
	for n := range h.Flows {
		if f := &h.Flows[n]; f.Protocol == "udp" {
			d.flows[datagram{f.Peer, f.PeerPort, f.SelfPort}] = f
		}
	}
	for _, s := range h.Sockets {
		if !s.Remote.IsValid() && s.Local.Addr().IsUnspecified() {
			d.wildcards[s.Local.Port()] = true
		}
	}
	return d
}

// elsewhere returns the flow of a connected socket's peer and ports whose own
// address is another than the socket's.
func (d *datagrams) elsewhere(s *Socket) *flows.Flow {
	if !s.Remote.IsValid() {
		return nil
	}
	f := d.flows[datagram{s.Remote.Addr().String(), s.Remote.Port(), s.Local.Port()}]
	if f == nil || f.Self == s.Local.Addr().String() {
		return nil
	}
	return f
}

func (d *datagrams) isSuspicious(s *Socket) bool {
	return d.several && s.Remote.IsValid() && !s.Remote.Addr().IsLoopback() && d.wildcards[s.Local.Port()]
}

func (s *Socket) owner() string {
	if s.Process != "" {
		return fmt.Sprintf("%s on udp port %d", s.Process, s.Local.Port())
	}
	return fmt.Sprintf("udp port %d", s.Local.Port())
}

// show is the command that names the process.
func (s *Socket) show(what string) string {
	return explained(fmt.Sprintf("ss -uanp 'sport = :%d'", s.Local.Port()), "who has the socket: "+what)
}

func orEmpty(text *string) string {
	if text == nil {
		return ""
	}
	return *text
}
