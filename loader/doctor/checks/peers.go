// SPDX-License-Identifier: Apache-2.0

package checks

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/loader/config"
	"replypath/loader/discover"
	"replypath/loader/doctor/remedy"
	"replypath/loader/doctor/snapshot"
	"replypath/loader/finding"
	"replypath/loader/flows"
	"replypath/loader/nexthop"
)

// SilentGateways finds gateways that do not answer ARP or neighbour discovery.
// Answers by way of them go nowhere, and packets to them are not even built.
func SilentGateways(h *snapshot.Host) []finding.Finding {
	return finding.Each(h.Gateways, func(g *nexthop.Gateway) finding.Finding {
		i := h.Managed(g.Interface)
		if i == nil || !i.Up { // `link` says so
			return finding.None
		}
		text := fmt.Sprintf("gateway %s is %s", g.Address, g.State)
		switch {
		case g.State == nexthop.StateNone && h.Status != nil && !h.Status.Daemon.Running && !h.Asked:
			return finding.None // nobody asks it
		case g.State == nexthop.StateNone:
			severity := finding.Note
			if h.Asked {
				severity = finding.Warning
			}
			return seenGateway(&h.Routing, i, g, severity, fmt.Sprintf("gateway %s has not answered yet: nobody has sent to it since its interface came up", g.Address))
		case !nexthop.Usable(g.State):
			return silentGateway(h, i, g)
		case h.Asked && (g.State == nexthop.StateDelay || g.State == nexthop.StateProbe):
			return seenGateway(&h.Routing, i, g, finding.Warning, text+": it has not answered for some seconds")
		}
		return finding.Fine(i.Name, text)
	})
}

// silentGateway tells of one that does not answer. It may come back by itself: what
// leads by it stays, and so does what the configuration says of it.
func silentGateway(h *snapshot.Host, i *discover.Interface, g *nexthop.Gateway) finding.Finding {
	t, severity := &h.Routing, finding.Error
	text := fmt.Sprintf("gateway %s does not answer %s: it is %s",
		g.Address, snapshot.Resolution[snapshot.FamilyOf(netip.PrefixFrom(g.Address, 0))], g.State)
	if networks := onlyTo(g); networks != "" {
		return seenGateway(t, i, g, finding.Warning, text+", and leads to "+networks+" only")
	}
	if slices.Contains(i.Settings.Gateways, g.Address) {
		text += ", and the configuration names it"
		if right := h.Recent(i.Name).Right; right > 0 && !isNextHop(h, i, g) {
			severity = finding.Warning
			text += fmt.Sprintf("; %s another way and left rightly", finding.Counted(right, "reply went", "replies went"))
		}
	}
	return seenGateway(t, i, g, severity, text)
}

// isNextHop tells whether replies of a flow go to a gateway, or a route leads by it.
func isNextHop(h *snapshot.Host, i *discover.Interface, g *nexthop.Gateway) bool {
	isTo := func(f flows.Flow) bool {
		return f.Interface != nil && *f.Interface == i.Name && finding.OrEmpty(f.Gateway) == g.Address.String()
	}
	leadsBy := func(r snapshot.Route) bool { return r.Device == i.Index && r.Gateway == g.Address }
	return slices.ContainsFunc(h.Flows, isTo) || slices.ContainsFunc(h.Routes, leadsBy)
}

// seenGateway makes a finding about a gateway, which belongs to whom the first route does that leads by it.
func seenGateway(
	t *snapshot.Routing, i *discover.Interface, g *nexthop.Gateway, severity finding.Severity, text string,
) finding.Finding {
	f := finding.Seen(severity, i.Name, text, fmt.Sprintf("ip neigh show %s dev %s", g.Address, finding.Quote(i.Name)))
	for _, r := range t.Routes {
		if r.Device == g.Interface && r.Gateway == g.Address && r.IsUnicast() {
			return f.Of(r.Owner())
		}
	}
	return f
}

// onlyTo tells of a gateway to where alone routes lead by it, "" for one that takes everything.
func onlyTo(g *nexthop.Gateway) string {
	networks := slices.Concat(g.Reach4.Networks, g.Reach6.Networks)
	if g.Reach4.Everything || g.Reach6.Everything || len(networks) == 0 {
		return ""
	}
	var texts []string
	for _, n := range networks {
		texts = append(texts, n.String())
	}
	return some(texts)
}

// some names the first three.
func some(names []string) string {
	names = slices.Sorted(slices.Values(names))
	if len(names) > 3 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:3], ", "), len(names)-3)
	}
	return strings.Join(names, ", ")
}

