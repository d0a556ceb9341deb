// SPDX-License-Identifier: Apache-2.0

package gather

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"replypath/loader/doctor/netfilter"
	"replypath/loader/doctor/snapshot"
	"replypath/loader/hostsettings"
	"replypath/loader/sockets"
)

// uses finds what this host opened from the addresses that rules select by: sockets,
// tunnels, and what the kernel tracks. What the programs note at egress are digests of tuples,
// which tell of no address; whatever sends from one has a socket or is tracked.
func (g *gatherer) uses() error {
	h := g.host
	var sources []netip.Prefix
	for _, r := range h.Rules {
		if h.AnswersBySource(&r) != nil {
			sources = append(sources, r.Src)
		}
	}
	if len(sources) == 0 {
		return nil
	}
	o := &openings{host: h, sources: sources, asked: usesSet{}, begun: usesSet{}, found: usesSet{}}
	if err := o.gather(); err != nil {
		h.UsesError = err.Error()
	}
	o.tunnels(g.links)
	h.Uses = slices.Collect(maps.Keys(o.found))
	return nil
}

// openings are what this host opened from some addresses.
type openings struct {
	host    *snapshot.Host
	sources []netip.Prefix
	asked   usesSet // the flow table has the peer as the one that began
	begun   usesSet // tracked, with this host's side as the one that began
	found   usesSet
}

type usesSet map[snapshot.Use]bool

func (o *openings) gather() error {
	o.flows()
	for _, family := range snapshot.Families {
		if err := netfilter.Tracked(uint8(family), o.track); err != nil {
			return err
		}
	}
	tcp, err := socketsOf("tcp", unix.IPPROTO_TCP)
	if err != nil {
		return err
	}
	o.connections(tcp)
	o.datagrams()
	return nil
}

// socketsOf lists the sockets of a protocol, none where the kernel cannot show them.
func socketsOf(name string, protocol uint8) ([]sockets.Socket, error) {
	var all []sockets.Socket
	for _, family := range snapshot.Families {
		list, err := sockets.All(protocol, uint8(family))
		if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EPROTONOSUPPORT) {
			return nil, fmt.Errorf("list %s sockets: %w", name, err)
		}
		all = append(all, list...)
	}
	return all, nil
}

func (o *openings) flows() {
	for _, f := range o.host.Flows {
		self, err1 := netip.ParseAddr(f.Self)
		peer, err2 := netip.ParseAddr(f.Peer)
		protocol := map[string]uint8{"tcp": unix.IPPROTO_TCP, "udp": unix.IPPROTO_UDP}[f.Protocol]
		if errors.Join(err1, err2) == nil && protocol != 0 {
			local, remote := netip.AddrPortFrom(self, f.SelfPort), netip.AddrPortFrom(peer, f.PeerPort)
			o.asked[snapshot.Use{Protocol: protocol, Local: local, Remote: remote}] = true
		}
	}
}

// track notes what the kernel tracks. Of a connection of this host's own by TCP that
// is over its socket is gone; without one, it only says who began.
func (o *openings) track(u snapshot.Use) {
	if !o.isMeant(u.Local.Addr()) || o.host.IsOwn(u.Remote.Addr()) {
		return
	}
	o.begun[u] = true
	if u.Protocol != unix.IPPROTO_TCP || !o.host.IsOwn(u.Local.Addr()) {
		o.found[u] = true
	}
}

// isMeant tells an address that one of the rules selects by.
func (o *openings) isMeant(a netip.Addr) bool {
	return slices.ContainsFunc(o.sources, func(p netip.Prefix) bool { return p.Contains(a) })
}

// connections finds TCP connections that were not accepted: nobody listens on their
// port, or they are tracked as this host's.
func (o *openings) connections(list []sockets.Socket) {
	listening := map[uint16]bool{}
	for _, s := range list {
		if s.State == netlink.TCP_LISTEN {
			listening[s.Local.Port()] = true
		}
	}
	for _, s := range list {
		use := snapshot.Use{Protocol: unix.IPPROTO_TCP, Local: s.Local, Remote: s.Remote}
		isOver := slices.Contains([]uint8{netlink.TCP_LISTEN, netlink.TCP_CLOSE, netlink.TCP_TIME_WAIT}, s.State)
		if isOver || !o.isMeant(use.Local.Addr()) || o.host.IsOwn(use.Remote.Addr()) {
			continue
		}
		if o.begun[use] || !listening[use.Local.Port()] && !o.asked[use] {
			o.found[use] = true
		}
	}
}

