package doctor

import (
	"fmt"
	"slices"
	"strings"
)

// showChain is the command that lists the rules of a chain, with their handles.
func showChain(c *Chain) string {
	return "nft --handle list chain " + c.Family + " " + quote(c.Table) + " " + quote(c.Name)
}

// reversePathRules finds rules that do what a strict rp_filter does; IPv6 knows
// it only by such rules.
func reversePathRules(h *Host) []Finding {
	var found []Finding
	seenFirewalld := false
	for n := range h.Firewall.Chains {
		c := &h.Firewall.Chains[n]
		for k := range c.Rules {
			r := &c.Rules[k]
			if !r.ReversePath || !h.concerns(r.In) {
				continue
			}
			f := reversePathRule(c, r)
			if c.Table == "firewalld" && h.Firewall.Firewalld != nil {
				seenFirewalld = true
				f.Inspect = orNil(showFirewalld(h.Firewall.Firewalld))
			}
			found = append(found, f)
		}
	}
	if h.Firewall.Firewalld != nil && h.Firewall.Firewalld.isStrict() && !seenFirewalld {
		found = append(found, seen(Warning, "", fmt.Sprintf(
			"%s: IPv6_rpfilter=%s: firewalld, which has no such rule in force now, will drop ipv6 packets whose way back leaves by another interface",
			h.Firewall.Firewalld.File, h.Firewall.Firewalld.IPv6RPFilter), showFirewalld(h.Firewall.Firewalld)).of(firewalld))
	}
	return found
}

func reversePathRule(c *Chain, r *FirewallRule) Finding {
	severity, effect := Error, "drops"
	if !r.Refuses {
		severity, effect = Warning, "tells apart"
	}
	device := ""
	if len(r.In) == 1 && !strings.Contains(r.In[0], "*") {
		device = r.In[0]
	}
	return seen(severity, device, fmt.Sprintf(
		"%s, rule %d: %s packets whose way back leaves by another interface than they came in by", c.String(), r.Handle, effect), showChain(c)).of(ownerOfChain(c.Table, c.Name))
}

// showFirewalld is the command that shows the setting.
func showFirewalld(f *Firewalld) string { return "grep IPv6_rpfilter " + quote(f.File) }

// outgoingRules finds rules by the outgoing interface: they have seen the one
// that the kernel chose before replypath moved the reply.
func outgoingRules(h *Host) []Finding {
	var found []Finding
	for n := range h.Firewall.Chains {
		c := &h.Firewall.Chains[n]
		// The first packet of a connection only passes a chain of type nat.
		if c.Type == "nat" || !c.isHookedAt("output") && !c.isHookedAt("postrouting") {
			continue
		}
		var handles, names []string
		for k := range c.Rules {
			r := &c.Rules[k]
			concerned := len(r.OutNames) > 0 && h.concerns(r.OutNames)
			if concerned || r.OutUnknown {
				handles = append(handles, fmt.Sprint(r.Handle))
				names = append(names, r.OutNames...)
			}
			if r.OutUnknown {
				names = append(names, "a set")
			}
		}
		if len(handles) == 0 {
			continue
		}
		slices.Sort(names)
		found = append(found, seen(Warning, "", fmt.Sprintf(
			"%s, rule %s: by the outgoing interface (%s), they see the one that the kernel chose, not the one that the reply leaves by",
			c.String(), strings.Join(handles, ", "), strings.Join(slices.Compact(names), ", ")),
			explained(showChain(c), "rules by saddr bind replies wherever they leave")).of(ownerOfChain(c.Table, c.Name)))
	}
	return found
}

// egressChains finds chains in the egress hook of netdev on managed interfaces:
// what is redirected there passes by them (nf_hook_egress()).
func egressChains(h *Host) []Finding {
	var found []Finding
	for n := range h.Firewall.Chains {
		c := &h.Firewall.Chains[n]
		if c.Family != "netdev" || !c.isHookedAt("egress") {
			continue
		}
		for _, device := range c.Devices {
			if h.named(device) != nil {
				found = append(found, seen(Warning, device,
					c.String()+": an egress chain of netdev does not see replies that are moved to this interface",
					explained(showChain(c), "an output chain does")).of(ownerOfChain(c.Table, c.Name)))
			}
		}
	}
	return found
}

// flowtables finds flow tables that the hardware of a managed interface works
// off.
func flowtables(h *Host) []Finding {
	var found []Finding
	for _, f := range h.Firewall.Flowtables {
		for _, device := range f.Devices {
			if f.Hardware && h.named(device) != nil {
				found = append(found, seen(Warning, device, fmt.Sprintf(
					"flowtable %s %s %s has flags offload: forwarded packets that the hardware passes on are not seen",
					f.Family, f.Table, f.Name), "nft list flowtables "+f.Family).of(ownerOfChain(f.Table, "")))
			}
		}
	}
	return found
}

// legacyTables names what cannot be looked into.
func legacyTables(h *Host) []Finding {
	if len(h.Firewall.Legacy) == 0 {
		return nil
	}
	return []Finding{seen(Warning, "", fmt.Sprintf(
		"tables of iptables-legacy are in use (%s), which cannot be read here: look for rpfilter, CONNMARK and -o in iptables-legacy-save and ip6tables-legacy-save",
		strings.Join(h.Firewall.Legacy, ", ")), showLegacy(h.Firewall.Legacy))}
}

// showLegacy is the command that shows what nobody else can.
func showLegacy(names []string) string {
	var commands []string
	for _, name := range names {
		family, table, _ := strings.Cut(name, " ")
		commands = append(commands, family+"tables-legacy-save -t "+quote(table))
	}
	return explained(strings.Join(commands, "; "), "doctor can only look at rules of nftables")
}
