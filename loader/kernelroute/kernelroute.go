// SPDX-License-Identifier: Apache-2.0

// Package kernelroute asks the kernel where it would send a packet, as its rules and routes are now.
package kernelroute

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"replypath/loader/config"
	"replypath/loader/discover"
	"replypath/loader/discover/dump"
)

// Packet is what the kernel is told of one.
type Packet struct {
	Peer, Self netip.AddrPort // the ports count where both are known, and the protocol is
	Protocol   *uint8         // nil: any
	Device     int            // that the socket which sends it is bound to; 0: none
	Input      int            // by which it comes in, of what is forwarded; 0: this host sends it
	UID        *uint32        // of the socket; nil: not known
	Mark       uint32
}

// Route is the kernel's answer to where a packet goes.
type Route struct {
	Device  int        // 0: nowhere
	Gateway netip.Addr // not valid: on-link
	Table   int
	Err     error // why nowhere
}

// Ask asks for the route of a packet (RTM_GETROUTE; kernel: rtm_ipv4_policy
// in net/ipv4/route.c, rtm_ipv6_policy in net/ipv6/route.c). It says no by an
// error or by the type of the route, which both end up in Route.Err.
func Ask(p Packet) (Route, error) {
	messages, err := p.request().Execute(unix.NETLINK_ROUTE, unix.RTM_NEWROUTE)
	if errno := unix.Errno(0); errors.As(err, &errno) {
		return Route{Err: errno}, nil
	}
	if err != nil {
		return Route{}, fmt.Errorf("ask the kernel for the route to %s: %w", p.Peer.Addr(), err)
	}
	if len(messages) == 0 {
		return Route{}, fmt.Errorf("ask the kernel for the route to %s: no answer", p.Peer.Addr())
	}
	return parse(messages[0])
}

// request is that of the kernel's route.
func (p *Packet) request() *nl.NetlinkRequest {
	family, bits := unix.AF_INET, 32
	if p.Peer.Addr().Is6() {
		family, bits = unix.AF_INET6, 128
	}
	request := nl.NewNetlinkRequest(unix.RTM_GETROUTE, 0)
	message := &nl.RtMsg{}
	message.Family, message.Dst_len = uint8(family), uint8(bits)
	message.Flags = unix.RTM_F_LOOKUP_TABLE
	if !p.Self.Addr().IsUnspecified() {
		message.Src_len = uint8(bits)
	}
	request.AddData(message)
	add := func(attribute int, value []byte) { request.AddData(nl.NewRtAttr(attribute, value)) }
	add(unix.RTA_DST, p.Peer.Addr().AsSlice())
	if !p.Self.Addr().IsUnspecified() {
		add(unix.RTA_SRC, p.Self.Addr().AsSlice())
	}
	for attribute, value := range map[int]uint32{unix.RTA_OIF: uint32(p.Device), unix.RTA_IIF: uint32(p.Input), unix.RTA_MARK: p.Mark} {
		if value != 0 {
			add(attribute, nl.Uint32Attr(value))
		}
	}
	if p.UID != nil {
		add(unix.RTA_UID, nl.Uint32Attr(*p.UID))
	}
	if p.Protocol != nil && slices.Contains(acceptedProtocols[family], *p.Protocol) {
		add(unix.RTA_IP_PROTO, []byte{*p.Protocol})
		if config.HasPorts(*p.Protocol) && p.Self.Port() != 0 && p.Peer.Port() != 0 {
			add(unix.RTA_SPORT, binary.BigEndian.AppendUint16(nil, p.Self.Port()))
			add(unix.RTA_DPORT, binary.BigEndian.AppendUint16(nil, p.Peer.Port()))
		}
		if *p.Protocol == unix.IPPROTO_ICMPV6 { // rules find type and code in the place of the port (struct flowi_uli)
			add(unix.RTA_DPORT, []byte{echoReply6, 0})
		}
	}
	return request
}

// echoReply6 is a type of ICMPv6 (RFC 4443, 4.2).
const echoReply6 = 129

// acceptedProtocols are those that the kernel takes in such a request, by family (rtm_getroute_parse_ip_proto in
// net/ipv4/netlink.c).
var acceptedProtocols = map[int][]uint8{
	unix.AF_INET:  {unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_ICMP},
	unix.AF_INET6: {unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_ICMPV6},
}

// refusals are the types of routes that lead nowhere (kernel: fib_props in
// net/ipv4/fib_semantics.c).
var refusals = map[uint8]error{
	unix.RTN_UNREACHABLE: unix.EHOSTUNREACH,
	unix.RTN_PROHIBIT:    unix.EACCES,
	unix.RTN_BLACKHOLE:   unix.EINVAL,
	unix.RTN_THROW:       unix.ENETUNREACH,
}

