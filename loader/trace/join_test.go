// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"fmt"
	"strings"
	"testing"

	"replypath/bpf"
)

// text shows passages as "kind cpu/sequence", with a + for what was seen leaving.
func text(list []passage) string {
	var words []string
	for _, p := range list {
		word := fmt.Sprintf("%s %d/%d", map[uint8]string{kindInbound: "in", kindPassed: "pass", kindMoved: "move", kindReturned: "return"}[p.Kind], p.Cpu, p.Sequence)
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
	event := func(kind uint8, cpu, sequence uint32) e {
		return &bpf.DatapathTraceEvent{Kind: kind, Cpu: cpu, Sequence: sequence}
	}
	other := event(kindPassed, 0, 1)
	other.Tuple.PeerPort = 7
	for _, test := range []struct {
		name   string
		events []e
		want   string
	}{
		{"moved", []e{event(kindMoved, 0, 1), event(kindLeaving, 0, 1)}, "move 0/1+"},
		{"passed", []e{event(kindPassed, 0, 1), event(kindInbound, 0, 1)}, "pass 0/1+, in 0/1"},
		{"two cpus", []e{event(kindMoved, 0, 1), event(kindMoved, 1, 1), event(kindLeaving, 1, 1), event(kindLeaving, 0, 1)}, "move 1/1+, move 0/1+"},
		{"not seen, another packet", []e{event(kindMoved, 0, 1), event(kindMoved, 0, 2), event(kindLeaving, 0, 2)}, "move 0/1, move 0/2+"},
		{"not seen, a packet in", []e{event(kindMoved, 0, 1), event(kindInbound, 0, 1)}, "move 0/1, in 0/1"},
		{"not seen, a packet on another cpu", []e{event(kindMoved, 0, 1), event(kindInbound, 1, 1), event(kindLeaving, 0, 1)}, "in 1/1, move 0/1+"},
		{"not seen, nothing else", []e{event(kindMoved, 0, 1), nil}, "move 0/1"},
		{"could not be moved", []e{event(kindMoved, 0, 1), event(kindPassed, 0, 1)}, "pass 0/1+"},
		{"another packet of this number", []e{event(kindMoved, 0, 1), other}, "move 0/1, pass 0/1+"},
		{"the word of the move is lost", []e{event(kindLeaving, 0, 5), event(kindInbound, 0, 5)}, "in 0/5"},
		{"returned", []e{event(kindReturned, 0, 1)}, "return 0/1"},
		{"nothing", []e{nil}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			var j joiner
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
