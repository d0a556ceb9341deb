// SPDX-License-Identifier: Apache-2.0

package show

import (
	"fmt"
	"slices"
	"strconv"
	"time"

	"replypath/cmd/replypath/output"
	"replypath/loader/status"
)

// showStatus shows a status for people.
func showStatus(p *output.Page, s *status.Status) {
	showSummary(p, s)
	output.Section(p, []string{"INTERFACE", "INDEX", "UP", "ATTACHED", "BY", "MODE", "NEXT HOP", "RP_FILTER"}, s.Interfaces, interfaceRow)
	var gateways [][]string
	for _, i := range s.Interfaces {
		for _, g := range i.Gateways {
			gateways = append(gateways, []string{i.Name, g.Address, output.OrEmpty(g.MAC), g.State})
		}
	}
	output.Section(p, []string{"INTERFACE", "GATEWAY", "MAC", "STATE"}, gateways, func(row *[]string) []string { return *row })
	output.Section(p, []string{"NOT MANAGED", "REASON"}, s.Unmanaged, func(u *status.Unmanaged) []string {
		return []string{u.Name, u.Reason}
	})
	output.Section(p, []string{"FEATURE", "AVAILABLE", "EFFECT"}, s.Features, func(f *status.Feature) []string {
		return []string{f.Name, output.YesNo(f.Available), f.Effect}
	})
	output.Section(p, changeHeader, s.HostChanges, changeRow)
	output.Section(p, []string{"ENFORCING WOULD CHANGE", "BEFORE", "AFTER"}, s.WouldChange, func(c *status.WouldChange) []string {
		return []string{c.Object, c.Before, c.After}
	})
	output.Section(p, []string{"ERRORS, TRIED AGAIN"}, s.Errors, func(e *string) []string { return []string{*e} })
}

// showSummary shows what there is one of.
func showSummary(p *output.Page, s *status.Status) {
	facts := [][2]string{
		{"mode", output.OrDash(s.Mode)},
		{"daemon", output.Daemon(&s.Daemon, anyAttached(s.Interfaces))},
	}
	if s.TrialUntil != nil {
		until := "unless it is confirmed, everything is taken back at " + s.TrialUntil.Local().Format(time.RFC3339)
		facts = append(facts, [2]string{"trial", until})
	}
	p.Facts(append(facts,
		[2]string{"configuration", configuration(&s.Config)},
		[2]string{"flows", fmt.Sprintf("%d of %d", s.Flows.Count, s.Flows.Capacity)},
		[2]string{"pins", output.OrDash(s.PinDir)},
	)...)
}

func configuration(c *status.Config) string {
	text := "defaults"
	if c.Path != nil {
		text = *c.Path
	}
	if c.LoadedAt != nil {
		text += ", loaded at " + c.LoadedAt.Local().Format(time.RFC3339)
	}
	if c.Error != nil {
		text += "; a later one was refused: " + *c.Error
	}
	return text
}

func interfaceRow(i *status.Interface) []string {
	rpFilter := ""
	if i.RPFilter != nil {
		rpFilter = strconv.Itoa(*i.RPFilter)
	}
	return []string{i.Name, strconv.Itoa(i.Index), output.YesNo(i.Up), output.YesNo(i.Attached),
		output.OrEmpty(i.Mechanism), i.Mode, i.NextHop, rpFilter}
}

var changeHeader = []string{"CHANGED ON THE HOST", "BEFORE", "AFTER", "UNDO"}

func changeRow(c *status.HostChange) []string { return []string{c.Object, c.Before, c.After, c.Undo} }

func anyAttached(list []status.Interface) bool {
	return slices.ContainsFunc(list, func(i status.Interface) bool { return i.Attached })
}
