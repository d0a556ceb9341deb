// SPDX-License-Identifier: Apache-2.0

package checks

import (
	"fmt"
	"slices"
	"strings"

	"replypath/loader/doctor/snapshot"
	"replypath/loader/finding"
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

// LegacyTables names what cannot be looked into.
func LegacyTables(h *snapshot.Host) []finding.Finding {
	if len(h.Firewall.Legacy) == 0 {
		return nil
	}
	return []finding.Finding{finding.Seen(finding.Note, "", "doctor cannot read the tables of iptables-legacy: "+strings.Join(h.Firewall.Legacy, ", "),
		"iptables-legacy-save; ip6tables-legacy-save")}
}

// OutgoingRules finds rules by the outgoing interface: they have seen the one
// that the kernel chose before replypath moved the reply, and may have dropped it.
func OutgoingRules(h *snapshot.Host) []finding.Finding {
	return finding.Each(h.Firewall.Chains, func(c *netfilter.Chain) finding.Finding {
		rules := ByOutgoing(h, c)
		if rules == "" {
			return finding.None
		}
		return seenChain(c, finding.Note, "", "", rules+": the one that the kernel chose, not the one that the reply leaves by; if replies are missing, look here",
			"rules by saddr bind replies wherever they leave")
	})
}

// ByOutgoing says which rules of a chain look at the interface that replies leave by, "" for none. Chains of type nat see only
// the first packet of a connection.
func ByOutgoing(h *snapshot.Host, c *netfilter.Chain) string {
	if c.Type == "nat" || !c.IsHookedAt("output") && !c.IsHookedAt("postrouting") {
		return ""
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
		return ""
	}
	slices.Sort(names)
	return fmt.Sprintf(", rule %s: by the outgoing interface (%s)", strings.Join(handles, ", "), strings.Join(slices.Compact(names), ", "))
}
