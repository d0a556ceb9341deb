// SPDX-License-Identifier: Apache-2.0

package top

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"replypath/cmd/replypath/output"
	"replypath/loader/flows"
	"replypath/loader/top"
)

// table writes a look for people.
type table struct {
	*top.Look
	width int // of a line
}

func (t *table) text() string {
	p := &output.Page{Width: t.width, Prose: output.ProseWidth(t.width)}
	p.Wrapped("", t.summary())
	p.Line("")
	t.addInterfaces(p)
	p.Line("")
	t.addTables(p)
	p.Line("")
	t.addBusiest(p)
	return p.String()
}

func (t *table) summary() string {
	attached := slices.ContainsFunc(t.Interfaces, func(i top.Interface) bool { return i.Attached })
	text := fmt.Sprintf("%s  mode %s  daemon %s", t.Time.Local().Format("15:04:05"), t.Mode, output.Daemon(&t.Daemon, attached))
	if t.Seconds > 0 {
		text += fmt.Sprintf("  rates over %.1fs", t.Seconds)
	}
	return text
}

const uncorrectedColumn = "UNCORRECTED"

func (t *table) addInterfaces(p *output.Page) {
	total := top.Interface{Name: "total", To: t.Total.Corrected, Asymmetry: t.Total.Asymmetry}
	ofOne := func(none string, cell func(*top.Interface) string) func(*top.Interface) string {
		return func(i *top.Interface) string {
			if i.Index == 0 { // all together: what came from them is what went to them
				return none
			}
			return cell(i)
		}
	}
	output.AddTable(p, []output.Field[top.Interface]{
		output.NewField("INTERFACE", 0, func(i *top.Interface) string { return i.Name }),
		output.NewField("UP", 3, ofOne("", func(i *top.Interface) string { return output.YesNo(i.Up) })),
		output.NewField("ATTACHED", 4, ofOne("", attachedBy)),
		output.NewField(wide("CORRECTED"), 0, func(i *top.Interface) string { return t.rate(i.To.Packets, unitPackets) }),
		output.NewField(wide("BYTES"), 2, func(i *top.Interface) string { return t.rate(i.To.Bytes, unitBytes) }),
		output.NewField(wide("FROM"), 6, ofOne(wide(""), func(i *top.Interface) string { return t.rate(i.From.Packets, unitPackets) })),
		output.NewField(wide("BYTES"), 7, ofOne(wide(""), func(i *top.Interface) string { return t.rate(i.From.Bytes, unitBytes) })),
		output.NewField(wide("ASYM"), 5, func(i *top.Interface) string { return t.rate(i.Packets, unitPackets) }),
		output.NewField(uncorrectedColumn, 0, t.uncorrected),
		output.NewField("REASONS", 1, func(i *top.Interface) string {
			return listed(i.Uncorrected, max(reasonsWidth, t.width-widthBesideReasons))
		}),
	}, append(slices.Clone(t.Interfaces), total))
}

func attachedBy(i *top.Interface) string {
	if i.Mechanism != nil {
		return *i.Mechanism
	}
	return output.YesNo(i.Attached)
}

// uncorrected is how much was not corrected.
func (t *table) uncorrected(i *top.Interface) string {
	sum := 0.0
	for _, rate := range i.Uncorrected {
		sum += rate
	}
	return fmt.Sprintf("%*s", len(uncorrectedColumn), t.rate(sum, unitPackets))
}

const (
	// reasonsWidth is about as much as there is room for on the narrowest screens.
	reasonsWidth = 25
	// widthBesideReasons is what the other columns take where none has gone.
	widthBesideReasons = 105
)

// listed names reasons with their rates, the most frequent first: one, and the others
// for which there is room.
func listed(rates map[string]float64, room int) string {
	reasons := slices.SortedFunc(maps.Keys(rates), func(a, b string) int {
		return cmp.Or(cmp.Compare(rates[b], rates[a]), cmp.Compare(a, b))
	})
	text := ""
	for _, reason := range reasons {
		if rates[reason] == 0 {
			break
		}
		part := reason + " " + si(rates[reason], unitPackets)
		switch {
		case text == "":
			text = part
		case len(text)+len(", ")+len(part) > room:
			return text + ", ..."
		default:
			text += ", " + part
		}
	}
	return text
}

func (t *table) addTables(p *output.Page) {
	output.AddTable(p, []output.Field[flows.TableUsage]{
		output.NewField("TABLE", 0, func(t *flows.TableUsage) string { return t.Name }),
		output.NewField(wide("FLOWS"), 0, func(t *flows.TableUsage) string { return wide(fmt.Sprint(t.Flows)) }),
		output.NewField(wide("LASTING"), 0, func(t *flows.TableUsage) string { return wide(fmt.Sprint(t.Lasting)) }),
		output.NewField(wide("CAPACITY"), 0, func(t *flows.TableUsage) string { return wide(fmt.Sprint(t.Capacity)) }),
	}, t.FlowTables)
}

func (t *table) addBusiest(p *output.Page) {
	output.AddTable(p, []output.Field[top.Flow]{
		output.NewField(wide("RATE"), 1, func(f *top.Flow) string { return t.rate(f.Rate, unitPackets) }),
		output.NewField("PROTOCOL", 4, func(f *top.Flow) string { return f.Protocol }),
		output.NewField("PEER", 0, func(f *top.Flow) string { return output.Endpoint(f.Peer, f.PeerPort) }),
		output.NewField("SELF", 2, func(f *top.Flow) string { return output.Endpoint(f.Self, f.SelfPort) }),
		output.NewField("INTERFACE", 3, func(f *top.Flow) string { return output.OrEmpty(f.Interface) }),
		output.NewField("CORRECTED", 0, func(f *top.Flow) string { return fmt.Sprint(f.CorrectedPackets) }),
		output.NewField("AGE", 5, func(f *top.Flow) string { return output.Duration(f.AgeSeconds) }),
		output.NewField("STATE", 6, func(f *top.Flow) string { return f.State }),
		output.NewField("NEXT HOP", 7, func(f *top.Flow) string { return f.NextHop() }),
	}, t.Flows)
}

// Units of rates.
const (
	unitPackets = "pps"
	unitBytes   = "B/s"
)

// rateWidth keeps the columns where they are from one look to the next.
const rateWidth = len("999.9 k" + unitPackets)

func wide(text string) string { return fmt.Sprintf("%*s", rateWidth, output.OrDash(text)) }

// rate is a dash while nothing is known of an earlier look.
func (t *table) rate(perSecond float64, unit string) string {
	if t.Seconds <= 0 {
		return wide("")
	}
	return wide(si(perSecond, unit))
}

// si is a number with its unit, and with the prefix that leaves at most three digits
// before the point.
func si(number float64, unit string) string {
	prefix := ""
	for _, larger := range []string{"k", "M", "G", "T"} {
		if number < 999.95 { // which would be shown as 1000.0
			break
		}
		number, prefix = number/1000, larger
	}
	return fmt.Sprintf("%.1f %s%s", number, prefix, unit)
}
