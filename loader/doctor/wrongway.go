package doctor

import (
	"cmp"
	"fmt"
	"strings"

	"replypath/loader/config"
	"replypath/loader/discover"
)

// wrongWays finds replies that leave by another interface than their questions came in by, now.
func wrongWays(h *Host) []Finding {
	var found []Finding
	for n := range h.WrongWays {
		w := &h.WrongWays[n]
		text := fmt.Sprintf("replies of %s leave by %s: %s, reason %s", w.To, cmp.Or(w.From, discover.OwnDevice), w.figures(), w.Reason)
		if w.From == w.To {
			text = fmt.Sprintf("replies of %s leave there to another next hop: %s, reason %s", w.To, w.figures(), w.Reason)
		}
		found = append(found, w.finding(h, text))
	}
	return found
}

// figures tells how much it is.
func (w *WrongWay) figures() string {
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

// finding says why it is so, and what there is to be done.
func (w *WrongWay) finding(h *Host, text string) Finding {
	link, trace := "ip -details link show dev "+quote(w.To), "replypath trace --count 10"
	if !h.isByUnit() {
		trace += " --pin-dir " + quote(h.PinDir)
	}
	switch w.Reason {
	case reasonObserve:
		return problem(Warning, w.To, text+": replypath only observes there", h.enforce(w.To))
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
			w.To, cmp.Or(w.From, discover.OwnDevice), w.To, w.figures()), explained("tc -s qdisc show dev "+quote(w.To), "what is dropped there"))
	}
	return seen(Error, w.To, text, explained(trace, "what becomes of each"))
}

// enforce is the command that ends observing, with what it takes to have it last.
func (h *Host) enforce(name string) string {
	command := "replypath mode enforce"
	if !h.isByUnit() {
		command += " --pin-dir " + quote(h.PinDir)
	}
	entry := h.entryOf(name)
	switch {
	case h.Config.Flags.Observe:
		return explained(command, "until the next start: leave --observe out then")
	case entry != nil && entry.Mode == config.ModeObserve:
		return explained(command, "until the next start; for good: mode: enforce for name: "+yamlWord(entry.Name)+" in "+h.ConfigPath)
	case h.Config.Mode == config.ModeObserve && (entry == nil || entry.Mode == ""):
		return explained(command, "until the next start; for good: mode: enforce in "+h.ConfigPath)
	}
	return command // somebody has switched, against the configuration
}
