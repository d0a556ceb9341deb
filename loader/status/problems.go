// SPDX-License-Identifier: Apache-2.0

package status

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"replypath/loader/config"
	"replypath/loader/nexthop"
)

// Diagnose lists what keeps replies from being corrected, or may do so, what weighs most first.
func (s *Status) Diagnose() []Problem {
	list := []Problem{}
	if s.Config.Error != nil {
		list = append(list, Problem{"the configuration was refused", s.Config.Error})
	}
	for n := range s.Interfaces {
		list = append(list, s.Interfaces[n].problems(s.Daemon.Running)...)
	}
	if s.Counted.Lossy > 0 {
		list = append(list, Problem{"replies were lost", new(counted(s.Counted.Lossy, "packet") +
			" moved and never seen leaving: replypath trace shows them")})
	}
	if !s.Daemon.Running && s.isAttached() {
		list = append(list, Problem{"no daemon", new("what is attached goes on, but follows no change: start replypath run")})
	}
	for _, message := range s.Errors {
		list = append(list, problemOf(message))
	}
	return list
}

// anError stands for a message of which no part is short enough to say it in a few words.
const anError = "an error"

// fewWords is how many characters say something in a few words.
const fewWords = 40

// problemOf is that of a message of the daemon: its beginning, where that says something.
func problemOf(message string) Problem {
	if utf8.RuneCountInString(message) <= fewWords {
		return Problem{Problem: message}
	}
	begin, _, _ := strings.Cut(message, ": ")
	if utf8.RuneCountInString(begin) > fewWords || !strings.Contains(begin, " ") {
		begin = anError
	}
	return Problem{begin, &message}
}

// Text is all that is said of a problem.
func (p *Problem) Text() string {
	switch {
	case p.Detail == nil:
		return p.Problem
	case p.Problem == anError || strings.HasPrefix(*p.Detail, p.Problem):
		return *p.Detail
	}
	return p.Problem + ": " + *p.Detail
}

func (s *Status) isAttached() bool {
	for n := range s.Interfaces {
		if s.Interfaces[n].Attached {
			return true
		}
	}
	return false
}

// problems are those of one interface.
func (i *Interface) problems(running bool) (list []Problem) {
	note := func(format string, args ...any) { list = append(list, Problem{Problem: fmt.Sprintf(format, args...)}) }
	switch {
	case !i.Attached && !i.Up:
		note("%s is down and not attached", i.Name)
	case !i.Attached:
		note("%s is not attached", i.Name)
	case !i.Up:
		note("%s is down", i.Name)
	}
	if i.NextHop == string(config.NextHopGateway) && !i.headerless && len(i.Gateways) == 0 {
		note("%s has no gateway", i.Name)
	}
	for _, g := range i.Gateways {
		switch {
		case g.State == StateHeld || g.State == nexthop.StateFailed:
			note("gateway %s of %s is silent", g.Address, i.Name)
		case running && (g.State == nexthop.StateNone || g.State == nexthop.StateIncomplete):
			note("gateway %s of %s has not answered yet", g.Address, i.Name)
		}
	}
	return list
}

// counted is a number of things.
func counted(n uint64, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}
