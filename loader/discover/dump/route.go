// SPDX-License-Identifier: Apache-2.0

package dump

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// errMessage tells of a route that the kernel would not send.
var errMessage = errors.New("a message about a route makes no sense")

// IsException tells the kernel's exceptions for single peers, as by a redirect, from routes.
func IsException(message []byte) bool {
	return nl.DeserializeRtMsg(message).Flags&unix.RTM_F_CLONED != 0
}

// ParseRoute reads a message about a route, without its netlink header.
func ParseRoute(message []byte) (Route, error) { return parseRoute(message, nil) }

// parseRoute appends the hops to a slice: with a million routes it matters that nothing is allocated.
func parseRoute(message []byte, hops []Hop) (Route, error) {
	if len(message) < unix.SizeofRtMsg {
		return Route{}, errMessage
	}
	header := nl.DeserializeRtMsg(message)
	r := Route{
		Family: int(header.Family), Type: int(header.Type), Table: int(header.Table), TOS: int(header.Tos),
		Protocol: int(header.Protocol), Hops: hops,
	}
	destination := netip.IPv4Unspecified()
	if r.Family == unix.AF_INET6 {
		destination = netip.IPv6Unspecified()
	}
	source := destination
	var only Hop
	err := eachAttribute(message[unix.SizeofRtMsg:], func(kind uint16, value []byte) error {
		switch kind {
		case unix.RTA_DST:
			destination, _ = netip.AddrFromSlice(value)
		case unix.RTA_SRC:
			source, _ = netip.AddrFromSlice(value)
		case unix.RTA_TABLE:
			r.Table = int(number(value))
		case unix.RTA_PRIORITY:
			r.Metric = int(number(value))
		case unix.RTA_OIF:
			only.Interface = int(number(value))
		case unix.RTA_GATEWAY, unix.RTA_VIA:
			only.Gateway = gatewayOf(kind, value)
		case unix.RTA_METRICS:
			return r.Limits.read(value)
		case unix.RTA_ENCAP:
			r.Limits.Encapsulates = true
		case unix.RTA_MULTIPATH:
			return r.addHops(value)
		}
		return nil
	})
	r.Dst = netip.PrefixFrom(destination, int(header.Dst_len))
	r.Src = netip.PrefixFrom(source, int(header.Src_len))
	if len(r.Hops) == 0 && only.Interface != 0 {
		r.Hops = append(r.Hops, only)
	}
	return r, err
}

// addHops reads the next hops of a multipath route.
func (r *Route) addHops(value []byte) error {
	for len(value) >= unix.SizeofRtNexthop {
		length := int(binary.NativeEndian.Uint16(value))
		if length < unix.SizeofRtNexthop || length > len(value) {
			return errMessage
		}
		hop := Hop{Interface: int(number(value[4:8])), Weight: int(value[3]) + 1}
		err := eachAttribute(value[unix.SizeofRtNexthop:length], func(kind uint16, value []byte) error {
			switch kind {
			case unix.RTA_GATEWAY, unix.RTA_VIA:
				hop.Gateway = gatewayOf(kind, value)
			case unix.RTA_ENCAP:
				r.Limits.Encapsulates = true
			}
			return nil
		})
		if err != nil {
			return err
		}
		r.Hops = append(r.Hops, hop)
		value = value[min(len(value), aligned(length)):]
	}
	return nil
}

// read reads the metrics of a route that limit packets.
func (l *Limits) read(metrics []byte) error {
	return eachAttribute(metrics, func(kind uint16, value []byte) error {
		switch kind {
		case unix.RTAX_MTU:
			l.MTU = int(number(value))
		case unix.RTAX_ADVMSS:
			l.MSS = int(number(value))
		case unix.RTAX_LOCK: // of the others
		default:
			l.Others = true
		}
		return nil
	})
}

// eachAttribute goes through the attributes of a message.
func eachAttribute(attributes []byte, each func(kind uint16, value []byte) error) error {
	for len(attributes) >= unix.SizeofRtAttr {
		length := int(binary.NativeEndian.Uint16(attributes))
		if length < unix.SizeofRtAttr || length > len(attributes) {
			return errMessage
		}
		kind := binary.NativeEndian.Uint16(attributes[2:]) & nl.NLA_TYPE_MASK
		if err := each(kind, attributes[unix.SizeofRtAttr:length]); err != nil {
			return err
		}
		attributes = attributes[min(len(attributes), aligned(length)):]
	}
	return nil
}

func aligned(length int) int { return (length + unix.NLA_ALIGNTO - 1) &^ (unix.NLA_ALIGNTO - 1) }

// number is a 32-bit one; 0 where the value is none.
func number(value []byte) uint32 {
	if len(value) != 4 {
		return 0
	}
	return binary.NativeEndian.Uint32(value)
}

// gatewayOf reads RTA_GATEWAY or, where an IPv4 route leads through an IPv6 router, RTA_VIA, which has the family first.
func gatewayOf(kind uint16, value []byte) netip.Addr {
	if kind == unix.RTA_VIA && len(value) > 2 {
		value = value[2:]
	}
	return Address(value)
}
