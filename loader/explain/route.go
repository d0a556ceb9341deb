// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"replypath/loader/config"
	"replypath/loader/discover/dump"
)

// route is the kernel's answer to where a packet goes.
type route struct {
	device  int        // 0: nowhere
	gateway netip.Addr // not valid: on-link
	table   int
	err     error // why nowhere
}

// asker is what the kernel is told of the packet beside its addresses.
type asker struct {
	protocol *uint8
	device   int // that the socket is bound to
	uid      *uint32
	mark     uint32
}

// askRoute asks for the route of a packet (RTM_GETROUTE; kernel: rtm_ipv4_policy
// in net/ipv4/route.c, rtm_ipv6_policy in net/ipv6/route.c). It says no by an
// error or by the type of the route, which both end up in route.err.
func askRoute(q *Question, a asker, input int) (route, error) {
	family, bits := unix.AF_INET, 32
	if q.Peer.Addr().Is6() {
		family, bits = unix.AF_INET6, 128
	}
	request := nl.NewNetlinkRequest(unix.RTM_GETROUTE, 0)
	message := &nl.RtMsg{}
	message.Family, message.Dst_len = uint8(family), uint8(bits)
	message.Flags = unix.RTM_F_LOOKUP_TABLE
	if !q.Self.Addr().IsUnspecified() {
		message.Src_len = uint8(bits)
	}
	request.AddData(message)
	add := func(attribute int, value []byte) { request.AddData(nl.NewRtAttr(attribute, value)) }
	add(unix.RTA_DST, q.Peer.Addr().AsSlice())
	if !q.Self.Addr().IsUnspecified() {
		add(unix.RTA_SRC, q.Self.Addr().AsSlice())
	}
	if a.device != 0 {
		add(unix.RTA_OIF, nl.Uint32Attr(uint32(a.device)))
	}
	if input != 0 {
		add(unix.RTA_IIF, nl.Uint32Attr(uint32(input)))
	}
	if a.mark != 0 {
		add(unix.RTA_MARK, nl.Uint32Attr(a.mark))
	}
	if a.uid != nil {
		add(unix.RTA_UID, nl.Uint32Attr(*a.uid))
	}
	if a.protocol != nil && isAcceptedProtocol(*a.protocol, family) {
		add(unix.RTA_IP_PROTO, []byte{*a.protocol})
		if config.HasPorts(*a.protocol) && q.Self.Port() != 0 && q.Peer.Port() != 0 {
			add(unix.RTA_SPORT, binary.BigEndian.AppendUint16(nil, q.Self.Port()))
			add(unix.RTA_DPORT, binary.BigEndian.AppendUint16(nil, q.Peer.Port()))
		}
	}
	messages, err := request.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWROUTE)
	if errno := unix.Errno(0); errors.As(err, &errno) {
		return route{err: errno}, nil
	}
	if err != nil {
		return route{}, fmt.Errorf("ask the kernel for the route to %s: %w", q.Peer.Addr(), err)
	}
	if len(messages) == 0 {
		return route{}, fmt.Errorf("ask the kernel for the route to %s: no answer", q.Peer.Addr())
	}
	return parseRoute(messages[0])
}

// isAcceptedProtocol tells which protocols the kernel takes in such a request
// (rtm_getroute_parse_ip_proto in net/ipv4/netlink.c).
func isAcceptedProtocol(protocol uint8, family int) bool {
	switch protocol {
	case unix.IPPROTO_TCP, unix.IPPROTO_UDP:
		return true
	case unix.IPPROTO_ICMP:
		return family == unix.AF_INET
	case unix.IPPROTO_ICMPV6:
		return family == unix.AF_INET6
	}
	return false
}

// refusals are the types of routes that lead nowhere (kernel: fib_props in
// net/ipv4/fib_semantics.c).
var refusals = map[uint8]error{
	unix.RTN_UNREACHABLE: unix.EHOSTUNREACH,
	unix.RTN_PROHIBIT:    unix.EACCES,
	unix.RTN_BLACKHOLE:   unix.EINVAL,
	unix.RTN_THROW:       unix.ENETUNREACH,
}

func parseRoute(message []byte) (route, error) {
	header := nl.DeserializeRtMsg(message)
	attributes, err := nl.ParseRouteAttr(message[header.Len():])
	if err != nil {
		return route{}, fmt.Errorf("read the kernel's route: %w", err)
	}
	r := route{table: int(header.Table)}
	if refused := refusals[header.Type]; refused != nil {
		r.err = refused
		return r, nil
	}
	for _, a := range attributes {
		switch a.Attr.Type {
		case unix.RTA_OIF:
			r.device = int(binary.NativeEndian.Uint32(a.Value))
		case unix.RTA_GATEWAY:
			r.gateway = dump.Address(net.IP(a.Value))
		case unix.RTA_VIA: // an IPv4 route by an IPv6 router: family, address
			r.gateway = dump.Address(net.IP(a.Value[2:]))
		case unix.RTA_TABLE:
			r.table = int(binary.NativeEndian.Uint32(a.Value))
		}
	}
	return r, nil
}

// askOwnRoute asks for the route of a packet of this host's own. In IPv6 a request
// that names a source takes the device for a wish; of a socket that is bound it is
// a condition, as it is without a source (ip6_route_output_flags_noref in
// net/ipv6/route.c).
func askOwnRoute(q *Question, a asker) (route, error) {
	r, err := askRoute(q, a, 0)
	if err != nil || a.device == 0 || q.Peer.Addr().Is4() || r.device == a.device {
		return r, err
	}
	strict := *q
	strict.Self = netip.AddrPortFrom(netip.IPv6Unspecified(), q.Self.Port())
	return askRoute(&strict, a, 0)
}
