// SPDX-License-Identifier: Apache-2.0

// Package netfilter reads what the kernel filters, tracks and balances.
package netfilter

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"replypath/loader/doctor/snapshot"
)

// Read reads nf_tables, as far as it gets. A kernel without it has none.
func Read(f *snapshot.Firewall, deviceName func(index int) string) error {
	f.Legacy = legacyIn("/proc/thread-self/net")
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	chains, err := conn.ListChains()
	if lacksNFTables(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list nftables chains: %w", err)
	}
	for _, c := range chains {
		chain, err := readChain(conn, c, deviceName)
		if err != nil {
			return err
		}
		if chain != nil {
			f.Chains = append(f.Chains, *chain)
		}
	}
	followJumps(f.Chains)
	f.Flowtables, err = flowtablesOf(conn)
	return err
}

// lacksNFTables tells the answers of a kernel that does not know the subsystem.
func lacksNFTables(err error) bool {
	return errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP)
}

// readChain reads a chain with the rules that matter; nil where it has gone meanwhile.
func readChain(conn *nftables.Conn, c *nftables.Chain, deviceName func(index int) string) (*snapshot.Chain, error) {
	chain := &snapshot.Chain{Family: families[c.Table.Family], Table: c.Table.Name, Name: c.Name, Type: string(c.Type)}
	if c.Hooknum != nil {
		chain.Hooks = []string{hookName(c.Table.Family, *c.Hooknum)}
	}
	if c.Table.Family == nftables.TableFamilyNetdev {
		devices, err := chainDevices(c.Table.Name, c.Name)
		if err != nil {
			return nil, fmt.Errorf("read nftables chain %s: %w", chain.String(), err)
		}
		chain.Devices = devices
	}
	rules, err := conn.GetRules(c.Table, c)
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list nftables rules of %s: %w", chain.String(), err)
	}
	for _, r := range rules {
		if rule := readRule(r.Exprs, deviceName); matters(&rule) {
			rule.Handle = r.Handle
			chain.Rules = append(chain.Rules, rule)
		}
	}
	return chain, nil
}

// matters tells a rule that one of the checks asks for.
func matters(r *snapshot.FirewallRule) bool {
	return r.ReversePath || len(r.OutNames) > 0 || r.OutUnknown || r.Restores || len(r.DNAT) > 0 || len(r.Jumps) > 0 || len(r.Marks) > 0 || r.GivesUnknown
}

// families are nft's words for those of tables.
var families = map[nftables.TableFamily]string{
	nftables.TableFamilyINet: "inet", nftables.TableFamilyIPv4: "ip", nftables.TableFamilyIPv6: "ip6",
	nftables.TableFamilyARP: "arp", nftables.TableFamilyNetdev: "netdev", nftables.TableFamilyBridge: "bridge",
}

func hookName(f nftables.TableFamily, hook nftables.ChainHook) string {
	names := []string{"prerouting", "input", "forward", "output", "postrouting"}
	if f == nftables.TableFamilyNetdev {
		names = []string{"ingress", "egress"}
	}
	if int(hook) < len(names) {
		return names[hook]
	}
	return ""
}

// followJumps notes with each chain the hooks that lead to it by way of others.
func followJumps(chains []snapshot.Chain) {
	for changed := true; changed; {
		changed = false
		for _, from := range chains {
			for n := range chains {
				changed = from.JumpsTo(&chains[n]) && addHooks(&chains[n], &from) || changed
			}
		}
	}
}

// addHooks notes with a chain those that lead to it by way of another.
func addHooks(to, from *snapshot.Chain) (added bool) {
	to.Type = cmp.Or(to.Type, from.Type)
	for _, hook := range from.Hooks {
		if !to.IsHookedAt(hook) {
			to.Hooks, added = append(to.Hooks, hook), true
		}
	}
	return added
}

func flowtablesOf(conn *nftables.Conn) ([]snapshot.Flowtable, error) {
	tables, err := conn.ListTables()
	if err != nil {
		return nil, fmt.Errorf("list nftables tables: %w", err)
	}
	var found []snapshot.Flowtable
	for _, t := range tables {
		list, err := conn.ListFlowtables(t)
		if err != nil {
			return found, fmt.Errorf("list nftables flowtables of %s: %w", t.Name, err)
		}
		for _, f := range list {
			found = append(found, snapshot.Flowtable{
				Family: families[t.Family], Table: t.Name, Name: f.Name, Devices: f.Devices,
				Hardware: f.Flags&nftables.FlowtableFlagsHWOffload != 0,
			})
		}
	}
	return found, nil
}

// legacyIn names the tables of iptables-legacy that are in use: the kernel lists
// them below /proc/net, for this network namespace.
func legacyIn(dir string) []string {
	var names []string
	for file, family := range map[string]string{"ip_tables_names": "ip", "ip6_tables_names": "ip6"} {
		text, err := os.ReadFile(dir + "/" + file)
		if err != nil {
			continue // the kernel has no such tables
		}
		for _, name := range strings.Fields(string(text)) {
			names = append(names, family+" "+name)
		}
	}
	slices.Sort(names)
	return names
}
