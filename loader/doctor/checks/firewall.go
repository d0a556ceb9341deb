// SPDX-License-Identifier: Apache-2.0

package checks

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"replypath/loader/discover"
	"replypath/loader/doctor/finding"
	"replypath/loader/doctor/snapshot"
	"replypath/loader/netfilter"
)

// showChain is the command that lists the rules of a chain, with their handles.
func showChain(c *netfilter.Chain) string {
	return "nft --handle list chain " + c.Family + " " + finding.Quote(c.Table) + " " + finding.Quote(c.Name)
}

// seenChain makes a finding about a chain: its effect, if any, what its rules do, and what there is to know beside them.
func seenChain(c *netfilter.Chain, severity finding.Severity, device, effect, what, comment string) finding.Finding {
	inspect := showChain(c)
	if comment != "" {
		inspect = finding.Explained(inspect, comment)
	}
	return finding.Seen(severity, device, effect+c.String()+what, inspect)
}

// ReversePathRules finds rules that do what a strict rp_filter does; IPv6 knows
// it only by such rules.
func ReversePathRules(h *snapshot.Host) []finding.Finding {
	var found []finding.Finding
	for _, c := range h.Firewall.Chains {
		for _, r := range c.Rules {
			if r.ReversePath && h.Concerns(r.In) {
				found = append(found, reversePathRule(&c, &r))
			}
		}
	}
	return found
}

func reversePathRule(c *netfilter.Chain, r *netfilter.Rule) finding.Finding {
	severity, effect, does := finding.Error, "requests are dropped: ", "drops"
	if !r.Refuses {
		severity, effect, does = finding.Warning, "", "tells apart"
	}
	device := ""
	if len(r.In) == 1 && !strings.Contains(r.In[0], "*") {
		device = r.In[0]
	}
	packets := "packets"
	if r.Marked { // as Calico marks what its pods send (felix/rules/static.go, RPFilter)
		severity, effect, packets = finding.Note, "", "packets with some mark"
	}
	return seenChain(c, severity, device, effect, fmt.Sprintf(
		", rule %d %s %s whose route back leads by another interface than they arrived by", r.Handle, does, packets), "")
}

// EgressChains finds chains in the egress hook of netdev on managed interfaces:
// what is redirected there passes by them (nf_hook_egress()).
func EgressChains(h *snapshot.Host) []finding.Finding {
	var found []finding.Finding
	for _, c := range h.Firewall.Chains {
		if c.Family != "netdev" || !c.IsHookedAt("egress") {
			continue
		}
		for _, device := range c.Devices {
			if h.Named(device) != nil {
				found = append(found, seenChain(&c, finding.Note, device, "",
					": an egress chain of netdev does not see replies that are moved to this interface", "an output chain does"))
			}
		}
	}
	return found
}

// LegacyTables names what cannot be looked into.
func LegacyTables(h *snapshot.Host) []finding.Finding {
	if len(h.Firewall.Legacy) == 0 {
		return nil
	}
	return []finding.Finding{finding.Seen(finding.Note, "", fmt.Sprintf(
		"tables of iptables-legacy are in use (%s), which doctor cannot read: look for rpfilter, CONNMARK, -o, MASQUERADE and DNAT (see `addresses`) in iptables-legacy-save and ip6tables-legacy-save",
		strings.Join(h.Firewall.Legacy, ", ")), showLegacy(h.Firewall.Legacy))}
}

// showLegacy is the command that shows what nobody else can.
func showLegacy(names []string) string {
	var commands []string
	for _, name := range names {
		family, table, _ := strings.Cut(name, " ")
		commands = append(commands, family+"tables-legacy-save -t "+finding.Quote(table))
	}
	return finding.Explained(strings.Join(commands, "; "), "doctor can only look at rules of nftables")
}

// decided is what a rule of the firewall does with answers whose route leads by a device.
type decided struct {
	netfilter.Fate
	device string
	what   []string // of the answers
	asked  bool     // somebody is known to ask for some
}

