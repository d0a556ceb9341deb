// SPDX-License-Identifier: Apache-2.0

package gather

import (
	"errors"
	"maps"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"replypath/loader/config"
	"replypath/loader/doctor/checks"
	"replypath/loader/doctor/opened"
	"replypath/loader/doctor/snapshot"
	"replypath/loader/netfilter"
	"replypath/loader/problems"
	"replypath/loader/sockets"
)

// uses finds what this host opened from the addresses that rules select by. What the programs note at egress are
// digests of tuples, which tell of no address; whatever sends from one has a socket or is tracked.
func (g *gatherer) uses() error {
	h := g.host
	var sources []netip.Prefix
	for _, r := range h.Rules {
		if h.AnswersBySource(&r) != nil {
			sources = append(sources, r.Src)
		}
	}
	isByMark := func(r snapshot.Rule) bool { return len(checks.RestoringChains(h, &r)) > 0 }
	if len(sources) == 0 && !slices.ContainsFunc(h.Rules, isByMark) {
		return nil
	}
	isMeant := func(a netip.Addr) bool {
		return slices.ContainsFunc(sources, func(p netip.Prefix) bool { return p.Contains(a) })
	}
	o, err := opened.Find(&opened.Known{IsOwn: h.IsOwn, UDP: h.Sockets, Links: g.links, SeeTCP: func(s *sockets.Socket) { noteMark(h, s) }}, isMeant)
	for n := range h.Flows {
		o.Note(&h.Flows[n])
	}
	if !h.Attached {
		err = errors.Join(err, o.Suppose())
	}
	h.Uses = o.Uses()
	if err != nil {
		h.UsesError = problems.OneLine(err)
	}
	return nil
}

// mostTranslations bounds the addresses that are looked at: a rule may translate whatever passes.
const mostTranslations = 256

// translations finds the destinations that connections are translated from. Those of hosts behind interfaces that are not
// managed, such as containers, say nothing about replies.
func translations(h *snapshot.Host) error {
	found := map[netip.Addr]*snapshot.Translation{}
	var errs []error
	for _, family := range snapshot.Families {
		if !h.Forwards(family) || h.Config.Scope == config.ScopeAll {
			continue // whatever comes is served
		}
		errs = append(errs, netfilter.Tracked(uint8(family), func(c netfilter.Connection) {
			to := c.To.Addr()
			switch {
			case c.Answers == to || !c.Answers.IsValid() || !to.IsGlobalUnicast():
			case found[to] != nil:
				found[to].Count++
			case len(found) < mostTranslations && !isInside(h, c.From.Addr()):
				found[to] = &snapshot.Translation{Address: to, Target: c.Answers, Count: 1}
			}
		}))
	}
	for _, to := range slices.SortedFunc(maps.Keys(found), netip.Addr.Compare) {
		h.Translations = append(h.Translations, *found[to])
	}
	return errors.Join(errs...)
}

// isInside tells of an address of this host, or in a network of an interface that is not managed.
func isInside(h *snapshot.Host, a netip.Addr) bool {
	return h.IsOwn(a) || slices.ContainsFunc(h.Devices, func(d snapshot.Device) bool {
		return h.Managed(d.Index) == nil && slices.ContainsFunc(d.Addresses, func(p netip.Prefix) bool { return p.Contains(a) })
	})
}

// udpSockets lists the UDP sockets of the namespace.
func (g *gatherer) udpSockets() error {
	list, err := opened.Sockets("udp", unix.IPPROTO_UDP)
	g.host.Sockets = list
	for n := range list {
		noteMark(g.host, &list[n])
	}
	return err
}

// noteMark notes the one that a socket gives its packets.
func noteMark(h *snapshot.Host, s *sockets.Socket) {
	if s.Mark != 0 && !slices.Contains(h.SocketMarks, s.Mark) {
		h.SocketMarks = append(h.SocketMarks, s.Mark)
	}
}
