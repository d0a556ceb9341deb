package doctor

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Firewall is what nf_tables holds, as far as checks ask for it.
type Firewall struct {
	Chains     []Chain
	Flowtables []Flowtable
	// Legacy names the tables of iptables-legacy that are in use, "ip filter":
	// their rules cannot be read by netlink.
	Legacy []string
}

// Chain is a chain with the rules that matter.
type Chain struct {
	Family, Table, Name string
	Type                string   // "filter", "nat", "route", empty for one that is no base chain
	Hooks               []string // that lead to it, by jumps as well: "prerouting", "output", ...
	Devices             []string // of the hooks of family netdev
	Rules               []FirewallRule
}

func (c *Chain) name() string { return c.Family + " " + c.Table + " " + c.Name }

// words is the name as the shell reads it.
func (c *Chain) words() string { return c.Family + " " + quote(c.Table) + " " + quote(c.Name) }

// FirewallRule is what a rule looks at and does.
type FirewallRule struct {
	Handle uint64
	// ReversePath: it asks by which interface the way back to the source leaves,
	// and compares it with the one that the packet came in by.
	ReversePath bool
	Refuses     bool     // it drops or rejects
	In          []string // "eth1", "eth*": the interfaces that it is limited to, none where it is not
	// OutNames are the outgoing interfaces that it compares with; OutUnknown, that
	// it looks at them by way of a set or a map.
	OutNames   []string
	OutUnknown bool
	Restores   bool         // it sets the packet's mark from that of the connection
	Marks      []uint32     // what it gives packets or connections for a mark, or compares the connection's with
	DNAT       []netip.Addr // constant destinations
	Jumps      []string     // chains
}

// Flowtable is a flow table of nf_tables.
type Flowtable struct {
	Family, Table, Name string
	Devices             []string
	Hardware            bool
}

// show is the command that lists its rules, with their handles.
func (c *Chain) show() string { return "nft --handle list chain " + c.words() }

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
			if c.Table == "firewalld" && h.Firewalld != nil {
				seenFirewalld = true
				f.Inspect = orNil(h.Firewalld.show())
			}
			found = append(found, f)
		}
	}
	if h.Firewalld != nil && h.Firewalld.isStrict() && !seenFirewalld {
		found = append(found, seen(Warning, "", fmt.Sprintf(
			"%s: IPv6_rpfilter=%s: firewalld, which has no such rule in force now, will drop ipv6 packets whose way back leaves by another interface",
			h.Firewalld.File, h.Firewalld.IPv6RPFilter), h.Firewalld.show()).of(firewalld))
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
		"%s, rule %d: %s packets whose way back leaves by another interface than they came in by", c.name(), r.Handle, effect), c.show()).of(c.owner())
}

// concerns tells whether a rule that is limited to some interfaces is about a
// managed one.
func (h *Host) concerns(names []string) bool {
	return len(names) == 0 || slices.ContainsFunc(names, h.managedPattern)
}

// managedPattern is managedName for nf_tables' "eth*".
func (h *Host) managedPattern(pattern string) bool {
	prefix, isPattern := strings.CutSuffix(pattern, "*")
	if !isPattern {
		return h.managedName(pattern)
	}
	for _, i := range h.Interfaces {
		if strings.HasPrefix(i.Name, prefix) {
			return true
		}
	}
	return false
}

// isStrict follows firewalld.conf(5): yes is the default and means strict.
func (f *Firewalld) isStrict() bool {
	switch strings.ToLower(f.IPv6RPFilter) {
	case "yes", "true", "strict":
		return true
	}
	return false
}

// show is the command that shows the setting.
func (f *Firewalld) show() string { return "grep IPv6_rpfilter " + quote(f.File) }

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
			c.name(), strings.Join(handles, ", "), strings.Join(slices.Compact(names), ", ")),
			explained(c.show(), "rules by saddr bind replies wherever they leave")).of(c.owner()))
	}
	return found
}

func (c *Chain) isHookedAt(hook string) bool { return slices.Contains(c.Hooks, hook) }

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
			if h.managedName(device) {
				found = append(found, seen(Warning, device,
					c.name()+": an egress chain of netdev does not see replies that are moved to this interface",
					explained(c.show(), "an output chain does")).of(c.owner()))
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
			if f.Hardware && h.managedName(device) {
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

// bringingBack names the chains that bring a mark that a rule selects by back from
// the connection to packets of its family. The marks that are to be seen are compared
// as the rule does, with its mask; where none is, any may be meant.
func (f *Firewall) bringingBack(r *Rule) []string {
	others := "ip6"
	if r.Family == unix.AF_INET6 {
		others = "ip"
	}
	var names []string
	var marks []uint32
	for n := range f.Chains {
		c := &f.Chains[n]
		if c.Family == others {
			continue
		}
		if slices.ContainsFunc(c.Rules, func(r FirewallRule) bool { return r.Restores }) {
			names = append(names, c.name())
		}
		for _, rule := range c.Rules {
			marks = append(marks, rule.Marks...)
		}
	}
	if len(marks) > 0 && !slices.ContainsFunc(marks, r.selectsMark) {
		return nil
	}
	return names
}
