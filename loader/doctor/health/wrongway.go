// SPDX-License-Identifier: Apache-2.0

package health

import (
	"cmp"
	"fmt"
	"strings"

	"replypath/loader/discover"
	"replypath/loader/doctor/finding"
	"replypath/loader/doctor/remedy"
	"replypath/loader/doctor/snapshot"
)

// WrongWays finds replies that leave by another interface than their questions came in by, now.
func WrongWays(h *snapshot.Host) []finding.Finding {
	return finding.Each(h.WrongWays, func(w *snapshot.WrongWay) finding.Finding {
		text := fmt.Sprintf("replies of %s leave by %s: %s, reason %s", w.To, cmp.Or(w.From, discover.OwnDevice), figures(w), w.Reason)
		if w.From == w.To {
			text = fmt.Sprintf("replies of %s leave there to another next hop: %s, reason %s", w.To, figures(w), w.Reason)
		}
		return wrongWay(h, w, text)
	})
}

// figures tells how much it is.
func figures(w *snapshot.WrongWay) string {
	var words []string
	if w.Grown > 0 {
		words = append(words, fmt.Sprintf("%d packets within %.1f s", w.Grown, w.Took.Seconds()))
	}
	if w.Flows > 0 {
		words = append(words, fmt.Sprintf("%d live flows", w.Flows))
	}
	if w.Packets > 0 {
		words = append(words, fmt.Sprintf("%d packets in all", w.Packets))
	}
	return strings.Join(words, ", ")
}

// wrongWay says why it is so, and what there is to be done.
func wrongWay(h *snapshot.Host, w *snapshot.WrongWay, text string) finding.Finding {
	link := "ip -details link show dev " + finding.Quote(w.To)
	switch w.Reason {
	case snapshot.ReasonObserve:
		return finding.Problem(finding.Warning, w.To, text+": replypath only observes there", remedy.Enforce(h, w.To))
	case snapshot.ReasonLinkDown:
		return finding.Seen(finding.Error, w.To, text+": "+w.To+" is down", finding.Explained(link, "bring it up, or its cable"))
	case "no_next_hop":
		return finding.Seen(finding.Error, w.To, text+": no mac of a next hop is known there",
			finding.Explained("ip neigh show dev "+finding.Quote(w.To), "name the one that has to get the replies under gateways"))
	case "mtu":
		return finding.Seen(finding.Warning, w.To, text+": they are larger than its mtu",
			finding.Explained(link, "its mtu and that of "+cmp.Or(w.From, "the others")))
	case "bound_device":
		return finding.Seen(finding.Warning, w.To, text+": their sockets are bound to "+cmp.Or(w.From, discover.OwnDevice),
			finding.Explained("ss -tuapn", "who is bound to a device has its name behind the address, as in 0.0.0.0%eth0"))
	case snapshot.ReasonLost:
		return finding.Seen(finding.Error, w.To, fmt.Sprintf(
			"replies of %s that the kernel would send by %s are handed to %s and not seen leaving there: %s",
			w.To, cmp.Or(w.From, discover.OwnDevice), w.To, figures(w)),
			finding.Explained("tc -s qdisc show dev "+finding.Quote(w.To), "what is dropped there"))
	}
	return finding.Seen(finding.Error, w.To, text, finding.Explained(remedy.Command(&h.State, "replypath trace --count 10"), "what becomes of each"))
}
