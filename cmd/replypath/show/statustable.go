package show

import (
	"fmt"
	"strconv"
	"time"

	"replypath/cmd/replypath/output"
)

// summary is what there is one of.
func (s *statusTable) summary(p *output.Page) {
	facts := [][2]string{
		{"mode", output.OrDash(s.Mode)},
		{"daemon", output.Daemon(&s.Daemon, anyAttached(s.Interfaces))},
	}
	if s.TrialUntil != nil {
		until := "unless it is confirmed, everything is taken back at " + s.TrialUntil.Local().Format(time.RFC3339)
		facts = append(facts, [2]string{"trial", until})
	}
	p.Facts(append(facts,
		[2]string{"configuration", s.configuration()},
		[2]string{"flows", fmt.Sprintf("%d of %d", s.Flows.Count, s.Flows.Capacity)},
		[2]string{"pins", output.OrDash(s.PinDir)},
	)...)
}

func (s *statusTable) configuration() string {
	text := "defaults"
	if s.Config.Path != nil {
		text = *s.Config.Path
	}
	if s.Config.LoadedAt != nil {
		text += ", loaded at " + s.Config.LoadedAt.Local().Format(time.RFC3339)
	}
	if s.Config.Error != nil {
		text += "; a later one was refused: " + *s.Config.Error
	}
	return text
}

func (s *statusTable) interfaces() (header []string, rows [][]string) {
	for _, i := range s.Interfaces {
		rpFilter := ""
		if i.RPFilter != nil {
			rpFilter = strconv.Itoa(*i.RPFilter)
		}
		rows = append(rows, []string{i.Name, strconv.Itoa(i.Index), output.YesNo(i.Up), output.YesNo(i.Attached),
			output.OrEmpty(i.Mechanism), i.Mode, i.NextHop, rpFilter})
	}
	return []string{"INTERFACE", "INDEX", "UP", "ATTACHED", "BY", "MODE", "NEXT HOP", "RP_FILTER"}, rows
}

func (s *statusTable) gateways() (header []string, rows [][]string) {
	for _, i := range s.Interfaces {
		for _, gateway := range i.Gateways {
			rows = append(rows, []string{i.Name, gateway.Address, output.OrEmpty(gateway.MAC), gateway.State})
		}
	}
	return []string{"INTERFACE", "GATEWAY", "MAC", "STATE"}, rows
}

func (s *statusTable) unmanaged() (header []string, rows [][]string) {
	for _, u := range s.Unmanaged {
		rows = append(rows, []string{u.Name, u.Reason})
	}
	return []string{"NOT MANAGED", "REASON"}, rows
}

func (s *statusTable) features() (header []string, rows [][]string) {
	for _, f := range s.Features {
		rows = append(rows, []string{f.Name, output.YesNo(f.Available), f.Effect})
	}
	return []string{"FEATURE", "AVAILABLE", "EFFECT"}, rows
}

func (s *statusTable) hostChanges() (header []string, rows [][]string) {
	for _, c := range s.HostChanges {
		rows = append(rows, []string{c.Object, c.Before, c.After, c.Undo})
	}
	return []string{"CHANGED ON THE HOST", "BEFORE", "AFTER", "UNDO"}, rows
}

func (s *statusTable) wouldChange() (header []string, rows [][]string) {
	for _, c := range s.WouldChange {
		rows = append(rows, []string{c.Object, c.Before, c.After})
	}
	return []string{"ENFORCING WOULD CHANGE", "BEFORE", "AFTER"}, rows
}

func (s *statusTable) errors() (header []string, rows [][]string) {
	for _, e := range s.Errors {
		rows = append(rows, []string{e})
	}
	return []string{"ERRORS, TRIED AGAIN"}, rows
}
