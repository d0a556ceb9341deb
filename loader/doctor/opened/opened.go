// SPDX-License-Identifier: Apache-2.0

// Package opened tells what this host opened itself from what it was asked for.
package opened

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"replypath/loader/doctor/netfilter"
	"replypath/loader/doctor/snapshot"
	"replypath/loader/flows"
	"replypath/loader/hostsettings"
	"replypath/loader/sockets"
)

// Known is what has been read of a host.
type Known struct {
	IsOwn     func(netip.Addr) bool
	Asked     func(snapshot.Use) bool // the flow table has the peer as the one that began
	Datagrams []snapshot.Socket       // the UDP sockets
	Links     []netlink.Link
}

// Find returns what this host opened from the addresses that isMeant is true of: sockets,
// tunnels, and what the kernel tracks. With an error the list is what could be told.
func Find(k *Known, isMeant func(netip.Addr) bool) ([]snapshot.Use, error) {
	o := &openings{Known: k, isMeant: isMeant, begun: usesSet{}, found: usesSet{}}
	err := o.gather()
	o.tunnels()
	return slices.Collect(maps.Keys(o.found)), err
}

// InFlows returns the test of Known.Asked for a list of flows.
func InFlows(list []flows.Flow) func(snapshot.Use) bool {
	asked := usesSet{}
	for n := range list {
		if use, ok := UseOf(&list[n]); ok {
			asked[use] = true
		}
	}
	return func(u snapshot.Use) bool { return asked[u] }
}

// UseOf is the tuple of a flow, seen from this host; false where it has no ports.
func UseOf(f *flows.Flow) (use snapshot.Use, ok bool) {
	self, err1 := netip.ParseAddr(f.Self)
	peer, err2 := netip.ParseAddr(f.Peer)
	protocol := map[string]uint8{"tcp": unix.IPPROTO_TCP, "udp": unix.IPPROTO_UDP}[f.Protocol]
	return snapshot.Use{
		Protocol: protocol, Local: netip.AddrPortFrom(self, f.SelfPort), Remote: netip.AddrPortFrom(peer, f.PeerPort),
	}, errors.Join(err1, err2) == nil && protocol != 0
}

// openings are what this host opened from some addresses.
type openings struct {
	*Known
	isMeant func(netip.Addr) bool
	begun   usesSet // tracked, with this host's side as the one that began
	found   usesSet
}

type usesSet map[snapshot.Use]bool

func (o *openings) gather() error {
	for _, family := range snapshot.Families {
		if err := netfilter.Tracked(uint8(family), o.track); err != nil {
			return err
		}
	}
	tcp, err := Sockets("tcp", unix.IPPROTO_TCP)
	if err != nil {
		return err
	}
	o.connections(tcp)
	o.datagrams()
	return nil
}

// Sockets lists the sockets of a protocol, none where the kernel cannot show them.
func Sockets(name string, protocol uint8) ([]sockets.Socket, error) {
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

// Datagrams are the UDP sockets of a list, in its order.
func Datagrams(list []sockets.Socket) []snapshot.Socket {
	var found []snapshot.Socket
	for _, s := range list {
		if s.Remote.Port() == 0 {
			s.Remote = netip.AddrPort{}
		}
		found = append(found, snapshot.Socket{Local: s.Local, Remote: s.Remote})
	}
	return found
}

// track notes what the kernel tracks. Of a connection of this host's own by TCP that
// is over its socket is gone; without one, it only says who began.
func (o *openings) track(u snapshot.Use) {
	if !o.isMeant(u.Local.Addr()) || o.IsOwn(u.Remote.Addr()) {
		return
	}
	o.begun[u] = true
	if u.Protocol != unix.IPPROTO_TCP || !o.IsOwn(u.Local.Addr()) {
		o.found[u] = true
	}
}

// Listening are the ports on which TCP sockets of a list accept connections.
func Listening(list []sockets.Socket) map[uint16]bool {
	ports := map[uint16]bool{}
	for _, s := range list {
		if s.State == netlink.TCP_LISTEN {
			ports[s.Local.Port()] = true
		}
	}
	return ports
}

// connections finds TCP connections that were not accepted: nobody listens on their
// port, or they are tracked as this host's.
func (o *openings) connections(list []sockets.Socket) {
	listening := Listening(list)
	for _, s := range list {
		use := snapshot.Use{Protocol: unix.IPPROTO_TCP, Local: s.Local, Remote: s.Remote}
		isOver := slices.Contains([]uint8{netlink.TCP_LISTEN, netlink.TCP_CLOSE, netlink.TCP_TIME_WAIT}, s.State)
		if isOver || !o.isMeant(use.Local.Addr()) || o.IsOwn(use.Remote.Addr()) {
			continue
		}
		if o.begun[use] || !listening[use.Local.Port()] && !o.Asked(use) {
			o.found[use] = true
		}
	}
}

// datagrams finds connected UDP sockets whose peer did not ask first, as far as that
// is to be seen: another socket on their port is that of a server. One that is not
// connected has a port that the kernel chose, unless it serves.
func (o *openings) datagrams() {
	serving, chosen := map[uint16]bool{}, firstChosenPort()
	for _, s := range o.Datagrams {
		if !s.Remote.IsValid() && s.Local.Port() < chosen {
			serving[s.Local.Port()] = true
		}
	}
	for _, s := range o.Datagrams {
		use := snapshot.Use{Protocol: unix.IPPROTO_UDP, Local: s.Local, Remote: s.Remote}
		isOwn := s.Remote.IsValid() && o.IsOwn(s.Remote.Addr())
		if o.isMeant(s.Local.Addr()) && !isOwn && !serving[s.Local.Port()] && !o.Asked(use) {
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
func (o *openings) tunnels() {
	for _, link := range o.Links {
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
