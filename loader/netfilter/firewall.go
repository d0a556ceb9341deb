// SPDX-License-Identifier: Apache-2.0

// Package netfilter reads what the kernel filters, tracks and balances.
package netfilter

import (
	"cmp"
	"errors"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Read reads nf_tables, as far as it gets. A kernel without it has none.
func Read(f *Ruleset, deviceName func(index int) string) error {
	f.Legacy = legacyIn("/proc/thread-self/net")
	tables, err := open()
	if lacksNFTables(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer tables.close()
	r := &reader{nfTables: tables, deviceName: deviceName}
	if err := r.read(f); !lacksNFTables(err) {
		return err
	}
	return nil
}

// lacksNFTables tells the answers of a kernel that does not know the subsystem.
func lacksNFTables(err error) bool {
	return errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP)
}

// reader reads a set of rules once.
type reader struct {
	*nfTables
	deviceName func(index int) string // nil: nobody asks for names
	byName     map[string]*Chain
	sets       map[string][]element // by family, table and name
}

// read reads the chains and their rules, and what follows from them.
func (r *reader) read(f *Ruleset) (err error) {
	if f.Chains, err = r.chains(); err != nil {
		return err
	}
	r.byName, r.sets = byName(f.Chains), map[string][]element{}
	err = r.rules(func(chain string, handle uint64, expressions []expr.Any) {
		rule := readRule(expressions, r.deviceName)
		if rule.Handle = handle; matters(&rule) && r.byName[chain] != nil {
			r.byName[chain].Rules = append(r.byName[chain].Rules, rule)
		}
	})
	if err != nil {
		return err
	}
	if err := r.readVerdicts(f.Chains); err != nil {
		return err
	}
	if f.Translated, err = translated(f.Chains, r.byName, r.within); err != nil {
		return err
	}
	followJumps(f.Chains, r.byName)
	return nil
}

// readVerdicts reads the maps that lead to other chains.
func (r *reader) readVerdicts(chains []Chain) error {
	for n := range chains {
		for m := range chains[n].Rules {
			rule := &chains[n].Rules[m]
			if rule.Verdicts == nil {
				continue
			}
			elements, err := r.set(&chains[n], rule.Verdicts.Set)
			if err != nil {
				return err
			}
			rule.Cases = rule.Verdicts.cases(elements)
		}
	}
	return nil
}

// within are the destinations that a set of a chain's table holds.
func (r *reader) within(c *Chain, l *Lookup) (list []netip.Prefix, err error) {
	elements, err := r.set(c, l.Set)
	for _, each := range l.cases(elements) {
		list = append(list, each.To...)
	}
	return list, err
}

// set reads a set of a chain's table once.
func (r *reader) set(c *Chain, name string) (elements []element, err error) {
	key := c.named(name)
	elements, known := r.sets[key]
	if !known {
		elements, err = r.elements(c, name)
		r.sets[key] = elements
	}
	return elements, err
}

// matters tells a rule that somebody asks for.
func matters(r *Rule) bool {
	return r.ReversePath || len(r.OutNames) > 0 || r.OutUnknown || r.Restores || len(r.Marks) > 0 || r.GivesUnknown ||
		r.Translates || len(r.Jumps) > 0 || r.Verdicts != nil
}

// followJumps notes with each chain the hooks that lead to it by way of others.
func followJumps(chains []Chain, byName map[string]*Chain) {
	var follow func(from *Chain)
	follow = func(from *Chain) {
		for _, rule := range from.Rules {
			for _, name := range rule.leadsTo() {
				if to := byName[from.named(name)]; to != nil && addHooks(to, from) {
					follow(to)
				}
			}
		}
	}
	for n := range chains {
		follow(&chains[n])
	}
}

// addHooks notes with a chain those that lead to it by way of another.
func addHooks(to, from *Chain) (added bool) {
	to.Type = cmp.Or(to.Type, from.Type)
	for _, hook := range from.Hooks {
		if !to.IsHookedAt(hook) {
			to.Hooks, added = append(to.Hooks, hook), true
		}
	}
	return added
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
