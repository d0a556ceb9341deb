// SPDX-License-Identifier: Apache-2.0

package checks

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"replypath/loader/attach"
	"replypath/loader/config"
	"replypath/loader/counters"
	"replypath/loader/discover"
	"replypath/loader/doctor/remedy"
	"replypath/loader/doctor/snapshot"
	"replypath/loader/finding"
	"replypath/loader/flows"
	"replypath/loader/hostsettings"
	"replypath/loader/status"
	"replypath/metrics"
)

// OwnAddresses tells from which own addresses no reply leaves, and before the first start by which interface those of each do.
func OwnAddresses(h *snapshot.Host) []finding.Finding {
	return finding.Each(h.OwnWays, func(w *snapshot.OwnWay) finding.Finding {
		if best := h.BestDefault(snapshot.FamilyOf(w.Address)); w.Refused && (best == nil || !best.Refuses()) { // `default-route` says so
			return finding.Seen(refusal(h, w.On), w.On, fmt.Sprintf("%s on %s: the kernel refuses replies, to peers beyond %s: a rule or a route does",
				w.Address.Addr(), w.On, w.Address.Masked()), listRouting)
		}
		text := fmt.Sprintf("%s on %s: replies leave by %s", w.Address.Addr(), w.On, w.By)
		switch {
		case h.Attached || h.Elsewhere != nil || w.By == "":
			return finding.None
		case w.By == w.On:
			return finding.Fine(w.On, text)
		}
		return finding.Problem(finding.Warning, w.On, fmt.Sprintf("%s, to peers beyond %s: a stateful firewall, strict urpf or a source check on "+
			"that way would drop them. replypath sends them by %s, unless handshakes show that they arrive as routed only", text, w.Address.Masked(), w.On), remedy.Try(&h.State))
	})
}

// listRouting is the command that shows every route and rule.
const listRouting = "ip route show table all; ip -6 route show table all; ip rule show; ip -6 rule show"

// WrongWays finds replies that leave by another interface than their questions came in by, or did a while ago.
func WrongWays(h *snapshot.Host) []finding.Finding {
	return finding.Each(h.WrongWays, func(w *snapshot.WrongWay) finding.Finding {
		if w.Reason == snapshot.ReasonTunnel || isToldElsewhere(h, w) {
			return finding.None
		}
		if w.Opened {
			return counted(h, w, opened(h, w))
		}
		text := fmt.Sprintf("replies of %s leave by %s: %s, reason %s", w.To, cmp.Or(w.From, discover.OwnDevice), figures(w), w.Reason)
		if w.From == w.To {
			text = fmt.Sprintf("replies of %s leave there to another next hop: %s, reason %s", w.To, figures(w), w.Reason)
		}
		if w.Over {
			return counted(h, w, over(h, w))
		}
		return counted(h, w, wrongWay(h, w, text))
	})
}

// opened tells of what the host opens, and could not leave by the interface of its address.
func opened(h *snapshot.Host, w *snapshot.WrongWay) finding.Finding {
	severity := finding.Warning
	if w.Over {
		severity = finding.Note
	}
	return finding.Seen(severity, w.To, fmt.Sprintf("what this host opens from addresses of %s went by %s: %s, reason %s", w.To, cmp.Or(w.From, discover.OwnDevice), figures(w), w.Reason),
		remedy.Command(&h.State, "replypath flows --originated"))
}

// over tells of what was wrong and is no more.
func over(h *snapshot.Host, w *snapshot.WrongWay) finding.Finding {
	text := fmt.Sprintf("%s of %s went by %s", finding.Counted(w.Packets, "reply", "replies"), w.To, cmp.Or(w.From, discover.OwnDevice))
	if w.From == w.To {
		text = fmt.Sprintf("%s of %s went there to another next hop", finding.Counted(w.Packets, "reply", "replies"), w.To)
	}
	if w.Reason == snapshot.ReasonLost {
		text = fmt.Sprintf("%s moved to %s never left there", finding.Counted(w.Packets, "reply", "replies"), w.To)
	}
	return finding.Seen(finding.Note, w.To, fmt.Sprintf("%s, last at %s, %s; none since", text, finding.Moment(w.Last, time.Now()), w.Reason),
		finding.Explained(remedy.Command(&h.State, "replypath trace --count 10"), "what becomes of each"))
}

// counted notes the packets since counting began, with the time of the last one, or else how many flows there are now.
func counted(h *snapshot.Host, w *snapshot.WrongWay, f finding.Finding) finding.Finding {
	if w.Packets == 0 || h.Status == nil {
		return f.Shown(uint64(w.Flows), nil)
	}
	f = f.Shown(w.Packets, h.Status.Counted.Since)
	f.Evidence.Until = w.Last
	return f
}

