// SPDX-License-Identifier: Apache-2.0

package dump

import (
	"bytes"
	"encoding/binary"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// lastRoute is the route that was read before. Of a million routes most differ from it in their network alone, which is
// seen faster in the message than in what would be read from it.
type lastRoute struct {
	message []byte
	route   Route
	from    int // where its network begins in the message
	to      int // and ends; 0: there is no such route
}

// dstLen is where the header has the length of the prefix.
const dstLen = 1

// keep notes a route that was read, with its message, which may change later. One without a network is not kept.
func (l *lastRoute) keep(route Route, message []byte) {
	from, to := destination(message)
	*l = lastRoute{append(l.message[:0], message...), route, from, to}
}

func (l *lastRoute) forget() { l.to = 0 }

// another reads a message that differs from the last in its network alone. What it returns is valid until the next.
func (l *lastRoute) another(message []byte) (*Route, bool) {
	if l.to == 0 || len(message) != len(l.message) || !bytes.Equal(message[:dstLen], l.message[:dstLen]) ||
		!bytes.Equal(message[dstLen+1:l.from], l.message[dstLen+1:l.from]) || !bytes.Equal(message[l.to:], l.message[l.to:]) {
		return nil, false
	}
	address, _ := netip.AddrFromSlice(message[l.from:l.to])
	l.route.Dst, l.route.Another = netip.PrefixFrom(address, int(message[dstLen])), true
	return &l.route, true
}

// destination is where a message has the value of RTA_DST; to is 0 where it has none.
func destination(message []byte) (from, to int) {
	for at := unix.SizeofRtMsg; at+unix.SizeofRtAttr <= len(message); {
		length := int(binary.NativeEndian.Uint16(message[at:]))
		if length < unix.SizeofRtAttr || at+length > len(message) {
			return 0, 0
		}
		if binary.NativeEndian.Uint16(message[at+2:])&nl.NLA_TYPE_MASK == unix.RTA_DST {
			return at + unix.SizeofRtAttr, at + length
		}
		at += aligned(length)
	}
	return 0, 0
}
