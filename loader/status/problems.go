// SPDX-License-Identifier: Apache-2.0

package status

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"replypath/loader/config"
	"replypath/loader/nexthop"
)

// Diagnose lists what keeps replies from being corrected, or may do so, what weighs most first.
func (s *Status) Diagnose() []Problem {
	list := []Problem{}
	if !s.isAttached() {
		list = append(list, Problem{Problem: nothingAttached, Detail: new("replypath run attaches, replypath check says to what")})
	}
	for _, of := range []func(*Interface) []Problem{notAttached, down, s.gatewayProblems, s.strictFilter} {
		for n := range s.Interfaces {
			list = append(list, of(&s.Interfaces[n])...)
		}
	}
	list = slices.Concat(list, s.failing(), s.fullTables())
	if !s.Daemon.Running && s.isAttached() {
		list = append(list, Problem{Problem: "no daemon", Detail: new("what is attached goes on, but follows no change: start replypath run")})
	}
	if s.Config.Error != nil {
		const refused = "a later configuration was refused"
		list = append(list, Problem{Problem: refused + ", the old one is in force", Detail: s.Config.Error, short: refused})
	}
	for _, message := range s.Errors {
		list = append(list, problemOf(message, s.Daemon.Running))
	}
	return list
}

// nothingAttached is the problem of a host on which nothing is done.
const nothingAttached = "nothing is attached"

func problem(format string, args ...any) []Problem {
	return []Problem{{Problem: fmt.Sprintf(format, args...)}}
}

func notAttached(i *Interface) []Problem {
	switch {
	case i.Attached:
		return nil
	case !i.Up:
		return problem("%s is down and not attached", i.Name)
	}
	return problem("%s is not attached", i.Name)
}

func down(i *Interface) []Problem {
	if i.Up || !i.Attached {
		return nil
	}
	return problem("%s is down", i.Name)
}

// gatewayProblems are those of the gateways of an interface.
func (s *Status) gatewayProblems(i *Interface) (list []Problem) {
	if i.NextHop == string(config.NextHopGateway) && !i.headerless && len(i.Gateways) == 0 {
		list = problem("%s has no gateway", i.Name)
	}
	for _, g := range i.Gateways {
		what := ""
		switch {
		case g.State == StateHeld || g.State == nexthop.StateFailed:
			what = "is silent"
		case s.Daemon.Running && (g.State == nexthop.StateNone || g.State == nexthop.StateIncomplete):
			what = "has not answered yet"
		default:
			continue
		}
		list = append(list, Problem{
			Problem: fmt.Sprintf("gateway %s of %s %s", g.Address, i.Name, what), short: fmt.Sprintf("a gateway of %s %s", i.Name, what),
		})
	}
	return list
}

// strictFilter is what drops questions before anybody can reply. Where the daemon tells of it as well, that is enough.
func (s *Status) strictFilter(i *Interface) []Problem {
	const strict = 1
	told := slices.ContainsFunc(s.Errors, func(message string) bool {
		return strings.HasPrefix(message, i.Name+" ") && strings.Contains(message, "rp_filter")
	})
	if !i.Attached || i.RPFilter == nil || *i.RPFilter != strict || told {
		return nil
	}
	return []Problem{{
		Problem: "rp_filter of " + i.Name + " is strict",
		Detail:  new("the kernel drops what arrives there from peers behind another interface: replypath doctor says how to mend it"),
	}}
}

// failing is what became of replies of late.
func (s *Status) failing() (list []Problem) {
	if lost := s.Counted.Failing.Lost; lost > 0 {
		list = append(list, Problem{
			Problem: "replies were lost", Detail: new(counted(lost, "packet") + " moved and never seen leaving: replypath trace shows them"),
		})
	}
	if uncorrected := s.Counted.Failing.Uncorrected; uncorrected > 0 {
		list = append(list, Problem{
			Problem: "replies not corrected",
			Detail:  new(counted(uncorrected, "packet") + " left as routed: NOT CORRECTED says why, replypath trace shows them"),
		})
	}
	return list
}

// nearlyFull is how much of a table, in percent, is too much.
const nearlyFull = 95

// fullTables are the flow tables that have no room, or had none of late.
func (s *Status) fullTables() (list []Problem) {
	const remedy = ": raise flow_table.max_entries"
	for _, t := range s.Flows.Tables {
		if t.Capacity > 0 && t.Flows*100 >= t.Capacity*nearlyFull {
			list = append(list, Problem{
				Problem: fmt.Sprintf("flow table %s is full", t.Name), Detail: new(fmt.Sprintf("%d of %d flows%s", t.Flows, t.Capacity, remedy)),
			})
		}
	}
	if n := s.Counted.NotEntered; n > 0 {
		list = append(list, Problem{
			Problem: "flows were not recorded", Detail: new(counted(n, "flow") + " found no place in a table" + remedy),
		})
	}
	return list
}

// anError stands for a message of which no part is short enough to say it in a few words.
const anError = "an error"

// fewWords is how many characters say something in a few words.
const fewWords = 40

// problemOf is that of a message of the daemon: its beginning, where that says something. That of a daemon that has ended
// need not be so any more.
func problemOf(message string, running bool) Problem {
	begin, _, _ := strings.Cut(message, ": ")
	isShort := utf8.RuneCountInString(begin) <= fewWords && strings.Contains(begin, " ")
	switch {
	case !running && isShort && begin == message:
		return Problem{Problem: message + ", when the daemon ended"}
	case !running && isShort:
		return Problem{Problem: begin + ", when the daemon ended", Detail: &message}
	case !running:
		return Problem{Problem: anError + ", when the daemon ended", Detail: &message}
	case utf8.RuneCountInString(message) <= fewWords:
		return Problem{Problem: message}
	case !isShort:
		begin = anError
	}
	return Problem{Problem: begin, Detail: &message}
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

// counted is a number of things.
func counted(n uint64, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}