// GoneInterfaces finds interfaces that had flows and are gone, or have no address left.
func GoneInterfaces(h *snapshot.Host) (found []finding.Finding) {
	if h.Status == nil {
		return nil
	}
	for _, f := range h.Status.Gone {
		if remedy.EntryOf(h, *f.Interface) == nil { // else `missing-interface` says so
			found = append(found, f)
		}
	}
	return found
}

// Unanswered finds requests that got no answer.
func Unanswered(h *snapshot.Host) []finding.Finding {
	if h.Status == nil {
		return nil
	}
	return h.Status.Unanswered
}

// refusal is an error where flows are refused replies that had some. Who never had one may be meant to have none.
func refusal(h *snapshot.Host, device string) finding.Severity {
	if slices.ContainsFunc(h.WrongWays, func(w snapshot.WrongWay) bool {
		return w.To == device && w.Reason == snapshot.ReasonNoRoute && w.Answered
	}) {
		return finding.Error
	}
	return finding.Warning
}

// isToldElsewhere tells of what has its cause in the findings of `link`, `missing-interface`, `default-route` or `addresses`.
func isToldElsewhere(h *snapshot.Host, w *snapshot.WrongWay) bool {
	switch i := h.Named(w.To); w.Reason {
	case snapshot.ReasonLinkDown:
		return i != nil && isDown(h, i) || i == nil && remedy.EntryOf(h, w.To) != nil
	case snapshot.ReasonNoRoute:
		return slices.ContainsFunc(h.OwnWays, func(o snapshot.OwnWay) bool { return o.On == w.To && o.Refused })
	}
	return false
}

// UnnamedTunnels tells of tunnels by which requests for addresses of other interfaces came, and of those, and of bridges, that no
// program of ours sees. Where the answers belong, their operator knows.
func UnnamedTunnels(h *snapshot.Host) []finding.Finding {
	found := finding.Each(h.WrongWays, func(w *snapshot.WrongWay) finding.Finding {
		takesAll := func(i status.Interface) bool { return i.Name == w.To && !i.OwnOnly } // since a route leads out of it
		if w.Reason != snapshot.ReasonTunnel || h.Named(w.To) == nil || remedy.EntryOf(h, w.To) != nil || h.Status != nil && slices.ContainsFunc(h.Status.Interfaces, takesAll) {
			return finding.None
		}
		return unnamedTunnel(h, finding.Note, w.To, fmt.Sprintf("a tunnel that brought requests for %s, %d were counted: their replies leave", ofInterface(w.From), w.Packets),
			finding.Explained(remedy.Command(&h.State, "replypath trace --count 10"), "the requests, and their way"))
	})
	if h.Config.Interfaces != nil {
		return found
	}
	return append(found, finding.Each(h.Nameless, func(u *discover.Unmanaged) finding.Finding {
		severity := finding.OK
		if strings.HasPrefix(u.Reason, "a bridge") {
			severity = finding.Note
		}
		return unnamedTunnel(h, severity, u.Name, u.Reason+": replies to what it brings leave", "ip -details -statistics link show dev "+finding.Quote(u.Name))
	})...)
}

func unnamedTunnel(h *snapshot.Host, severity finding.Severity, name, found, inspect string) finding.Finding {
	return finding.Seen(severity, name, found+" as routed. If these belong there, "+remedy.ConfigureInterface(h, name, ""), inspect)
}

// unrecordedAge is how long it is told of what is not recorded.
const unrecordedAge = time.Hour

// UnrecordedProtocols tells of tunnels and IPsec by which this host was asked over another interface than that of the default
// route, by which what is not recorded leaves.
func UnrecordedProtocols(h *snapshot.Host) []finding.Finding {
	if h.Status == nil {
		return nil
	}
	isTold := make(map[counters.Unrecorded]bool)
	return finding.Each(h.Status.Counted.Unrecorded, func(u *counters.Unrecorded) finding.Finding {
		i, best := h.Named(u.Interface), h.BestDefault(map[uint8]int{4: unix.AF_INET, 6: unix.AF_INET6}[u.Family])
		once := counters.Unrecorded{Interface: u.Interface, Protocol: u.Protocol}
		if i == nil || best != nil && best.Device == i.Index || slices.Contains(h.Config.Protocols, u.Protocol) || isTold[once] || time.Since(u.Last) > unrecordedAge {
			return finding.None
		}
		isTold[once] = true
		word, listed := config.ProtocolWord(u.Protocol), make([]string, len(h.Config.Protocols))
		for n, protocol := range h.Config.Protocols {
			listed[n] = config.ProtocolWord(protocol)
		}
		f := finding.Problem(finding.Note, i.Name, fmt.Sprintf("%s brings protocol %d (%s), which is not recorded: its replies leave as routed", i.Name, u.Protocol, word),
			remedy.Configure(&h.State, fmt.Sprintf("add %s to protocols: [%s]", word, strings.Join(listed, ", "))))
		return counted(h, &snapshot.WrongWay{Packets: u.Packets, Last: u.Last}, f)
	})
}

