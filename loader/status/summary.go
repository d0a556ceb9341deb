// SPDX-License-Identifier: Apache-2.0

package status

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"replypath/loader/config"
	"replypath/loader/finding"
	"replypath/loader/flows"
)

// summaryWidth is how long the answer in a line may become.
const summaryWidth = 120

// fewNames is how many interfaces are named in the answer. More of them are counted.
const fewNames = 3

// Conclude says in a line whether all is well, what is done, and what came of it. Where nothing is attached that is what is wrong.
func (s *Status) Conclude(now time.Time) {
	if !s.isAttached() {
		s.Health.State = finding.Failed
	}
	s.Summary = s.summary(now)
}

// summary says what matters least in fewer words, or leaves it out, where it does not fit.
func (s *Status) summary(now time.Time) string {
	parts := [][]string{s.seen(), s.activity()}
	text := string(s.Health.State)
	if s.Health.State != finding.Well {
		parts = [][]string{s.worst()}
		if s.isAttached() {
			parts = append(parts, s.activity())
		}
	}
	if s.TrialUntil != nil {
		parts = append(parts, []string{"on trial until " + finding.Moment(*s.TrialUntil, now)})
	}
	if s.isAttached() {
		parts = append(parts, s.outcomes(now))
	}
	line, _ := join(text, ": ", parts)
	return line
}

// join puts parts behind a text, each in one of its forms, or not at all where none fits, and tells how many there are. Of
// forms that fit it takes the first that leaves room for most of what is behind.
func join(text, separator string, parts [][]string) (line string, joined int) {
	if len(parts) == 0 {
		return text, 0
	}
	for _, form := range parts[0] {
		longer := text + separator + form
		if utf8.RuneCountInString(longer) > summaryWidth {
			continue
		}
		if whole, behind := join(longer, "; ", parts[1:]); behind+1 > joined {
			line, joined = whole, behind+1
		}
	}
	if joined == 0 {
		return join(text, separator, parts[1:])
	}
	return line, joined
}

// cut is the beginning of a text that has no room.
func cut(text string, room int) string {
	const gap = "..."
	if utf8.RuneCountInString(text) <= room {
		return text
	}
	return string([]rune(text)[:room-len(gap)]) + gap
}

// worst says the first of the findings, and how many there are beside it, in forms that become shorter.
func (s *Status) worst() []string {
	first, more := s.first()
	room := summaryWidth - len(string(s.Health.State)+": ")
	fewest := fmt.Sprintf(", %d more", more)
	if length := utf8.RuneCountInString(first); more == 0 || length <= room && length+len(fewest) > room {
		return []string{cut(first, room)}
	}
	first = cut(first, room-len(fewest))
	return []string{first + ", " + finding.Counted(more, "more finding", "more findings"), first + fewest, first}
}

// first is what is worst in a few words, and how many findings there are beside it.
func (s *Status) first() (words string, more int) {
	all := s.Health.Worst()
	if s.isAttached() {
		return all[0].Brief(), len(all) - 1
	}
	said := func(f finding.Finding) bool { return strings.HasPrefix(f.Found, nothingAttached) }
	if at := slices.IndexFunc(s.Health.Findings, said); at >= 0 {
		clauses := strings.SplitN(s.Health.Findings[at].Found, ": ", 3)
		words = strings.Join(clauses[:min(len(clauses), 2)], ": ")
	}
	return cmp.Or(words, nothingAttached), len(slices.DeleteFunc(all, said))
}

// nothingAttached is how `attached` of doctor begins where nothing is.
const nothingAttached = "nothing is attached"

// activity is what is done on which interfaces, by their modes in force, in forms that become shorter.
func (s *Status) activity() []string {
	var enforcing, observing []string
	for n := range s.Interfaces {
		i := &s.Interfaces[n]
		switch {
		case !i.records():
		case i.Mode == string(config.ModeEnforce):
			enforcing = append(enforcing, i.Name)
		default:
			observing = append(observing, i.Name)
		}
	}
	var forms []string
	for _, say := range []func([]string) string{names, number} {
		var parts []string
		if len(enforcing) > 0 {
			parts = append(parts, "enforcing on "+say(enforcing))
		}
		if len(observing) > 0 {
			parts = append(parts, "observing on "+say(observing))
		}
		forms = append(forms, strings.Join(parts, ", "))
	}
	return forms
}

func number(list []string) string { return fmt.Sprint(len(list)) }

func names(list []string) string {
	if len(list) > fewNames {
		return fmt.Sprintf("%d interfaces", len(list))
	}
	return strings.Join(list, ", ")
}

// seen is what an ok rests on: how many of the requests of late were answered rightly.
func (s *Status) seen() []string {
	var all flows.Recent
	for n := range s.Interfaces {
		all.Add(&s.Interfaces[n].Recent)
	}
	within := fmt.Sprintf("in the last %d minutes", flows.Window/time.Minute)
	switch {
	case all.All() == 0 && all.Silent > 0:
		return []string{"no requests that anybody answers " + within}
	case all.All() == 0:
		return []string{"no requests " + within}
	}
	how := "seen leaving rightly"
	if enforces, _ := s.modes(); !enforces {
		how = "went as enforcing would send them"
	}
	return []string{fmt.Sprintf("%d of %d replies %s %s", all.Right, all.All(), how, within)}
}

// outcomes is what became of the replies, in forms that become shorter.
func (s *Status) outcomes(now time.Time) []string {
	replies := s.results("no replies", "1 reply", "%d replies")
	short := s.results("0", "1", "%d")
	forms := []string{replies, short}
	if s.Counted.Since != nil {
		since := ", since " + finding.Moment(*s.Counted.Since, now)
		forms = []string{replies + since, replies, short + since, short}
	}
	return append(forms, strings.TrimSuffix(short, noneLost))
}

// noneLost is at the end of what became of the replies.
const noneLost = ", none lost"

// results are the numbers of replies, each a packet, that were corrected, or only observed to be asymmetric, and lost. The
// first of them is said in these words.
func (s *Status) results(none, one, many string) string {
	first := func(n uint64) string {
		switch n {
		case 0:
			return none
		case 1:
			return one
		}
		return fmt.Sprintf(many, n)
	}
	c := &s.Counted
	uncorrected := c.Unmeant()
	enforces, observes := s.modes()
	if !enforces && c.Corrected == 0 && c.Lost == 0 && uncorrected == 0 {
		return first(c.WouldCorrect) + " asymmetric"
	}
	text := first(c.Corrected) + " corrected"
	if uncorrected > 0 {
		text += fmt.Sprintf(", %d not corrected", uncorrected)
	}
	if observes {
		text += fmt.Sprintf(", %d observed", c.WouldCorrect)
	}
	if c.Lost > 0 {
		return text + fmt.Sprintf(", %d lost", c.Lost)
	}
	if s.Health.State == finding.Failed {
		return text // what is lost need not be counted
	}
	return text + noneLost
}

// modes tells which ones are in force on interfaces that are attached.
func (s *Status) modes() (enforces, observes bool) {
	for n := range s.Interfaces {
		if i := &s.Interfaces[n]; i.records() {
			enforced := i.Mode == string(config.ModeEnforce)
			enforces, observes = enforces || enforced, observes || !enforced
		}
	}
	return enforces, observes
}

// records tells whether the interface is managed and attached.
func (i *Interface) records() bool { return i.Attached && !i.Catches() }

func (s *Status) isAttached() bool {
	return slices.ContainsFunc(s.Interfaces, func(i Interface) bool { return i.records() })
}
