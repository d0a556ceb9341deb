// SPDX-License-Identifier: Apache-2.0

package dump

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// OwnProtocol marks the routes and rules that replypath makes (rtm_protocol): a number that
// neither the kernel nor iproute2's rt_protos has.
const OwnProtocol = 114

// Rule is a rule of policy routing, with its action (nl.FR_ACT_TO_TBL,
// nl.FR_ACT_PROHIBIT, ...), which the library leaves out.
type Rule struct {
	netlink.Rule
	Action uint8
	others bool // conditions that the library does not read: DSCP, flow label, masks of ports
}

// IsNarrow tells of the conditions that few rules have.
func (r *Rule) IsNarrow() bool {
	return r.SelectsSome() || r.TunID != 0 || r.SuppressPrefixlen >= 0 || r.SuppressIfgroup >= 0 || r.Goto >= 0
}

// SelectsSome tells of conditions that not all packets between two addresses meet, whatever their mark.
func (r *Rule) SelectsSome() bool {
	return r.others || r.Tos != 0 || r.Dport != nil || r.Sport != nil || r.IPProto != 0 || r.UIDRange != nil
}

// SelectsMarked tells a condition that packets without a mark do not meet.
func (r *Rule) SelectsMarked() bool {
	mask := ^uint32(0)
	if r.Mask != nil {
		mask = *r.Mask
	}
	return r.Mark&mask != 0
}

// TableName is what ip(8) calls a table that every host has, the number of another one.
func TableName(table int) string {
	names := map[int]string{unix.RT_TABLE_MAIN: "main", unix.RT_TABLE_DEFAULT: "default", unix.RT_TABLE_LOCAL: "local"}
	return cmp.Or(names[table], strconv.Itoa(table))
}

// Rules returns the rules of both families in the order in which they are asked,
// IPv4 first, without those of replypath's own.
func Rules(h *netlink.Handle) ([]Rule, error) {
	all, err := EveryRule(h)
	return slices.DeleteFunc(all, func(r Rule) bool { return r.isOwn() }), err
}

// OwnRules returns those that replypath has made.
func OwnRules(h *netlink.Handle) ([]Rule, error) {
	all, err := EveryRule(h)
	return slices.DeleteFunc(all, func(r Rule) bool { return !r.isOwn() }), err
}

func (r *Rule) isOwn() bool { return r.Protocol == OwnProtocol }

// EveryRule returns the rules of replypath's own as well.
func EveryRule(h *netlink.Handle) ([]Rule, error) {
	var all []Rule
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		list, err := retry("rules", func() ([]Rule, error) { return rules(h, family) })
		if err != nil && !lacksFamily(err) {
			return nil, err
		}
		all = append(all, list...)
	}
	return all, nil
}

// rules asks twice, once for what the library reads and once for the actions.
// What changes in between is an interruption: a rule has its place, its priority and its table both times.
func rules(h *netlink.Handle, family int) ([]Rule, error) {
	list, err := h.RuleList(family)
	if err != nil {
		return nil, err
	}
	request := nl.NewNetlinkRequest(unix.RTM_GETRULE, unix.NLM_F_DUMP)
	request.AddData(nl.NewIfInfomsg(family))
	messages, err := request.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWRULE)
	if err != nil {
		return nil, err
	}
	all := make([]Rule, len(list))
	isSame := len(messages) == len(list)
	for n := 0; isSame && n < len(list); n++ {
		all[n] = Rule{Rule: list[n], Action: nl.DeserializeRtMsg(messages[n]).Type}
		identity := map[uint16]int{}
		err := eachAttribute(messages[n][unix.SizeofRtMsg:], func(kind uint16, value []byte) error {
			if kind == nl.FRA_PRIORITY || kind == nl.FRA_TABLE {
				identity[kind] = int(binary.NativeEndian.Uint32(value))
			}
			all[n].others = all[n].others || kind > nl.FRA_DPORT_RANGE
			return nil
		})
		if err != nil {
			return nil, err
		}
		isSame = identity[nl.FRA_PRIORITY] == list[n].Priority && identity[nl.FRA_TABLE] == list[n].Table
	}
	if !isSame {
		return nil, fmt.Errorf("%w: rules have changed", netlink.ErrDumpInterrupted)
	}
	return all, nil
}
