// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"fmt"
	"net"
	"time"

	"replypath/bpf"
	"replypath/loader/explain"
)

// names turn numbers into words.
type names struct {
	offset time.Duration // from the monotonic clock to the time of day

	interfaces map[uint32]string
	reasons    map[bpf.DatapathTuple]noFlow
}

// noFlow is why a tuple has no flow.
type noFlow struct{ verdict, reason string }

func newNames() *names {
	n := new(names)
	n.forget()
	return n
}

// forget has interfaces and tuples looked up again: they may have changed.
func (n *names) forget() {
	n.interfaces = make(map[uint32]string)
	n.reasons = make(map[bpf.DatapathTuple]noFlow)
}

// device returns the name of an interface, nil for none.
func (n *names) device(index uint32) *string {
	if index == 0 {
		return nil
	}
	name, known := n.interfaces[index]
	if !known {
		name = fmt.Sprintf("if%d", index) // gone by now
		if i, err := net.InterfaceByIndex(int(index)); err == nil {
			name = i.Name
		}
		n.interfaces[index] = name
	}
	return &name
}

// why tells why a tuple has no flow; each is looked up once a second.
func (n *names) why(host *explain.Host, tuple bpf.DatapathTuple) (noFlow, error) {
	known, found := n.reasons[tuple]
	if found {
		return known, nil
	}
	q := explain.About(&tuple)
	verdict, reason, err := host.WhyNoFlow(&q, 0)
	if err == nil {
		n.reasons[tuple] = noFlow{verdict, reason}
	}
	return noFlow{verdict, reason}, err
}

// isNew tells whether a packet began a flow.
func isNew(raised uint64) bool {
	const first, last = bpf.DatapathEventEVENT_ADMITTED_HALF_OPEN, bpf.DatapathEventEVENT_ADMITTED_OUTBOUND
	return raised>>first&(1<<(last-first+1)-1) != 0
}

// hasMoved tells whether the flow followed the packet: of these events only the
// first has a name, the others follow it by protocol class.
func hasMoved(raised uint64) bool {
	for class := range bpf.DatapathProtocolClassCLASS_END {
		if raised&(1<<(uint(bpf.DatapathEventEVENT_MOVED)+uint(class))) != 0 {
			return true
		}
	}
	return false
}
