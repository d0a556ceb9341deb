// SPDX-License-Identifier: Apache-2.0

package netfilter

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"os"

	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// nftaSetElemKeyEnd is an attribute that x/sys/unix lacks (linux/netfilter/nf_tables.h).
const nftaSetElemKeyEnd = 10

// nfTables are those of the network namespace in which it was opened.
type nfTables struct{ sockets map[int]*nl.SocketHandle }

func open() (*nfTables, error) {
	socket, err := nl.GetNetlinkSocketAt(netns.None(), netns.None(), unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, err
	}
	handle := &nl.SocketHandle{Socket: socket}
	err = errors.Join(socket.SetSendTimeout(&nl.SocketTimeoutTv), socket.SetReceiveTimeout(&nl.SocketTimeoutTv))
	return &nfTables{map[int]*nl.SocketHandle{unix.NETLINK_NETFILTER: handle}}, err
}

func (n *nfTables) close() { n.sockets[unix.NETLINK_NETFILTER].Close() }

// generation is a number that changes with the rules, and is never 0.
func (n *nfTables) generation() (number uint32, err error) {
	err = n.ask("generation", unix.NFT_MSG_GETGEN, 0, unix.NFPROTO_UNSPEC, nil, func(_ uint8, object []byte) {
		if id := attribute(object, unix.NFTA_GEN_ID); len(id) == 4 {
			number = binary.BigEndian.Uint32(id)
		}
	})
	return number, err
}

// ask visits the objects of a kind, by their attributes.
func (n *nfTables) ask(
	what string, message, flags int, family uint8, limits []*nl.RtAttr, visit func(family uint8, object []byte),
) error {
	request := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_NFTABLES<<8|message, flags)
	request.Sockets = n.sockets
	request.AddData(&nl.Nfgenmsg{NfgenFamily: family})
	for _, a := range limits {
		request.AddData(a)
	}
	err := request.ExecuteIter(unix.NETLINK_NETFILTER, 0, func(m []byte) bool {
		visit(m[0], m[nl.SizeofNfgenmsg:])
		return true
	})
	if err != nil && !errors.Is(err, nl.ErrDumpInterrupted) {
		return fmt.Errorf("list nftables %s: %w", what, err)
	}
	return nil
}

// chains lists all chains, without their rules.
func (n *nfTables) chains() (list []Chain, err error) {
	err = n.ask("chains", unix.NFT_MSG_GETCHAIN, unix.NLM_F_DUMP, unix.NFPROTO_UNSPEC, nil, func(family uint8, object []byte) {
		c := Chain{
			Family: families[family], Table: text(object, unix.NFTA_CHAIN_TABLE),
			Name: text(object, unix.NFTA_CHAIN_NAME), Type: text(object, unix.NFTA_CHAIN_TYPE),
		}
		hook := attribute(object, unix.NFTA_CHAIN_HOOK)
		if number := attribute(hook, unix.NFTA_HOOK_HOOKNUM); len(number) == 4 {
			c.Hooks = []string{hookName(family, binary.BigEndian.Uint32(number))}
		}
		list = append(list, c)
	})
	return list, err
}

// rules visits all rules, those of a chain in their order.
func (n *nfTables) rules(visit func(chain string, handle uint64, expressions []expr.Any)) error {
	return n.ask("rules", unix.NFT_MSG_GETRULE, unix.NLM_F_DUMP, unix.NFPROTO_UNSPEC, nil, func(family uint8, object []byte) {
		chain := Chain{Family: families[family], Table: text(object, unix.NFTA_RULE_TABLE), Name: text(object, unix.NFTA_RULE_CHAIN)}
		var expressions []expr.Any
		for _, each := range attributes(attribute(object, unix.NFTA_RULE_EXPRESSIONS)) {
			expressions = append(expressions, expression(family, each))
		}
		var handle uint64
		if number := attribute(object, unix.NFTA_RULE_HANDLE); len(number) == 8 {
			handle = binary.BigEndian.Uint64(number)
		}
		visit(chain.String(), handle, expressions)
	})
}

// expression reads what the checks know; nil stands for any other.
func expression(family uint8, data []byte) expr.Any {
	name, inner := text(data, unix.NFTA_EXPR_NAME), attribute(data, unix.NFTA_EXPR_DATA)
	if name == "tproxy" { // which the library does not read
		return &expr.TProxy{}
	}
	create := expressions[name]
	if create == nil {
		return nil
	}
	e := create()
	if expr.Unmarshal(family, inner, e) != nil {
		return nil
	}
	if i, ok := e.(*expr.Immediate); ok && i.Register == unix.NFT_REG_VERDICT {
		e = &expr.Verdict{}
		if expr.Unmarshal(family, inner, e) != nil {
			return nil
		}
	}
	return e
}

