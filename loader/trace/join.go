// SPDX-License-Identifier: Apache-2.0

package trace

import "replypath/bpf"

// Kinds of events.
const (
	kindIn   = uint8(bpf.DatapathTraceKindTRACE_IN)
	kindOut  = uint8(bpf.DatapathTraceKindTRACE_OUT)
	kindLeft = uint8(bpf.DatapathTraceKindTRACE_LEFT)
)

// passage is an event with what was seen of the packet afterwards.
type passage struct {
	*bpf.DatapathTraceEvent
	left bool // seen at the interface that it leaves by
}

// isMoved tells whether a packet was redirected to another interface than the kernel chose.
func isMoved(e *bpf.DatapathTraceEvent) bool {
	return e.Kind == kindOut && e.OutIfindex != 0 && e.OutIfindex != e.Ifindex
}

// joiner has by CPU what was moved last, until it is known whether it was seen leaving: the next event of that CPU says so.
type joiner map[uint32]*bpf.DatapathTraceEvent

// add returns what an event completes. nil says that none came for a while: what
// is waited for does not come any more.
func (j joiner) add(e *bpf.DatapathTraceEvent) (done []passage) {
	if e == nil {
		return j.flush()
	}
	if moved := j[e.Cpu]; moved != nil {
		delete(j, e.Cpu)
		done = append(done, passage{moved, e.Kind == kindLeft})
	}
	switch {
	case e.Kind == kindLeft:
	case isMoved(e):
		j[e.Cpu] = e
	default:
		done = append(done, passage{e, e.OutIfindex != 0})
	}
	return done
}

// flush returns what is waited for.
func (j joiner) flush() (done []passage) {
	for _, moved := range j {
		done = append(done, passage{moved, false})
	}
	clear(j)
	return done
}