func parse(message []byte) (Route, error) {
	header := nl.DeserializeRtMsg(message)
	attributes, err := nl.ParseRouteAttr(message[header.Len():])
	if err != nil {
		return Route{}, fmt.Errorf("read the kernel's route: %w", err)
	}
	r := Route{Table: int(header.Table)}
	if refused := refusals[header.Type]; refused != nil {
		r.Err = refused
		return r, nil
	}
	for _, a := range attributes {
		switch a.Attr.Type {
		case unix.RTA_OIF:
			r.Device = int(binary.NativeEndian.Uint32(a.Value))
		case unix.RTA_GATEWAY:
			r.Gateway = dump.Address(net.IP(a.Value))
		case unix.RTA_VIA: // an IPv4 route by an IPv6 router: family, address
			r.Gateway = dump.Address(net.IP(a.Value[2:]))
		case unix.RTA_TABLE:
			r.Table = int(binary.NativeEndian.Uint32(a.Value))
		}
	}
	return r, nil
}

// AskOwn asks for the route of a packet of this host's own. In IPv6 a request
// that names a source takes the device for a wish; of a socket that is bound it is
// a condition, as it is without a source (ip6_route_output_flags_noref in
// net/ipv6/route.c).
func AskOwn(p Packet) (Route, error) {
	r, err := Ask(p)
	if err != nil || p.Device == 0 || p.Peer.Addr().Is4() || r.Device == p.Device {
		return r, err
	}
	p.Self = netip.AddrPortFrom(netip.IPv6Unspecified(), p.Self.Port())
	return Ask(p)
}

// Beyond are peers beyond every network of a host, by whether IPv4 is asked for: a.root-servers.net, which no list of bogus
// networks holds. Nothing is sent there.
var Beyond = map[bool]netip.Addr{true: netip.MustParseAddr("198.41.0.4"), false: netip.MustParseAddr("2001:503:ba3e::2:30")}

// Host are the interfaces and addresses of a network namespace, by which its routes are asked for and told.
type Host struct {
	Links []netlink.Link
	Names map[int]string     // of interfaces, by index
	VRFs  map[string]int     // indexes of VRFs, by the names of their ports: the routes of replies are theirs
	Own   map[netip.Addr]int // addresses, with the index of the only interface that has each; 0: several do
	Rules []dump.Rule        // replypath's own as well

	unreachable map[bool]bool // whether somebody's rule of IPv4, or of IPv6, says that there is no route
}

// ReadHost reads what there is now.
func ReadHost(handle *netlink.Handle) (*Host, error) {
	links, err := dump.Links(handle)
	if err != nil {
		return nil, err
	}
	h := &Host{Links: links, Names: map[int]string{}, VRFs: portsOfVRFs(links), Own: map[netip.Addr]int{}, unreachable: map[bool]bool{}}
	for _, link := range links {
		h.Names[link.Attrs().Index] = link.Attrs().Name
	}
	addresses, err := dump.Addresses(handle)
	for _, a := range addresses {
		address := dump.Address(a.IP)
		if _, several := h.Own[address]; several {
			h.Own[address] = 0
			continue
		}
		h.Own[address] = a.LinkIndex
	}
	if err != nil {
		return nil, err
	}
	h.Rules, err = dump.EveryRule(handle)
	for _, r := range h.Rules {
		if r.Action == nl.FR_ACT_UNREACHABLE && r.Protocol != discover.OwnProtocol {
			h.unreachable[r.Family == unix.AF_INET] = true
		}
	}
	return h, err
}

func portsOfVRFs(links []netlink.Link) map[string]int {
	isVRF := make(map[int]bool)
	for _, link := range links {
		isVRF[link.Attrs().Index] = link.Type() == "vrf"
	}
	ports := make(map[string]int)
	for _, link := range links {
		if master := link.Attrs().MasterIndex; isVRF[master] {
			ports[link.Attrs().Name] = master
		}
	}
	return ports
}

// IndexOf returns the index of an interface, 0 for none.
func (h *Host) IndexOf(name string) int {
	for index, other := range h.Names {
		if other == name {
			return index
		}
	}
	return 0
}

// IsOwn tells whether an address is this host's.
func (h *Host) IsOwn(a netip.Addr) bool {
	_, own := h.Own[a]
	return own
}

// What a packet leads to that has no route, or one to replypath's own device, and one that a route or a rule refuses.
const (
	None    = "none"
	Refused = "refused"
)

// Leads names the interface by which the kernel sends a packet, else None or Refused; "" where it does not tell.
func (h *Host) Leads(p Packet) string {
	ask := Ask
	if h.Names[p.Device] != "" && !h.isVRF(p.Device) {
		ask = AskOwn
	}
	route, err := ask(p)
	name := h.Names[route.Device]
	switch {
	case err != nil:
		return ""
	case errors.Is(route.Err, unix.ENETUNREACH) && !h.unreachable[p.Peer.Addr().Is4()], name == discover.OwnDevice:
		return None
	case route.Err != nil:
		return Refused
	}
	return name
}

// isVRF tells of a VRF that has ports.
func (h *Host) isVRF(index int) bool {
	for _, vrf := range h.VRFs {
		if vrf == index {
			return true
		}
	}
	return false
}
