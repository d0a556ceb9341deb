package netfilter

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
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
		walkAttributes(message[nl.SizeofNfgenmsg:], nl.CTA_TUPLE_ORIG, func(tuple []byte) { visit(readTuple(tuple)) })
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

// Attributes of a tuple (linux/netfilter/nfnetlink_conntrack.h): numbers of ports are
// in network byte order.
const (
	ctaIPv6Dst      = 4
	ctaProtoNumber  = 1
	ctaProtoSrcPort = 2
	ctaProtoDstPort = 3
)

// readTuple reads the direction in which a tracked connection began.
func readTuple(tuple []byte) snapshot.Use {
	var u snapshot.Use
	var source, destination netip.Addr
	var sourcePort, destinationPort uint16
	walkAttributes(tuple, nl.CTA_TUPLE_IP, func(ip []byte) {
		for _, kind := range []uint16{nl.CTA_IP_V4_SRC, nl.CTA_IP_V6_SRC} {
			walkAttributes(ip, kind, func(a []byte) { source, _ = netip.AddrFromSlice(a) })
		}
		for _, kind := range []uint16{nl.CTA_IP_V4_DST, ctaIPv6Dst} {
			walkAttributes(ip, kind, func(a []byte) { destination, _ = netip.AddrFromSlice(a) })
		}
	})
	port := func(to *uint16) func([]byte) {
		return func(value []byte) {
			if len(value) >= 2 {
				*to = uint16(value[0])<<8 | uint16(value[1])
			}
		}
	}
	walkAttributes(tuple, nl.CTA_TUPLE_PROTO, func(proto []byte) {
		walkAttributes(proto, ctaProtoNumber, func(value []byte) {
			if len(value) > 0 {
				u.Protocol = value[0]
			}
		})
		walkAttributes(proto, ctaProtoSrcPort, port(&sourcePort))
		walkAttributes(proto, ctaProtoDstPort, port(&destinationPort))
	})
	u.Local, u.Remote = netip.AddrPortFrom(source, sourcePort), netip.AddrPortFrom(destination, destinationPort)
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
