package show

import (
	"fmt"
	"io"
	"strconv"
	"text/tabwriter"
	"time"

	"replypath/cmd/replypath/output"
)

// summary is what there is one of.
func (s *statusTable) summary(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintf(t, "mode\t%s\n", output.OrDash(s.Mode))
	fmt.Fprintf(t, "daemon\t%s\n", output.Daemon(&s.Daemon, anyAttached(s.Interfaces)))
	if s.TrialUntil != nil {
		fmt.Fprintf(t, "trial\tunless it is confirmed, everything is taken back at %s\n", s.TrialUntil.Local().Format(time.RFC3339))
	}
	fmt.Fprintf(t, "configuration\t%s\n", s.configuration())
	fmt.Fprintf(t, "flows\t%d of %d\n", s.Flows.Count, s.Flows.Capacity)
	fmt.Fprintf(t, "pins\t%s\n", output.OrDash(s.PinDir))
	return t.Flush()
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
