// SPDX-License-Identifier: Apache-2.0

package flows

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/loader/datapath"
)

// StateOriginated is that of what this host originated by another interface than that of its source.
const StateOriginated = "originated"

// Outcomes of the last packet of what this host originates.
const (
	OutcomeMoved  = "moved"  // seen leaving by the interface of its source
	OutcomeRouted = "routed" // left to the kernel's choice
)

// originatedShown is how long what the host originated is shown after its last packet.
const originatedShown = time.Duration(bpf.DatapathIdleSecondsIDLE_OUTBOUND) * time.Second

// eachOriginated visits what the host originated lately by another interface than that of its source.
func (t *Table) eachOriginated(v *view, visit func(digest uint64, flow Flow) bool, matches func(*bpf.DatapathTuple) bool) error {
	var (
		index uint32
		set   bpf.DatapathOriginatedSet
	)
	sets := t.maps.Originated.Iterate()
	for sets.Next(&index, &set) {
		for way, digest := range set.Digest {
			record := &set.Tuple[way]
			if digest == 0 || v.clock.Since(record.Seen) > originatedShown || !matches(&record.Tuple) {
				continue
			}
			if err := t.addAnswered(record, digest); err != nil {
				return err
			}
			if !visit(digest, v.originated(record)) {
				return nil
			}
		}
	}
	if err := sets.Err(); err != nil {
		return fmt.Errorf("read what the host originated: %w", err)
	}
	return nil
}

// addAnswered adds to a record what the established table has counted of its connection since.
func (t *Table) addAnswered(record *bpf.DatapathOriginatedTuple, digest uint64) error {
	if record.Tuple.Protocol != unix.IPPROTO_TCP {
		return nil
	}
	answered, err := datapath.FindAnswered(t.maps.Established, digest)
	if err != nil {
		return fmt.Errorf("read what the host originated: %w", err)
	}
	if answered != nil {
		record.Moved += answered.Corrected
		record.Seen = answered.RcvNxt
	}
	return nil
}

func (v *view) originated(record *bpf.DatapathOriginatedTuple) Flow {
	flow := v.of(&record.Tuple, record.Created, record.Seen, record.To)
	flow.State, flow.CorrectedPackets = StateOriginated, record.Moved
	flow.Asymmetric, flow.Outcome = true, OutcomeRouted
	if bpf.DatapathOutcome(record.Outcome) == bpf.DatapathOutcomeOUTCOME_CORRECTED {
		flow.Outcome = OutcomeMoved
	}
	if name, ok := v.interfaces[record.From]; ok {
		flow.KernelInterface = &name
	}
	return flow
}
