// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"slices"

	"replypath/bpf"
)

// Kinds of events.
const (
	kindInbound  = uint8(bpf.DatapathTraceKindTRACE_INBOUND)
	kindPassed   = uint8(bpf.DatapathTraceKindTRACE_PASSED)
	kindMoved    = uint8(bpf.DatapathTraceKindTRACE_MOVED)
	kindLeaving  = uint8(bpf.DatapathTraceKindTRACE_LEAVING)
	kindReturned = uint8(bpf.DatapathTraceKindTRACE_RETURNED)
)

// passage is an event with what was seen of the packet afterwards.
type passage struct {
	*bpf.DatapathTraceEvent
	left bool // seen at the interface that it leaves by
}

// joiner joins what is told of one packet: that it is moved, and that it leaves.
// Both happen on one CPU with no other packet between them.
type joiner struct {
	moved []*bpf.DatapathTraceEvent // at most one for each CPU
}

// add returns what an event completes. nil says that none came for a while: what
// is waited for does not come any more.
func (j *joiner) add(e *bpf.DatapathTraceEvent) (done []passage) {
	if e == nil {
		return j.flush()
	}
	held := slices.IndexFunc(j.moved, func(m *bpf.DatapathTraceEvent) bool { return m.Cpu == e.Cpu })
	if held >= 0 {
		m := j.moved[held]
		j.moved = slices.Delete(j.moved, held, held+1)
		same := m.Sequence == e.Sequence
		switch {
		case same && e.Kind == kindLeaving:
			return []passage{{m, true}}
		case same && e.Kind == kindPassed && m.Tuple == e.Tuple: // it could not be moved after all
		default:
			done = append(done, passage{m, false})
		}
	}
	switch e.Kind {
	case kindLeaving: // of a packet that was told of before, or not at all
	case kindMoved:
		j.moved = append(j.moved, e)
	default:
		done = append(done, passage{e, e.Kind == kindPassed})
	}
	return done
}

// flush returns what is waited for.
func (j *joiner) flush() (done []passage) {
	for _, m := range j.moved {
		done = append(done, passage{m, false})
	}
	j.moved = nil
	return done
}