// LastHop finds interfaces where on-link peers arrive by another host's MAC, as
// behind a load balancer with NAT: answered directly, they take the answer for a
// stranger's.
func LastHop(h *snapshot.Host) []finding.Finding {
	var found []finding.Finding
	if h.FlowError != "" {
		found = append(found, finding.Problem(finding.Warning, "", "not looked at: "+h.FlowError, remedy.Start(&h.State)))
	}
	return append(found, finding.Each(h.Interfaces, func(i *discover.Interface) finding.Finding {
		peers, learnt := h.LastHopPeers(i)
		severity := finding.Warning
		if learnt { // and the next one that nothing is known of takes a second
			severity = finding.Note
		}
		if len(peers) == 0 || i.Settings.NextHop == config.NextHopLastHop {
			return finding.None
		}
		return finding.Problem(severity, i.Name,
			"peers of this network arrive from another station's mac: "+some(peers)+": next_hop last-hop answers them through it",
			remedy.ConfigureInterface(h, i.Name, "next_hop: last-hop"))
	})...)
}

const (
	mostSenders = 20 // that are told of one by one
	tryTime     = 5  // seconds: by then a handshake has tried all ways
)

// Senders tells through whom replies go back or as routed, as handshakes taught, and through whom handshakes were answered by
// several ways and never completed.
func Senders(h *snapshot.Host) (found []finding.Finding) {
	works := make(map[bpf.DatapathSender]bool)
	if h.Status != nil {
		found = append(found, learnt(h, works)...)
	}
	vain := make(map[bpf.DatapathSender][]*flows.Flow)
	for n := range h.Flows {
		f := &h.Flows[n]
		works[f.Sender] = works[f.Sender] || f.State == flows.StateEstablished
		if f.Unanswered && f.AgeSeconds >= tryTime && f.Interface != nil && (f.Retried || h.Observed(*f.Interface)) {
			vain[f.Sender] = append(vain[f.Sender], f)
		}
	}
	for sender, asked := range vain {
		i, through := h.Named(*asked[0].Interface), macOf(&sender)
		if i != nil && i.MAC == nil {
			through = i.Name
		}
		isUnknown := func() bool { // and `unknown-gateway` says so
			return i != nil && i.MAC != nil && !hasGateway(h, i, familyNumbers[asked[0].Family]) && len(h.OwnersOfMACs(i.Index)[through]) == 0
		}
		if !works[sender] && !isUnknown() {
			found = append(found, inVain(h, through, asked))
		}
	}
	slices.SortFunc(found, func(a, b finding.Finding) int { return strings.Compare(a.Found, b.Found) })
	return found
}

// learnt tells of the senders that have another way, and notes of all that some way works.
func learnt(h *snapshot.Host, works map[bpf.DatapathSender]bool) (found []finding.Finding) {
	how, look := map[string]string{flows.WayLastHop: "back to it", flows.WayDirectReturn: "as routed"}, remedy.Command(&h.State, "replypath status --verbose")
	others := 0
	for _, s := range h.Status.Senders {
		works[s.Key] = true
		if s.Way == flows.WayRule {
			continue
		}
		if others++; others <= mostSenders {
			text := fmt.Sprintf("replies of %s through %s go %s, %s", s.Self, finding.OrEmpty(s.MAC), how[s.Way], s.Because())
			found = append(found, finding.Seen(finding.Note, s.Interface, text, look))
		}
	}
	if more := others - mostSenders; more > 0 {
		found = append(found, finding.Seen(finding.Note, "", fmt.Sprintf("replies through %d more senders go back to them or as routed", more), look))
	}
	return found
}

var familyNumbers = map[string]int{"ipv4": unix.AF_INET, "ipv6": unix.AF_INET6}

func macOf(s *bpf.DatapathSender) string { return net.HardwareAddr(s.Mac[:]).String() }

// inVain tells of a sender through which none of these handshakes was completed.
func inVain(h *snapshot.Host, through string, asked []*flows.Flow) finding.Finding {
	self, device := asked[0].Self, *asked[0].Interface
	oldest := slices.MaxFunc(asked, func(a, b *flows.Flow) int { return cmp.Compare(a.AgeSeconds, b.AgeSeconds) })
	since := time.Now().Add(-time.Duration(oldest.AgeSeconds * float64(time.Second)))
	text := fmt.Sprintf("no handshake with %s through %s was completed: %s answered ", self, through, finding.Counted(len(asked), "was", "were"))
	f := finding.Seen(finding.Warning, device, text+"by every way", finding.Explained(
		remedy.Command(&h.State, "replypath trace --self "+self), "by which ways they are answered"))
	if h.Observed(device) {
		f = finding.Problem(finding.Warning, device, text+"as routed: replypath only observes there, and enforcing tries other ways", remedy.Enforce(h, device))
	}
	return f.Shown(uint64(len(asked)), &since)
}

