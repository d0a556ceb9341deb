// SPDX-License-Identifier: Apache-2.0

package gather

import (
	"errors"
	"maps"
	"net/netip"
	"slices"

	"replypath/loader/config"
	"replypath/loader/doctor/snapshot"
	"replypath/loader/netfilter"
)

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
