// SPDX-License-Identifier: Apache-2.0

package netfilter

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"replypath/loader/doctor/snapshot"
)

// trackingCount is there in a network namespace once the kernel tracks connections. It
// is not asked before: that alone would load the module.
const trackingCount = "/proc/sys/net/netfilter/nf_conntrack_count"

// Tracked visits the connections of a family that the kernel tracks, each in the direction in which it began.
func Tracked(family uint8, visit func(snapshot.Use)) error {
	if _, err := os.Stat(trackingCount); err != nil {
		return nil
	}
	request := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_CTNETLINK<<8|nl.IPCTNL_MSG_CT_GET, unix.NLM_F_DUMP)
	request.AddData(&nl.Nfgenmsg{NfgenFamily: family})
	err := request.ExecuteIter(unix.NETLINK_NETFILTER, 0, func(message []byte) bool {
		visit(readTuple(attribute(message[nl.SizeofNfgenmsg:], nl.CTA_TUPLE_ORIG)))
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

// Attributes of a tuple (linux/netfilter/nfnetlink_conntrack.h), numbers of ports in network byte order, and of a hook,
// which may have a list of devices in the place of one (linux/netfilter/nf_tables.h).
const (
	ctaIPv6Dst      = 4
	ctaProtoNumber  = 1
	ctaProtoSrcPort = 2
	ctaProtoDstPort = 3
	nftaHookDevs    = 4
	nftaDeviceName  = 1
)

// readTuple reads the direction in which a tracked connection began.
func readTuple(tuple []byte) snapshot.Use {
	var u snapshot.Use
	ip, proto := attribute(tuple, nl.CTA_TUPLE_IP), attribute(tuple, nl.CTA_TUPLE_PROTO)
	if number := attribute(proto, ctaProtoNumber); len(number) > 0 {
		u.Protocol = number[0]
	}
	end := func(v4, v6, port uint16) netip.AddrPort {
		address, _ := netip.AddrFromSlice(append(attribute(ip, v4), attribute(ip, v6)...)) // one of both is there
		number := append(attribute(proto, port), 0, 0)                                     // not every protocol has ports
		return netip.AddrPortFrom(address, binary.BigEndian.Uint16(number))
	}
	u.Local = end(nl.CTA_IP_V4_SRC, nl.CTA_IP_V6_SRC, ctaProtoSrcPort)
	u.Remote = end(nl.CTA_IP_V4_DST, ctaIPv6Dst, ctaProtoDstPort)
	return u
}

// Services counts the virtual services of IPVS in this network namespace. The
// format is that of ip_vs_info_seq_show(): a line begins with the protocol.
func Services() int {
	text, err := os.ReadFile("/proc/thread-self/net/ip_vs")
	if err != nil {
		return 0 // the kernel does not balance
	}
	return countServices(string(text))
}

func countServices(text string) int {
	count := 0
	for line := range strings.Lines(text) {
		word, _, _ := strings.Cut(line, " ")
		switch word {
		case "TCP", "UDP", "SCTP", "FWM":
			count++
		}
	}
	return count
}

// attributeType is NLA_TYPE_MASK of linux/netlink.h: the type without its flags.
const attributeType = ^uint16(unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)

// chainDevices returns the devices that a base chain of family netdev hooks,
// which the library does not read.
func chainDevices(table, chain string) ([]string, error) {
	request := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETCHAIN, 0)
	request.AddData(&nl.Nfgenmsg{NfgenFamily: unix.NFPROTO_NETDEV})
	request.AddData(nl.NewRtAttr(unix.NFTA_CHAIN_TABLE, nl.ZeroTerminated(table)))
	request.AddData(nl.NewRtAttr(unix.NFTA_CHAIN_NAME, nl.ZeroTerminated(chain)))
	messages, err := request.Execute(unix.NETLINK_NETFILTER, 0)
	if err != nil {
		return nil, fmt.Errorf("read its devices: %w", err)
	}
	var devices []string
	for _, m := range messages {
		hook := attribute(m[nl.SizeofNfgenmsg:], unix.NFTA_CHAIN_HOOK)
		list := attributes(attribute(hook, nftaHookDevs), nftaDeviceName)
		for _, name := range append(list, attributes(hook, unix.NFTA_HOOK_DEV)...) {
			devices = append(devices, strings.TrimRight(string(name), "\x00"))
		}
	}
	slices.Sort(devices)
	return slices.Compact(devices), nil // of a single device both are there
}

// attributes returns the values of a kind.
func attributes(data []byte, kind uint16) (values [][]byte) {
	all, err := nl.ParseRouteAttr(data)
	if err != nil {
		return nil // none of them can be told
	}
	for _, a := range all {
		if a.Attr.Type&attributeType == kind {
			values = append(values, a.Value)
		}
	}
	return values
}

// attribute returns the only one of a kind, empty where there is none.
func attribute(data []byte, kind uint16) []byte { return slices.Concat(attributes(data, kind)...) }
