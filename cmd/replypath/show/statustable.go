// SPDX-License-Identifier: Apache-2.0

package show

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"replypath/cmd/replypath/output"
	"replypath/loader/config"
	"replypath/loader/finding"
	"replypath/loader/flows"
	"replypath/loader/status"
)

// showStatus shows a status for people: the answer, the interfaces, and what is wrong or was changed. Whoever wants
// everything gets the rest as well, in lines as long as it takes.
func showStatus(p *output.Page, s *status.Status, everything bool) {
	if everything {
		p.Width, p.Prose = output.Unlimited, output.Unlimited
	}
	p.Line("%s", output.Printable(s.Summary))
	output.Section(p, interfaceFields(s.Interfaces, everything), s.Interfaces)
	output.Section(p, gatewayFields, gatewayRows(s.Interfaces))
	if !everything {
		p.Line("")
		p.Facts(daemonFact(s), flowsFact(s))
	}
	showWorst(p, &s.Health)
	showUncorrected(p, s.Counted.Uncorrected)
	showFeatures(p, s.Features, everything)
	showChanges(p, s)
	if everything {
		output.Section(p, []output.Field[status.Unmanaged]{
			output.NewField("NOT MANAGED", 0, func(u *status.Unmanaged) string { return u.Name }),
			output.NewField("REASON", 0, func(u *status.Unmanaged) string { return u.Reason }),
		}, s.Unmanaged)
		output.Section(p, []output.Field[status.Served]{
			output.NewField("SERVED WITHOUT AN INTERFACE", 0, func(a *status.Served) string { return a.Network }),
			output.NewField("SOURCE", 0, func(a *status.Served) string { return a.Source }),
		}, s.Addresses)
		output.Section(p, senderFields, s.Senders)
		if more := s.SenderCount - len(s.Senders); more > 0 {
			p.Line("and %d more", more)
		}
		p.Line("")
		showFacts(p, s)
	}
}

// senderFields are those of who brings requests, and by which way replies go back.
var senderFields = []output.Field[flows.Sender]{
	output.NewField("SENDER", 0, func(s *flows.Sender) string { return s.Interface + " " + output.OrEmpty(s.MAC) }),
	output.NewField("FOR", 0, func(s *flows.Sender) string { return s.Self }),
	output.NewField("WAY", 0, func(s *flows.Sender) string { return s.Way }),
	output.NewField("SETTLED", 0, func(s *flows.Sender) string { return output.YesNo(s.Settled) }),
	output.NewField("LEARNT", 0, func(s *flows.Sender) string { return s.LearntAt.Local().Format(time.RFC3339) }),
	output.NewField("HEARD", 0, func(s *flows.Sender) string { return s.HeardAt.Local().Format(time.RFC3339) }),
}

// showWorst shows what is wrong.
func showWorst(p *output.Page, h *finding.Health) {
	output.WrappedSection(p, "FINDINGS", h.Worst(), func(f *finding.Finding) string { return string(f.Severity) + ": " + f.Found })
}

// interfaceFields are those of the interfaces: the host model where one has another than most hosts, the role where one only
// catches replies.
func interfaceFields(list []status.Interface, everything bool) []output.Field[status.Interface] {
	fields := []output.Field[status.Interface]{
		output.NewField("INTERFACE", 0, func(i *status.Interface) string { return i.Name }),
		output.NewField("UP", 0, func(i *status.Interface) string { return output.YesNo(i.Up) }),
		output.NewField("ATTACHED", 0, attachedBy),
		output.NewField("MODE", 0, func(i *status.Interface) string { return i.Mode }),
		output.NewField("NEXT HOP", 2, func(i *status.Interface) string { return i.NextHop }),
		output.NewField("RP_FILTER", 3, rpFilter),
		output.NewField("FLOWS", 1, func(i *status.Interface) string { return strconv.Itoa(i.Flows) }),
	}
	if slices.ContainsFunc(list, func(i status.Interface) bool { return !isWeak(i.HostModel) }) {
		fields = slices.Insert(fields, 4, output.NewField("HOST MODEL", 0, func(i *status.Interface) string { return i.HostModel }))
	}
	if slices.ContainsFunc(list, func(i status.Interface) bool { return i.Catches() }) {
		fields = slices.Insert(fields, 1, output.NewField("ROLE", 0, func(i *status.Interface) string { return i.Role }))
	}
	if everything {
		fields = append(fields, output.NewField("INDEX", 4, func(i *status.Interface) string { return strconv.Itoa(i.Index) }))
	}
	return fields
}

// isWeak tells of the host model that hosts have by default.
func isWeak(hostModel string) bool {
	return hostModel == "" || hostModel == string(config.HostModelWeak)
}

