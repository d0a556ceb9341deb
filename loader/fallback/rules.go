// SPDX-License-Identifier: Apache-2.0

package fallback

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"

	"replypath/loader/config"
	"replypath/loader/discover"
	"replypath/loader/discover/dump"
)

// Priority is that of the first rules: behind all that others have. They stand only while a family has no other default route,
// as each lookup pays for rules.
//
// What the host begins finds none of them, so that it decides as without us. The kernel looks for a route first, and chooses
// source address and port afterwards: TCP's port after the route (tcp_v4_connect()), UDP's before it, from the range of
// ephemeral ports (inet_autobind()). So what has a source port out of that range is a reply, and by TCP, what has any.
// What is forwarded has its port: from below that range it is a reply, and above it other systems begin (RFC 6335, 6). What
// is forwarded otherwise has no route, as without us: connection tracking would forget that it is masqueraded by another
// interface (nf_nat_oif_changed()).
//
//   - IPv4 looks once more for nothing: what has a source address has been bound to it, or answers.
//   - IPv6 looks again with the source that it has chosen, also where it found no route (ip6_dst_lookup_tail()).
const Priority = 114114

// rule is one of ours. What is zero does not matter.
type rule struct {
	family, priority int
	local            bool // of what this host sends
	device           string
	unbound          bool // of what has no source address yet
	protocol         int
	ports            ports // of the source
	kind             ports // type and code of ICMPv6, as the kernel has them in the place of the other port (struct flowi_uli)
	refuses          bool
}

type ports netlink.RulePortRange

func (p ports) orNil() *netlink.RulePortRange {
	if p == (ports{}) {
		return nil
	}
	return (*netlink.RulePortRange)(&p)
}

var (
	anyPort = ports{1, 65534}                               // the kernel takes no range to the last one
	kinds6  = []ports{{0x100, 0x4ff}, {129 << 8, 129 << 8}} // errors and echo replies (RFC 4443)
)

// portRules are those of a family by source port.
func portRules(family int) (rules []rule) {
	for _, reserved := range reservedPorts() {
		for _, protocol := range []int{unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_SCTP} {
			isForwarded := reserved.Start == anyPort.Start
			rules = append(rules, rule{family: family, priority: Priority, local: !isForwarded, protocol: protocol, ports: reserved})
		}
	}
	return rules
}

// replyRules are those of a family, which nothing matches that the host begins.
func replyRules(family int, protocols []uint8) []rule {
	rules := portRules(family)
	add := func(r rule) {
		r.family, r.priority = family, cmp.Or(r.priority, Priority)
		rules = append(rules, r)
	}
	if family == unix.AF_INET {
		add(rule{priority: Priority + 1, local: true, unbound: true, refuses: true})
		add(rule{priority: Priority + 2, local: true})
		return rules
	}
	add(rule{local: true, protocol: unix.IPPROTO_TCP, ports: anyPort})
	for _, kind := range kinds6 {
		add(rule{local: true, protocol: unix.IPPROTO_ICMPV6, kind: kind})
	}
	for _, protocol := range protocols {
		if !config.HasPorts(protocol) && protocol != unix.IPPROTO_ICMP && protocol != unix.IPPROTO_ICMPV6 {
			add(rule{local: true, protocol: int(protocol)})
		}
	}
	return rules
}

// reservedPorts are those that the kernel chooses for nobody.
func reservedPorts() (ranges []ports) {
	first, last := uint16(32768), uint16(60999)
	if text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range"); err == nil {
		_, _ = fmt.Sscan(string(text), &first, &last) // the kernel writes two numbers
	}
	if first > 1 {
		ranges = append(ranges, ports{1, first - 1})
	}
	if last+1 < anyPort.End {
		ranges = append(ranges, ports{last + 1, anyPort.End})
	}
	return ranges
}

func (r *rule) asKernels() *netlink.Rule {
	k := netlink.NewRule()
	k.Family, k.Priority, k.Table, k.Protocol = r.family, r.priority, Table, discover.OwnProtocol
	k.OifName, k.IPProto, k.Sport, k.Dport = r.device, r.protocol, r.ports.orNil(), r.kind.orNil()
	if r.local {
		k.IifName = "lo"
	}
	if r.unbound {
		k.Src = &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(32, 32)}
	}
	if r.refuses {
		k.Type, k.Table = unix.RTN_UNREACHABLE, 0
	}
	return k
}

