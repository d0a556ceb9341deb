// SPDX-License-Identifier: Apache-2.0

package netfilter

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// trackingCount is there in a network namespace once the kernel tracks connections. It
// is not asked before: that alone would load the module.
const trackingCount = "/proc/sys/net/netfilter/nf_conntrack_count"

// Connection is one that the kernel tracks.
type Connection struct {
	Protocol uint8
	From, To netip.AddrPort // of the first packet
	Answers  netip.Addr     // who answers: another than To where that was translated
}

// Tracked visits the connections of a family that the kernel tracks.
func Tracked(family uint8, visit func(Connection)) error {
	if _, err := os.Stat(trackingCount); err != nil {
		return nil
	}
	request := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_CTNETLINK<<8|nl.IPCTNL_MSG_CT_GET, unix.NLM_F_DUMP)
	request.AddData(&nl.Nfgenmsg{NfgenFamily: family})
	err := request.ExecuteIter(unix.NETLINK_NETFILTER, 0, func(message []byte) bool {
		c := readTuple(attribute(message[nl.SizeofNfgenmsg:], nl.CTA_TUPLE_ORIG))
		c.Answers = readTuple(attribute(message[nl.SizeofNfgenmsg:], nl.CTA_TUPLE_REPLY)).From.Addr()
		visit(c)
		return true
	})
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EINVAL) {
		return nil // a kernel without ctnetlink
	}
	if err != nil {
		return fmt.Errorf("list tracked connections: %w", err)
	}
	return nil
}

// Attributes of a tuple (linux/netfilter/nfnetlink_conntrack.h), numbers of ports in network byte order.
const (
	ctaIPv6Dst      = 4
	ctaProtoNumber  = 1
	ctaProtoSrcPort = 2
	ctaProtoDstPort = 3
)

// readTuple reads one direction of a tracked connection.
func readTuple(tuple []byte) (c Connection) {
	ip, proto := attribute(tuple, nl.CTA_TUPLE_IP), attribute(tuple, nl.CTA_TUPLE_PROTO)
	if number := attribute(proto, ctaProtoNumber); len(number) > 0 {
		c.Protocol = number[0]
	}
	end := func(v4, v6, port uint16) netip.AddrPort {
		address, _ := netip.AddrFromSlice(append(attribute(ip, v4), attribute(ip, v6)...)) // one of both is there
		number := append(attribute(proto, port), 0, 0)                                     // not every protocol has ports
		return netip.AddrPortFrom(address, binary.BigEndian.Uint16(number))
	}
	c.From = end(nl.CTA_IP_V4_SRC, nl.CTA_IP_V6_SRC, ctaProtoSrcPort)
	c.To = end(nl.CTA_IP_V4_DST, ctaIPv6Dst, ctaProtoDstPort)
	return c
}
