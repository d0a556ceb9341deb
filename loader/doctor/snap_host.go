// Package snapshot is what doctor knows of a network namespace: what was read, and what follows from it.
package doctor

import (
	"slices"

	"golang.org/x/sys/unix"

	"replypath/loader/attach"
	"replypath/loader/discover"
)

// Host is a snapshot of a network namespace, as far as checks ask for it.
type Host struct {
	State
	Links
	Routing
	Neighbourhood
	Settings Settings
	Firewall Firewall
	Hooked
	Traffic
	Connections
	// Unread are parts of the host that this process may not read, by name, and why.
	Unread map[string]string
}

// The parts that not everybody may read.
const (
	partPins     = "what is pinned"
	partGateways = "whether gateways answer"
	partFirewall = "the firewall"
	partFlows    = "the flow table"
	partHooks    = "the tc hooks"
	partFiles    = "the files of the network"
	partBalancer = "the services of ipvs"
	partOffloads = "the ipsec states"
	partTraffic  = "the counters"
	partKernel   = "what the kernel's bpf can do" // which only who may load programs can find out
)

// MissingProgram is a place that a program of replypath was taken from.
type MissingProgram struct {
	Interface string
	Direction attach.Direction
}

// missingPrograms returns the hooks of managed interfaces that lack our program, none where nothing is attached.
func (h *Host) missingPrograms() []MissingProgram {
	if !h.Attached {
		return nil
	}
	var missing []MissingProgram
	for _, i := range h.Interfaces {
		for _, direction := range attach.Directions {
			isOurs := func(hook Hook) bool {
				return hook.Interface == i.Index && hook.Egress == (direction == attach.Egress) && hook.Ours
			}
			if !slices.ContainsFunc(h.Hooks, isOurs) {
				missing = append(missing, MissingProgram{i.Name, direction})
			}
		}
	}
	return missing
}

// observed tells whether nothing is corrected on a managed interface.
func (h *Host) observed(name string) bool {
	return slices.ContainsFunc(h.Interfaces, func(i discover.Interface) bool {
		enforces, known := h.Enforcing[i.Index]
		return i.Name == name && known && !enforces
	})
}

// answersBySource returns the managed interface that a rule is for, nil where it
// does something else.
func (h *Host) answersBySource(r *Rule) *discover.Interface {
	if r.Table == 0 || r.Dst.IsValid() || r.hasMark() || r.IIF != "" || r.OIF != "" || r.Invert || r.Other {
		return nil
	}
	i := h.holderOf(r.Src)
	if i == nil || !h.leavesBy(r.Family, r.Table, i.Index) {
		return nil
	}
	return i
}

// familyName is that of unix.AF_INET and unix.AF_INET6.
func familyName(family int) string {
	if family == unix.AF_INET6 {
		return "ipv6"
	}
	return "ipv4"
}

// resolution is how the MAC of an address of a family is found.
func resolution(family int) string {
	if family == unix.AF_INET6 {
		return "neighbour discovery"
	}
	return "arp"
}