func ofInterface(name string) string {
	if name == "" {
		return "addresses that no interface has alone"
	}
	return "addresses of " + name
}

// figures tells how much it is.
func figures(w *snapshot.WrongWay) string {
	var words []string
	if w.Flows > 0 {
		words = append(words, finding.Counted(w.Flows, "live flow", "live flows"))
	}
	if w.Packets > 0 {
		words = append(words, packets(w.Packets)+" in all, the last at "+finding.Moment(w.Last, time.Now()))
	}
	return strings.Join(words, ", ")
}

// wrongWay says why it is so, and what there is to be done.
func wrongWay(h *snapshot.Host, w *snapshot.WrongWay, text string) finding.Finding {
	link := "ip -details link show dev " + finding.Quote(w.To)
	switch w.Reason {
	case snapshot.ReasonObserve:
		severity, text := finding.Warning, text+": replypath only observes there"
		if w.Arrived > 0 {
			severity = finding.Note
			text += fmt.Sprintf("; %s completed so: enforcing learns from handshakes by which way replies arrive", finding.Counted(w.Arrived, "handshake was", "handshakes were"))
		}
		return finding.Problem(severity, w.To, text, remedy.Enforce(h, w.To))
	case snapshot.ReasonLinkDown:
		return finding.Seen(finding.Error, w.To, text+": "+w.To+" is down or gone", finding.Explained(link, "bring it up, or its cable"))
	case "no_next_hop":
		return finding.Seen(finding.Error, w.To, text+": no mac of a next hop is known there",
			finding.Explained("ip neigh show dev "+finding.Quote(w.To), "name the one that has to get the replies under gateways"))
	case snapshot.ReasonNoRoute:
		return finding.Seen(refusal(h, w.To), w.To, fmt.Sprintf("replies of %s are refused: %s, reason %s: a route or a rule does, to their peers",
			w.To, figures(w), w.Reason), listRouting)
	case snapshot.ReasonNotManaged:
		return finding.Problem(finding.Error, w.To, text+": replypath is not attached there", remedy.ConfigureInterface(h, w.From, ""))
	case "mtu":
		return finding.Seen(finding.Warning, w.To, text+": they are larger than its mtu",
			finding.Explained(link, "its mtu and that of "+cmp.Or(w.From, "the others")))
	case "bound_device":
		return finding.Seen(finding.Note, w.To, text+": their sockets are bound to "+cmp.Or(w.From, discover.OwnDevice),
			finding.Explained("ss -tuapn", "who is bound to a device has its name behind the address, as in 0.0.0.0%eth0"))
	case snapshot.ReasonLost:
		return finding.Seen(finding.Error, w.To, fmt.Sprintf(
			"replies of %s that the kernel would send by %s are handed to %s and not seen leaving there: %s",
			w.To, cmp.Or(w.From, discover.OwnDevice), w.To, figures(w)),
			finding.Explained("tc -s qdisc show dev "+finding.Quote(w.To), "what is dropped there"))
	}
	return finding.Seen(finding.Error, w.To, text, finding.Explained(remedy.Command(&h.State, "replypath trace --count 10"), "what becomes of each"))
}

// isDown tells of an interface by which nothing leaves. One without an address and a gateway may be a port that nobody uses.
func isDown(h *snapshot.Host, i *discover.Interface) bool {
	return !i.Up && (len(i.Addresses) > 0 || h.HasGateway(i.Index))
}

// DownInterfaces finds managed interfaces by which nothing leaves.
func DownInterfaces(h *snapshot.Host) []finding.Finding {
	return finding.Each(h.Interfaces, func(i *discover.Interface) finding.Finding {
		if !isDown(h, i) {
			return finding.None
		}
		severity, text := finding.Warning, i.Name+" is down: replies to what arrives there cannot leave by it"
		recorded := 0
		for n := range h.Flows {
			if f := &h.Flows[n]; f.Interface != nil && *f.Interface == i.Name && !f.Closing {
				recorded++
			}
		}
		if recorded > 0 {
			severity, text = finding.Error, i.Name+" is down: replies of its recorded flows go as routed, or nowhere"
		}
		return finding.Seen(severity, i.Name, text, finding.Explained("ip -details link show dev "+finding.Quote(i.Name), "bring it up, or its cable")).
			Shown(uint64(recorded), nil)
	})
}