// decide asks what rules do with answers that replypath moves: their route leads by another interface than their own, which
// has the address that they come from.
func decide(h *snapshot.Host, ask func(i *discover.Interface, answer *netfilter.Sent) (*netfilter.Fate, string)) (list []decided) {
	for n := range h.Interfaces {
		i := &h.Interfaces[n]
		for _, answer := range movedFrom(h, i) {
			fate, what := ask(i, &answer)
			if fate == nil {
				continue
			}
			isSame := func(d decided) bool { return d.Fate == *fate && d.device == answer.Device }
			at := slices.IndexFunc(list, isSame)
			if at < 0 {
				at, list = len(list), append(list, decided{Fate: *fate, device: answer.Device})
			}
			if d := &list[at]; !slices.Contains(d.what, what) {
				d.what = append(d.what, what)
				d.asked = d.asked || h.IsAskedFromAfar(i)
			}
		}
	}
	return list
}

// movedFrom are answers from the addresses of an interface whose routes, as the kernel says, lead by others.
func movedFrom(h *snapshot.Host, i *discover.Interface) (answers []netfilter.Sent) {
	for _, w := range h.OwnWays {
		if w.On != i.Name || w.By == "" || w.By == w.On || !w.Address.Addr().IsGlobalUnicast() {
			continue
		}
		for _, protocol := range []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
			answers = append(answers, netfilter.Sent{Source: w.Address.Addr(), Device: w.By, Index: w.Device, Protocol: protocol})
		}
	}
	return answers
}

// OutgoingRules finds rules by the outgoing interface: they have seen the one
// that the kernel chose before replypath moved the reply, and may have dropped it.
func OutgoingRules(h *snapshot.Host) []finding.Finding {
	refused := refusedAnswers(h)
	return append(refused, finding.Each(h.Firewall.Chains, func(c *netfilter.Chain) finding.Finding {
		isTold := func(f finding.Finding) bool { return strings.Contains(f.Found, " "+c.String()+",") }
		// The first packet of a connection only passes a chain of type nat.
		if c.Type == "nat" || !c.IsHookedAt("output") && !c.IsHookedAt("postrouting") || slices.ContainsFunc(refused, isTold) {
			return finding.None
		}
		var handles, names []string
		for _, r := range c.Rules {
			concerned := len(r.OutNames) > 0 && h.Concerns(r.OutNames)
			if concerned || r.OutUnknown {
				handles = append(handles, fmt.Sprint(r.Handle))
				names = append(names, r.OutNames...)
			}
			if r.OutUnknown {
				names = append(names, "a set")
			}
		}
		if len(handles) == 0 {
			return finding.None
		}
		slices.Sort(names)
		return seenChain(c, finding.Note, "", "", fmt.Sprintf(
			", rule %s: by the outgoing interface (%s): the one that the kernel chose, not the one that the reply leaves by",
			strings.Join(handles, ", "), strings.Join(slices.Compact(names), ", ")), "rules by saddr bind replies wherever they leave")
	})...)
}

// refusedAnswers finds chains that refuse answers by the interface of their route, and would let them pass by their own.
func refusedAnswers(h *snapshot.Host) []finding.Finding {
	walker := h.Firewall.Walker()
	list := decide(h, func(i *discover.Interface, answer *netfilter.Sent) (*netfilter.Fate, string) {
		return walker.RefusedByWay(answer, i.Name, i.Index), i.Name
	})
	return finding.Each(list, func(d *decided) finding.Finding {
		severity := finding.Note
		if d.asked {
			severity = finding.Error
		}
		return seenChain(d.Chain, severity, d.device, "replies of "+strings.Join(d.what, ", ")+" are dropped: ", fmt.Sprintf(
			", %s, does before they are moved, as their route leads by %s", d.Place(), d.device), "rules by saddr let replies pass wherever they leave")
	})
}

// Masquerades finds rules that give answers another source once connection tracking has forgotten their connection.
func Masquerades(h *snapshot.Host) (found []finding.Finding) {
	walker := h.Firewall.Walker()
	for _, word := range []string{"ip", "ip6"} {
		list := decide(h, func(_ *discover.Interface, answer *netfilter.Sent) (*netfilter.Fate, string) {
			if answer.Source.Is4() != (word == "ip") {
				return nil, ""
			}
			return walker.Translated(answer), answer.Source.String()
		})
		for _, d := range list {
			sources, severity := strings.Join(d.what, ", "), finding.Note
			if d.asked {
				severity = finding.Warning
			}
			found = append(found, seenChain(d.Chain, severity, d.device, "replies from "+sources+" get another source: ", fmt.Sprintf(
				", rule %d, translates what leaves by %s, of connections that connection tracking has forgotten (timeout, conntrack -F)",
				d.Rule.Handle, d.device), fmt.Sprintf("spare them by %s saddr != { %s }", word, sources)))
		}
	}
	return found
}