// ruleOf is what asKernels has made a rule of.
func ruleOf(k *dump.Rule) rule {
	r := rule{
		family: k.Family, priority: k.Priority, local: k.IifName != "", device: k.OifName, unbound: k.Src != nil,
		protocol: k.IPProto, refuses: k.Action == nl.FR_ACT_UNREACHABLE,
	}
	if k.Sport != nil {
		r.ports = ports(*k.Sport)
	}
	if k.Dport != nil {
		r.kind = ports(*k.Dport)
	}
	return r
}

// ruleSet owns the rules.
type ruleSet struct {
	host    *Host
	read    bool   // what there is has been read once
	kept    []rule // as they were left last
	repairs *rate.Limiter
}

func isOther(rules []rule) func(rule) bool {
	return func(r rule) bool { return !slices.Contains(rules, r) }
}

// presentRules are those in the network namespace of the handle.
func presentRules(nl *netlink.Handle) (present []rule, err error) {
	all, err := dump.OwnRules(nl)
	for n := range all {
		if all[n].Priority >= Priority && all[n].Priority <= Priority+2 {
			present = append(present, ruleOf(&all[n]))
		}
	}
	return present, err
}

// add adds the wanted rules that are not there. Those that somebody deletes again and again have to wait.
func (s *ruleSet) add(wanted []rule) error {
	if s.read && len(wanted) == 0 && len(s.kept) == 0 {
		return nil // nobody reads the rules of a host that needs none
	}
	present, err := presentRules(s.host.Netlink())
	if err != nil {
		return err
	}
	missing := slices.DeleteFunc(slices.Clone(wanted), func(r rule) bool { return slices.Contains(present, r) })
	isDeleted := func(r rule) bool { return slices.Contains(s.kept, r) }
	deleted := slices.ContainsFunc(missing, isDeleted)
	if deleted && !s.repairs.Allow() {
		return fmt.Errorf("a rule for replies is %w", errDeletedAgain)
	}
	s.read, s.kept = true, present
	if err := s.addMissing(missing); err != nil {
		return err
	}
	if deleted {
		s.host.RepairedRoute()
		s.host.Log.Warn("a rule for replies had been deleted, added again")
	}
	return nil
}

// addMissing adds rules, which may be there nevertheless.
func (s *ruleSet) addMissing(rules []rule) error {
	for _, r := range rules {
		err := s.host.Netlink().RuleAdd(r.asKernels())
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("add an %s rule for replies: %w", Name(r.family), err)
		}
		s.kept = append(s.kept, r)
	}
	if len(rules) > 0 {
		s.host.Tx.OnAbort(func() error { return deleteRules(s.host.Netlink(), rules) })
	}
	return nil
}

// remove removes all but the wanted rules, and returns the families that have fewer since.
func (s *ruleSet) remove(wanted []rule) (of []int, err error) {
	unwanted := slices.DeleteFunc(slices.Clone(s.kept), func(r rule) bool { return slices.Contains(wanted, r) })
	if err := deleteRules(s.host.Netlink(), unwanted); err != nil {
		return nil, err
	}
	s.kept = slices.DeleteFunc(s.kept, isOther(wanted))
	for _, r := range unwanted {
		of = append(of, r.family)
	}
	return of, nil
}

func deleteRules(nl *netlink.Handle, rules []rule) error {
	var errs []error
	for _, r := range rules {
		if err := nl.RuleDel(r.asKernels()); err != nil && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("delete an %s rule for replies: %w", Name(r.family), err))
		}
	}
	return errors.Join(errs...)
}

// RuledFamilies are those that have rules of ours in the network namespace of the handle.
func RuledFamilies(nl *netlink.Handle) (families []int, err error) {
	present, err := presentRules(nl)
	for _, r := range present {
		families = append(families, r.family)
	}
	slices.Sort(families)
	return slices.Compact(families), err
}

// RemoveRules removes all rules of ours, and tells how many.
func RemoveRules(nl *netlink.Handle) (removed int, err error) {
	present, err := presentRules(nl)
	if err != nil {
		return 0, err
	}
	return len(present), deleteRules(nl, present)
}
