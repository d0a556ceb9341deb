// SPDX-License-Identifier: Apache-2.0

package status

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"replypath/loader/config"
)

// summaryWidth is how long the answer in a line may become.
const summaryWidth = 80

// fewNames is how many interfaces are named in the answer. More of them are counted.
const fewNames = 3

// Conclude draws the conclusions from what was read: the problems, and the answer in a line.
func (s *Status) Conclude(now time.Time) {
	s.Problems = s.Diagnose()
	s.Summary = s.summary(now)
}

// summary says in a line whether all is well, what is done, and what came of it. What matters least is left out where it
// does not fit.
func (s *Status) summary(now time.Time) string {
	text, begin, rest := "ok: ", s.activity(), [][]string(nil)
	switch {
	case len(s.Problems) > 0:
		text, begin, rest = "warning: ", s.worst(), [][]string{{begin}}
	case !s.isAttached():
		text = "warning: "
	}
	if s.TrialUntil != nil {
		rest = append(rest, []string{"on trial until " + moment(*s.TrialUntil, now)})
	}
	if s.isAttached() {
		rest = append(rest, s.outcomes(now))
	}
	return join(text+begin, rest, summaryWidth)
}

// join puts parts behind a text, each in the first of its forms that fits, or not at all.
func join(text string, parts [][]string, width int) string {
	for _, forms := range parts {
		for _, form := range forms {
			if longer := text + "; " + form; utf8.RuneCountInString(longer) <= width {
				text = longer
				break
			}
		}
	}
	return text
}

// worst names the first of the problems, and how many there are beside it.
func (s *Status) worst() string {
	text := s.Problems[0].Problem
	if more := len(s.Problems) - 1; more > 0 {
		text += ", " + counted(uint64(more), "more problem")
	}
	return text
}

// activity is what is done on which interfaces, by their modes in force.
func (s *Status) activity() string {
	var enforcing, observing []string
	for n := range s.Interfaces {
		i := &s.Interfaces[n]
		switch {
		case !i.Attached:
		case i.Mode == string(config.ModeEnforce):
			enforcing = append(enforcing, i.Name)
		default:
			observing = append(observing, i.Name)
		}
	}
	var parts []string
	if len(enforcing) > 0 {
		parts = append(parts, "enforcing on "+names(enforcing))
	}
	if len(observing) > 0 {
		parts = append(parts, "observing on "+names(observing))
	}
	if len(parts) == 0 {
		return "nothing is attached"
	}
	return strings.Join(parts, ", ")
}

func names(list []string) string {
	if len(list) > fewNames {
		return fmt.Sprintf("%d interfaces", len(list))
	}
	return strings.Join(list, ", ")
}

// outcomes is what became of the replies, in forms that become shorter.
func (s *Status) outcomes(now time.Time) []string {
	replies := s.results("no replies", "1 reply", "%d replies")
	short := s.results("none", "1", "%d")
	forms := []string{replies, short}
	if s.Counted.Since != nil {
		since := ", since " + moment(*s.Counted.Since, now)
		forms = []string{replies + since, replies, short + since, short}
	}
	return forms
}

// results are the numbers of replies that were corrected, or would be, and lost. The first of them is said in these words.
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
	enforces, observes := s.modes()
	if !enforces && c.Corrected == 0 && c.Lost == 0 {
		return first(c.WouldCorrect) + " would be corrected"
	}
	text := first(c.Corrected) + " corrected"
	if observes {
		text += fmt.Sprintf(", %d would be", c.WouldCorrect)
	}
	if c.Lost > 0 {
		return text + fmt.Sprintf(", %d lost", c.Lost)
	}
	return text + ", none lost"
}

// modes tells which ones are in force on interfaces that are attached.
func (s *Status) modes() (enforces, observes bool) {
	for n := range s.Interfaces {
		if i := &s.Interfaces[n]; i.Attached {
			enforced := i.Mode == string(config.ModeEnforce)
			enforces, observes = enforces || enforced, observes || !enforced
		}
	}
	return enforces, observes
}

// moment is the time of day, or the day where that is another one.
func moment(at, now time.Time) string {
	at, now = at.Local(), now.Local()
	if at.Format(time.DateOnly) == now.Format(time.DateOnly) {
		return at.Format("15:04")
	}
	return at.Format(time.DateOnly)
}
