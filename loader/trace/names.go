// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"fmt"
	"math/bits"
	"net"
	"strings"
	"time"

	"github.com/cilium/ebpf/btf"

	"replypath/bpf"
	"replypath/loader/explain"
)

// names turn numbers into words.
type names struct {
	events   map[uint64]string // by enum event: "EVENT_IGNORED_NOT_OWN"
	outcomes map[uint64]string
	offset   time.Duration // from the monotonic clock to the time of day

	interfaces map[uint32]string
	reasons    map[bpf.DatapathTuple]noFlow
}

// noFlow is why a tuple has no flow.
type noFlow struct{ verdict, reason string }

// newNames reads the names of what the programs count from their type
// information, where the metrics' reasons come from as well.
func newNames() (*names, error) {
	spec, err := bpf.LoadDatapath()
	if err != nil {
		return nil, err
	}
	n := new(names)
	for name, to := range map[string]*map[uint64]string{"event": &n.events, "outcome": &n.outcomes} {
		var enum *btf.Enum
		if err := spec.Types.TypeByName(name, &enum); err != nil {
			return nil, fmt.Errorf("read the names of %s: %w", name, err)
		}
		*to = make(map[uint64]string)
		for _, v := range enum.Values {
			(*to)[v.Value] = v.Name
		}
	}
	n.forget()
	return n, nil
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

// outcome is the reason for which a reply was not moved.
func (n *names) outcome(outcome uint8) string {
	return strings.ToLower(strings.TrimPrefix(n.outcomes[uint64(outcome)], "OUTCOME_"))
}

// counted looks for the event with this prefix among those that a packet raised,
// and returns the rest of its name.
func (n *names) counted(raised uint64, prefix string) (reason string, found bool) {
	for ; raised != 0; raised &= raised - 1 {
		rest, is := strings.CutPrefix(n.events[uint64(bits.TrailingZeros64(raised))], prefix)
		if is {
			return strings.ToLower(rest), true
		}
	}
	return "", false
}

// moved tells whether the flow followed the packet: of these events only the
// first has a name, the others follow it by protocol class.
func (n *names) moved(raised uint64) bool {
	for class := range bpf.DatapathProtocolClassCLASS_END {
		if raised&(1<<(uint(bpf.DatapathEventEVENT_MOVED)+uint(class))) != 0 {
			return true
		}
	}
	return false
}