// UnknownGateways looks at interfaces without a gateway of a family, whose replies go back to the MAC that the question came
// from. It tells of frames from a MAC that no neighbour has: such a router may take only what is sent to another one, as those of
// HSRP do.
func UnknownGateways(h *snapshot.Host) []finding.Finding {
	var found []finding.Finding
	for _, i := range h.Interfaces {
		for _, family := range snapshot.Families {
			if i.MAC == nil || i.Settings.NextHop == config.NextHopLastHop || hasGateway(h, &i, family) {
				continue
			}
			found = append(found, strangers(h, &i, family)...)
		}
	}
	return found
}

func hasGateway(h *snapshot.Host, i *discover.Interface, family int) bool {
	return slices.ContainsFunc(h.Gateways, func(g nexthop.Gateway) bool {
		return g.Interface == i.Index && (family == unix.AF_INET && g.IPv4 || family == unix.AF_INET6 && g.IPv6)
	})
}

// strangers tells of MACs that brought questions from far away, that no neighbour has, and by which no connection was completed.
func strangers(h *snapshot.Host, i *discover.Interface, family int) (found []finding.Finding) {
	known, count, works := h.OwnersOfMACs(i.Index), make(map[string]int), make(map[string]bool)
	h.Unnamed(i.Name, func(f *flows.Flow, peer netip.Addr) {
		mac := macOf(&f.Sender)
		isOther := snapshot.FamilyOf(netip.PrefixFrom(peer, 0)) != family || h.IsOnLink(i.Index, peer) || f.State == flows.StateHalfOpen && !f.GoesOn() ||
			f.State == flows.StateConnectionless // nothing says whether its answers arrive
		if !isOther && f.Sender.Mac != [6]uint8{} && len(known[mac]) == 0 {
			count[mac]++
			works[mac] = works[mac] || f.State == flows.StateEstablished
		}
	})
	if h.Status != nil {
		for _, s := range h.Status.Senders { // by some way
			works[finding.OrEmpty(s.MAC)] = works[finding.OrEmpty(s.MAC)] || s.Interface == i.Name
		}
	}
	for _, mac := range slices.Sorted(maps.Keys(count)) {
		if works[mac] {
			continue
		}
		found = append(found, finding.Problem(finding.Warning, i.Name, fmt.Sprintf(
			"%d handshakes came from mac %s, which no neighbour has, and none was completed: the router may take replies by another mac only (HSRP, VRRP)",
			count[mac], mac), remedy.ConfigureInterface(h, i.Name, "gateways: ["+routerSeen(h, i, family)+"]")))
	}
	return found
}

// virtual are the beginnings of MACs of virtual routers: RFC 9568, 7.3, for IPv4 and IPv6; Cisco's HSRP 1, 2 and for IPv6; GLBP.
var virtual = []net.HardwareAddr{
	{0x00, 0x00, 0x5e, 0x00, 0x01}, {0x00, 0x00, 0x5e, 0x00, 0x02}, {0x00, 0x00, 0x0c, 0x07, 0xac}, {0x00, 0x00, 0x0c, 0x9f},
	{0x00, 0x05, 0x73, 0xa0}, {0x00, 0x07, 0xb4, 0x00},
}

// routerSeen is the neighbour that is a router by its MAC, or has said that it is one; else a word for it.
func routerSeen(h *snapshot.Host, i *discover.Interface, family int) string {
	isVirtual := func(n *snapshot.Neighbour) bool {
		return slices.ContainsFunc(virtual, func(prefix net.HardwareAddr) bool { return bytes.HasPrefix(n.MAC, prefix) })
	}
	for _, is := range []func(*snapshot.Neighbour) bool{isVirtual, func(n *snapshot.Neighbour) bool { return n.Router }} {
		for _, n := range h.Neighbours {
			if n.Interface == i.Index && snapshot.FamilyOf(netip.PrefixFrom(n.Address, 0)) == family && is(&n) {
				return n.Address.String()
			}
		}
	}
	return "ADDRESS"
}

// TranslatedAddresses finds addresses that connections are translated from, and nothing makes this host's.
func TranslatedAddresses(h *snapshot.Host) []finding.Finding {
	return finding.Each(h.Translations, func(t *snapshot.Translation) finding.Finding {
		if h.IsServed(t.Address) {
			return finding.None
		}
		return finding.Problem(finding.Warning, "", fmt.Sprintf(
			"%s is translated to %s (%d connections): no interface has it, and no rule names it: replies go as routed",
			t.Address, t.Target, t.Count), remedy.Configure(&h.State, fmt.Sprintf("add %q to addresses", t.Address)))
	})
}
