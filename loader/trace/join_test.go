// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"fmt"
	"strings"
	"testing"

	"replypath/bpf"
)

// text shows passages as "kind cpu", with a + for what was seen leaving.
func text(list []passage) string {
	var words []string
	for _, p := range list {
		word := "in"
		switch {
		case isMoved(p.DatapathTraceEvent):
			word = "move"
		case p.Kind == kindOut && p.OutIfindex == 0:
			word = "return"
		case p.Kind == kindOut:
			word = "pass"
		}
		word = fmt.Sprintf("%s %d", word, p.Cpu)
		if p.left {
			word += "+"
		}
		words = append(words, word)
	}
	return strings.Join(words, ", ")
}

// A packet that is moved is shown once it was seen leaving, or once it cannot be any more.
func TestJoin(t *testing.T) {
	type e = *bpf.DatapathTraceEvent
	event := func(kind uint8, out uint32) func(cpu uint32) e {
		return func(cpu uint32) e {
			return &bpf.DatapathTraceEvent{Kind: kind, Cpu: cpu, Ifindex: 2, OutIfindex: out}
		}
	}
	in, left, moved, passed, returned := event(kindIn, 0), event(kindLeft, 0), event(kindOut, 3), event(kindOut, 2), event(kindOut, 0)
	for _, test := range []struct {
		name   string
		events []e
		want   string
	}{
		{"moved", []e{moved(0), left(0)}, "move 0+"},
		{"passed", []e{passed(0), in(0)}, "pass 0+, in 0"},
		{"two cpus", []e{moved(0), moved(1), left(1), left(0)}, "move 1+, move 0+"},
		{"not seen, another packet", []e{moved(0), moved(0), left(0)}, "move 0, move 0+"},
		{"not seen, a packet in", []e{moved(0), in(0)}, "move 0, in 0"},
		{"not seen, a packet on another cpu", []e{moved(0), in(1), left(0)}, "in 1, move 0+"},
		{"not seen, nothing else", []e{moved(0), nil}, "move 0"},
		{"not seen, a packet that leaves", []e{moved(0), passed(0)}, "move 0, pass 0+"},
		{"told of before", []e{left(0), in(0)}, "in 0"},
		{"returned", []e{returned(0)}, "return 0"},
		{"nothing", []e{nil}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			j := make(joiner)
			var done []passage
			for _, event := range test.events {
				done = append(done, j.add(event)...)
			}
			if got := text(done); got != test.want {
				t.Errorf("%s, want %s", got, test.want)
			}
			if rest := j.flush(); len(rest) > 0 {
				t.Errorf("left over: %s", text(rest))
			}
		})
	}
}
