package doctor

import (
	"cmp"
	"fmt"
	"strings"

	"replypath/loader/discover"
)

// wrongWays finds replies that leave by another interface than their questions came in by, now.
func wrongWays(h *Host) []Finding {
	var found []Finding
	for n := range h.WrongWays {
		w := &h.WrongWays[n]
		text := fmt.Sprintf("replies of %s leave by %s: %s, reason %s", w.To, cmp.Or(w.From, discover.OwnDevice), figures(w), w.Reason)
		if w.From == w.To {
			text = fmt.Sprintf("replies of %s leave there to another next hop: %s, reason %s", w.To, figures(w), w.Reason)
		}
		found = append(found, wrongWay(h, w, text))
	}
	return found
}

// figures tells how much it is.
func figures(w *WrongWay) string {
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
func wrongWay(h *Host, w *WrongWay, text string) Finding {
	link := "ip -details link show dev " + quote(w.To)
	switch w.Reason {
	case reasonObserve:
		return problem(Warning, w.To, text+": replypath only observes there", enforce(h, w.To))
	case reasonLinkDown:
		return seen(Error, w.To, text+": "+w.To+" is down", explained(link, "bring it up, or its cable"))
	case "no_next_hop":
		return seen(Error, w.To, text+": no mac of a next hop is known there",
			explained("ip neigh show dev "+quote(w.To), "name the one to answer through under gateways"))
	case "mtu":
		return seen(Warning, w.To, text+": they are larger than its mtu", explained(link, "its mtu and that of "+cmp.Or(w.From, "the others")))
	case "bound_device":
		return seen(Warning, w.To, text+": their sockets are bound to "+cmp.Or(w.From, discover.OwnDevice),
			explained("ss -tulpn", "who is bound to a device has its name behind the address, as in 0.0.0.0%eth0"))
	case reasonLost:
		return seen(Error, w.To, fmt.Sprintf("replies of %s that the kernel would send by %s are handed to %s and not seen leaving there: %s",
			w.To, cmp.Or(w.From, discover.OwnDevice), w.To, figures(w)), explained("tc -s qdisc show dev "+quote(w.To), "what is dropped there"))
	}
	return seen(Error, w.To, text, explained(command(&h.State, "replypath trace --count 10"), "what becomes of each"))
}