// EndedTrial tells of a trial that nobody has confirmed in time, and nobody has taken back yet.
func EndedTrial(h *snapshot.Host) []finding.Finding {
	if h.Status == nil || h.Status.TrialEnded == nil {
		return nil
	}
	return []finding.Finding{finding.Problem(finding.Error, "", "the trial is over: not confirmed by "+
		h.Status.TrialEnded.Local().Format(time.RFC3339)+", so replies leave as routed, and the next start takes back the rest", remedy.StartAgain(&h.State))}
}

// DaemonTroubles are that the daemon hangs, and what it could not do yet and tries again.
func DaemonTroubles(h *snapshot.Host) (found []finding.Finding) {
	if h.Status == nil {
		return nil
	}
	passed := h.Status.Daemon.Passed
	if hangs := metrics.Hangs(passed); !passed.IsZero() && hangs != "" {
		found = append(found, finding.Seen(finding.Error, "", hangs+"; what changes on the host is not followed",
			finding.Explained("ps -C replypath -o pid,stat,wchan,args", "what it waits for; restart it")))
	}
	return append(found, finding.Each(h.Status.Errors, func(message *string) finding.Finding {
		text := *message
		if isSaidByOthers(h, text) {
			return finding.None
		}
		if !h.Status.Daemon.Running {
			begin, rest, isLong := strings.Cut(text, ": ")
			if text = begin + ", when the daemon ended"; isLong {
				text += ": " + rest
			}
		}
		return finding.Seen(finding.Warning, "", text, finding.Explained(remedy.Command(&h.State, "replypath status --verbose"), "what it does without"))
	})...)
}

// isSaidByOthers tells the warnings of the daemon that are findings of checks of their own: `missing-interface`, `rp-filter` and
// `attached`.
func isSaidByOthers(h *snapshot.Host, message string) bool {
	isMissing := func(c config.Interface) bool { return strings.HasPrefix(message, discover.NotThere(c.Name)) }
	isTold := func(i discover.Interface) bool {
		return strings.HasPrefix(message, hostsettings.Blind(i.Name)) || isOccupied(h, &i) && strings.Contains(message, attach.Occupied(i.Name))
	}
	return slices.ContainsFunc(h.Config.Interfaces, isMissing) || slices.ContainsFunc(h.Interfaces, isTold)
}

const largerTable = "raise flow_table.max_entries"

// nearlyFull is how much of a table, in percent, is too much.
const nearlyFull = 90

// FullTables finds flow tables that have no room, or had none of late.
func FullTables(h *snapshot.Host) []finding.Finding {
	if h.Status == nil {
		return nil
	}
	isFull := false
	found := finding.Each(h.Status.Flows.Tables, func(t *flows.TableUsage) finding.Finding {
		if t.Capacity == 0 || t.Lasting*100 < t.Capacity*nearlyFull {
			return finding.None
		}
		isFull = true
		return finding.Problem(finding.Warning, "", fmt.Sprintf("flow table %s is nearly full: %d of %d flows", t.Name, t.Lasting, t.Capacity),
			remedy.Configure(&h.State, largerTable)).
			About(t.Name).Shown(t.Lasting, nil)
	})
	if n := h.Status.Counted.NotEntered; n > 0 && isFull {
		found = append(found, finding.Problem(finding.Warning, "", fmt.Sprintf("flows were not recorded: %d found no place in a table", n),
			remedy.Configure(&h.State, largerTable)).
			Shown(n, h.Status.Counted.Since))
	}
	return found
}

func packets(n uint64) string { return finding.Counted(n, "packet", "packets") }

// WithoutGateway finds interfaces whose replies are to go to a gateway, and that have none.
func WithoutGateway(h *snapshot.Host) []finding.Finding {
	return finding.Each(h.Interfaces, func(i *discover.Interface) finding.Finding {
		if i.Settings.NextHop != config.NextHopGateway || i.MAC == nil || h.HasGateway(i.Index) {
			return finding.None
		}
		return finding.Problem(finding.Error, i.Name, i.Name+" has no gateway: next_hop is gateway, and no route names one",
			remedy.ConfigureInterface(h, i.Name, "gateways: [its address]"))
	})
}

// UnreadFacts tells what could not be read.
func UnreadFacts(h *snapshot.Host) (found []finding.Finding) {
	for _, part := range slices.Sorted(maps.Keys(h.Failed)) {
		found = append(found, finding.Seen(finding.Warning, "", part+" could not be read: "+h.Failed[part],
			finding.Explained(remedy.Command(&h.State, "replypath doctor"), "once more")).About(part))
	}
	return found
}