// attachedBy is how programs are attached to an interface, or that none are.
func attachedBy(i *status.Interface) string {
	if i.Attached {
		return output.OrEmpty(i.Mechanism)
	}
	return output.YesNo(false)
}

func rpFilter(i *status.Interface) string {
	if i.RPFilter == nil {
		return ""
	}
	return strconv.Itoa(*i.RPFilter)
}

// gatewayRow is a gateway of an interface, or says that it has none.
type gatewayRow struct{ device, address, mac, state string }

func gatewayRows(list []status.Interface) (rows []gatewayRow) {
	for _, i := range list {
		if len(i.Gateways) == 0 && !i.Catches() {
			rows = append(rows, gatewayRow{device: i.Name, address: "none"})
		}
		for _, g := range i.Gateways {
			rows = append(rows, gatewayRow{i.Name, g.Address, output.OrEmpty(g.MAC), g.State})
		}
	}
	return rows
}

var gatewayFields = []output.Field[gatewayRow]{
	output.NewField("INTERFACE", 0, func(r *gatewayRow) string { return r.device }),
	output.NewField("GATEWAY", 0, func(r *gatewayRow) string { return r.address }),
	output.NewField("MAC", 1, func(r *gatewayRow) string { return r.mac }),
	output.NewField("STATE", 0, func(r *gatewayRow) string { return r.state }),
}

// showUncorrected shows how many packets of replies went as routed, by reason.
func showUncorrected(p *output.Page, packets map[string]uint64) {
	output.Section(p, []output.Field[string]{
		output.NewField("NOT CORRECTED", 0, func(reason *string) string { return *reason }),
		output.NewField("PACKETS", 0, func(reason *string) string { return strconv.FormatUint(packets[*reason], 10) }),
	}, slices.Sorted(maps.Keys(packets)))
}

// showFeatures shows the features of the kernel that are missing, or all.
func showFeatures(p *output.Page, all []status.Feature, everything bool) {
	if everything {
		output.Section(p, []output.Field[status.Feature]{
			output.NewField("FEATURE", 0, func(f *status.Feature) string { return f.Name }),
			output.NewField("AVAILABLE", 0, func(f *status.Feature) string { return output.YesNo(f.Available) }),
			output.NewField("EFFECT", 0, func(f *status.Feature) string { return f.Effect }),
		}, all)
		return
	}
	missing := slices.DeleteFunc(slices.Clone(all), func(f status.Feature) bool { return f.Available })
	output.WrappedSection(p, "MISSING FEATURES", missing, func(f *status.Feature) string { return f.Name + ": " + f.Effect })
}

// changeFields are those of what was changed on the host, or what enforcing would change.
func changeFields(title string) []output.Field[status.HostChange] {
	return []output.Field[status.HostChange]{
		output.NewField(title, 0, func(c *status.HostChange) string { return c.Object }),
		output.NewField("BEFORE", 0, func(c *status.HostChange) string { return c.Before }),
		output.NewField("AFTER", 0, func(c *status.HostChange) string { return c.After }),
	}
}

// showChanges shows what was changed on the host, and where there is room how to undo it by hand; then what enforcing would
// change.
func showChanges(p *output.Page, s *status.Status) {
	undo := output.NewField("UNDO", 1, func(c *status.HostChange) string { return c.Undo })
	output.Section(p, append(changeFields("CHANGED ON THE HOST"), undo), s.HostChanges)
	var changes []status.HostChange
	for _, c := range s.WouldChange {
		changes = append(changes, status.HostChange{Object: c.Object, Before: c.Before, After: c.After})
	}
	output.Section(p, changeFields("ENFORCING WOULD CHANGE"), changes)
}

// showFacts shows what there is one of.
func showFacts(p *output.Page, s *status.Status) {
	facts := [][2]string{
		{"mode", output.OrDash(s.Mode)},
		daemonFact(s),
	}
	if s.TrialUntil != nil {
		until := "unless it is confirmed, everything is taken back at " + s.TrialUntil.Local().Format(time.RFC3339)
		facts = append(facts, [2]string{"trial", until})
	}
	p.Facts(append(facts,
		[2]string{"configuration", configuration(&s.Config)},
		flowsFact(s),
		[2]string{"pins", output.OrDash(s.PinDir)},
	)...)
}

func daemonFact(s *status.Status) [2]string {
	return [2]string{"daemon", output.Daemon(&s.Daemon, anyAttached(s.Interfaces))}
}

func flowsFact(s *status.Status) [2]string {
	return [2]string{"flows", fmt.Sprintf("%d of %d", s.Flows.Count, s.Flows.Capacity)}
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

func anyAttached(list []status.Interface) bool {
	return slices.ContainsFunc(list, func(i status.Interface) bool { return i.Attached })
}