// expressions are those that checks know, by the names that the kernel has for them.
var expressions = map[string]func() expr.Any{
	"ct": a[expr.Ct], "meta": a[expr.Meta], "cmp": a[expr.Cmp], "payload": a[expr.Payload], "lookup": a[expr.Lookup],
	"immediate": a[expr.Immediate], "bitwise": a[expr.Bitwise], "redir": a[expr.Redir], "nat": a[expr.NAT],
	"match": a[expr.Match], "target": a[expr.Target], "reject": a[expr.Reject], "hash": a[expr.Hash],
	"fib": a[expr.Fib], "numgen": a[expr.Numgen],
}

// a makes an expression of a type.
func a[T any, Pointer interface {
	*T
	expr.Any
}]() expr.Any {
	return Pointer(new(T))
}

// elements lists those of a set, none where it has gone meanwhile.
func (n *nfTables) elements(c *Chain, set string) (list []element, err error) {
	limits := []*nl.RtAttr{
		nl.NewRtAttr(unix.NFTA_SET_ELEM_LIST_TABLE, nl.ZeroTerminated(c.Table)), nl.NewRtAttr(unix.NFTA_SET_ELEM_LIST_SET, nl.ZeroTerminated(set)),
	}
	value := func(element []byte, kind uint16) []byte {
		return attribute(attribute(element, kind), unix.NFTA_DATA_VALUE)
	}
	err = n.ask("set "+c.named(set), unix.NFT_MSG_GETSETELEM, unix.NLM_F_DUMP, familyOf(c.Family), limits, func(_ uint8, object []byte) {
		for _, each := range attributes(attribute(object, unix.NFTA_SET_ELEM_LIST_ELEMENTS)) {
			e := element{key: value(each, unix.NFTA_SET_ELEM_KEY), keyEnd: value(each, nftaSetElemKeyEnd), value: attribute(each, unix.NFTA_SET_ELEM_DATA)}
			flags := attribute(each, unix.NFTA_SET_ELEM_FLAGS)
			if len(flags) != 4 || binary.BigEndian.Uint32(flags)&unix.NFT_SET_ELEM_INTERVAL_END == 0 {
				e.begins = 1
			}
			list = append(list, e)
		}
	})
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	return list, err
}

// families are nft's words for those of tables.
var families = map[uint8]string{
	unix.NFPROTO_INET: "inet", unix.NFPROTO_IPV4: "ip", unix.NFPROTO_IPV6: "ip6",
	unix.NFPROTO_ARP: "arp", unix.NFPROTO_NETDEV: "netdev", unix.NFPROTO_BRIDGE: "bridge",
}

func familyOf(word string) uint8 {
	for family, name := range families {
		if name == word {
			return family
		}
	}
	return unix.NFPROTO_UNSPEC
}

func hookName(family uint8, hook uint32) string {
	names := []string{"prerouting", "input", "forward", "output", "postrouting"}
	if family == unix.NFPROTO_NETDEV {
		names = []string{"ingress", "egress"}
	}
	if int(hook) < len(names) {
		return names[hook]
	}
	return ""
}

// attributeType is NLA_TYPE_MASK of linux/netlink.h: the type without its flags.
const attributeType = ^uint16(unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)

// attributes visits attributes (struct nlattr of linux/netlink.h), as far as they can be told: their types and values.
// nl.ParseRouteAttr would list all of them for each that is asked for.
func attributes(data []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for rest := data; len(rest) >= unix.SizeofNlAttr; {
			length, kind := int(binary.NativeEndian.Uint16(rest)), binary.NativeEndian.Uint16(rest[2:])&attributeType
			if length < unix.SizeofNlAttr || length > len(rest) || !yield(kind, rest[unix.SizeofNlAttr:length:length]) {
				return
			}
			rest = rest[min((length+unix.NLA_ALIGNTO-1)&^(unix.NLA_ALIGNTO-1), len(rest)):]
		}
	}
}

// attribute returns the value of the first of a kind, nil where there is none.
func attribute(data []byte, kind uint16) []byte {
	for each, value := range attributes(data) {
		if each == kind {
			return value
		}
	}
	return nil
}

func text(data []byte, kind uint16) string {
	return string(bytes.TrimRight(attribute(data, kind), "\x00"))
}

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