// datagrams finds connected UDP sockets whose peer did not ask first, as far as that
// is to be seen: another socket on their port is that of a server. One that is not
// connected has a port that the kernel chose, unless it serves.
func (o *openings) datagrams() {
	serving, chosen := map[uint16]bool{}, firstChosenPort()
	for _, s := range o.host.Sockets {
		if !s.Remote.IsValid() && s.Local.Port() < chosen {
			serving[s.Local.Port()] = true
		}
	}
	for _, s := range o.host.Sockets {
		use := snapshot.Use{Protocol: unix.IPPROTO_UDP, Local: s.Local, Remote: s.Remote}
		isOwn := s.Remote.IsValid() && o.host.IsOwn(s.Remote.Addr())
		if o.isMeant(s.Local.Addr()) && !isOwn && !serving[s.Local.Port()] && !o.asked[use] {
			o.found[use] = true
		}
	}
	for u := range o.begun {
		if u.Protocol == unix.IPPROTO_UDP && u.Remote.IsValid() { // it is the same one
			delete(o.found, snapshot.Use{Protocol: unix.IPPROTO_UDP, Local: u.Local})
		}
	}
}

// tunnels finds those whose outer packets this host sends from such an address: they have no socket to be seen.
func (o *openings) tunnels(links []netlink.Link) {
	for _, link := range links {
		local, remote := tunnelEnds(link)
		from, _ := netip.AddrFromSlice(local)
		to, _ := netip.AddrFromSlice(remote)
		if from = from.Unmap(); o.isMeant(from) {
			o.found[snapshot.Use{Local: netip.AddrPortFrom(from, 0), Remote: netip.AddrPortFrom(to.Unmap(), 0)}] = true
		}
	}
}

// tunnelEnds returns the outer addresses of a tunnel, nil where a device is none or leaves them to the routing table.
func tunnelEnds(link netlink.Link) (local, remote net.IP) {
	switch t := link.(type) {
	case *netlink.Gretun:
		return t.Local, t.Remote
	case *netlink.Gretap:
		return t.Local, t.Remote
	case *netlink.Iptun:
		return t.Local, t.Remote
	case *netlink.Ip6tnl:
		return t.Local, t.Remote
	case *netlink.Sittun:
		return t.Local, t.Remote
	case *netlink.Vti:
		return t.Local, t.Remote
	case *netlink.Vxlan:
		return t.SrcAddr, t.Group
	}
	return nil, nil
}

// firstChosenPort is the first of the ports that the kernel gives to sockets that ask
// for none; its default where it does not say.
func firstChosenPort() uint16 {
	text, _ := hostsettings.Read("net.ipv4.ip_local_port_range")
	first, _, _ := strings.Cut(text, "\t")
	if port, err := strconv.ParseUint(first, 10, 16); err == nil {
		return uint16(port)
	}
	return 32768
}

// udpSockets lists the UDP sockets of the namespace.
func (g *gatherer) udpSockets() error {
	list, err := socketsOf("udp", unix.IPPROTO_UDP)
	for _, s := range list {
		if s.Remote.Port() == 0 {
			s.Remote = netip.AddrPort{}
		}
		g.host.Sockets = append(g.host.Sockets, snapshot.Socket{Local: s.Local, Remote: s.Remote})
	}
	nameSockets(g.host, list)
	return err
}

// nameSockets finds out who has a connected socket open that is going to be
// named. A process that cannot be looked at, or that ends meanwhile, is not.
func nameSockets(h *snapshot.Host, list []sockets.Socket) {
	asked, wanted := h.Datagrams(), map[string]*snapshot.Socket{}
	for n := range h.Sockets {
		if s := &h.Sockets[n]; asked.Elsewhere(s) != nil || asked.IsSuspicious(s) {
			wanted[fmt.Sprintf("socket:[%d]", list[n].Inode)] = s
		}
	}
	if len(wanted) == 0 {
		return
	}
	files, _ := filepath.Glob("/proc/[0-9]*/fd/*") // only a malformed pattern is an error
	for _, file := range files {
		target, _ := os.Readlink(file)
		if s := wanted[target]; s != nil && s.Process == "" {
			name, _ := os.ReadFile(filepath.Join(filepath.Dir(filepath.Dir(file)), "comm"))
			s.Process = strings.TrimSpace(string(name))
		}
	}
}
