// SPDX-License-Identifier: Apache-2.0

package flows

import (
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"replypath/bpf"
)

// StateOriginated is that of what this host originated towards a peer by another interface than that of its source.
const StateOriginated = "originated"

// Outcomes of the last packet of what this host originates.
const (
	OutcomeMoved  = "moved"  // to the interface of its source
	OutcomeRouted = "routed" // left to the kernel's choice
)

// originatedShown is how long what the host originated is shown after its last packet.
const originatedShown = time.Duration(bpf.DatapathIdleSecondsIDLE_OUTBOUND) * time.Second

// eachOriginated visits what the host originated lately by another interface than that of its source, by own address and
// peer. The ports and the protocol are those of the last packet, unless another protocol is asked for.
func (t *Table) eachOriginated(v *view, filter *Filter, visit func(digest uint64, r row) bool) error {
	records := bpf.Records{Table: bpf.TableOf(&t.maps.DatapathMaps)}
	err := records.Each(func(_ uint64, record *bpf.DatapathRecord) bool {
		tuple := bpf.DatapathTuple{
			Peer: record.Peer, Self: record.Self, PeerPort: record.PeerPort, SelfPort: record.SelfPort, Protocol: record.Protocol,
		}
		if p := filter.Protocol; p != nil && *p != tuple.Protocol && (record.MovedOf|record.RoutedOf)&classBit(*p) != 0 {
			tuple.Protocol, tuple.PeerPort, tuple.SelfPort = *p, 0, 0
		}
		if record.To == 0 || v.clock.Since(record.Seen) > originatedShown || !filter.matchesTuple(&tuple) {
			return true
		}
		flow := v.originated(&tuple, record)
		entry := bpf.DatapathFlow{Tuple: tuple, Created: record.Created, Corrected: record.Moved}
		return visit(bpf.Seeds(v.journal.Seeds).Ends(tuple), row{entry: entry, in: bpf.DatapathTableTABLE_ORIGINATED, more: &more{originated: &flow}})
	})
	if err != nil {
		return fmt.Errorf("read what the host originated: %w", err)
	}
	return nil
}

// classBit is that of a protocol among what was counted of two addresses; 0 for one that is counted with others.
func classBit(protocol uint8) uint8 {
	classes := []uint8{
		bpf.DatapathProtocolClassCLASS_TCP: unix.IPPROTO_TCP, bpf.DatapathProtocolClassCLASS_UDP: unix.IPPROTO_UDP,
		bpf.DatapathProtocolClassCLASS_ICMP: unix.IPPROTO_ICMP, bpf.DatapathProtocolClassCLASS_ICMPV6: unix.IPPROTO_ICMPV6,
		bpf.DatapathProtocolClassCLASS_SCTP: unix.IPPROTO_SCTP,
	}
	return 1 << (slices.Index(classes, protocol) & 7) // of none: a bit that no class has
}

func (v *view) originated(tuple *bpf.DatapathTuple, record *bpf.DatapathRecord) Flow {
	flow := v.of(tuple, record.Created, record.Seen, record.To)
	flow.State, flow.CorrectedPackets = StateOriginated, record.Moved
	flow.Asymmetric, flow.Outcome = true, OutcomeRouted
	if bpf.DatapathOutcome(record.Outcome) == bpf.DatapathOutcomeOUTCOME_CORRECTED {
		flow.Outcome = OutcomeMoved
	}
	isStrong := v.known[record.To].Flags&uint8(bpf.DatapathInterfaceFlagsINTERFACE_STRONG) != 0
	if !isStrong && bpf.DatapathOutcome(record.Outcome) != bpf.DatapathOutcomeOUTCOME_WEAK_HOST {
		flow.Relates = RelatesAll
	}
	if name, ok := v.interfaces[record.From]; ok {
		flow.KernelInterface = &name
	}
	return flow
}
