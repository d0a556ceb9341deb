// SPDX-License-Identifier: Apache-2.0

// Package counters reads what the programs, and the kernel, have counted: the figures of the metrics.
package counters

import (
	"errors"
	"fmt"
	"time"

	"github.com/cilium/ebpf"

	"replypath/bpf"
	"replypath/loader/datapath"
	"replypath/loader/flows"
	"replypath/metrics"
)

// Fill fills in what the programs have counted. The names are those of interfaces by their id; what is forgotten is taken
// off.
func Fill(s *metrics.Snapshot, d *datapath.Datapath, names map[uint16]string, gathering *flows.Gathering) error {
	events, err := readEvents(d.Events)
	if err != nil {
		return err
	}
	setEvents(s, events)
	notes := bpf.Notes{Table: bpf.TableOf(&d.DatapathMaps)}
	s.Outbound.Capacity = notes.Capacity()
	pairs, err := ReadByName(&d.Maps, names)
	if err != nil {
		return err
	}
	s.Pairs, s.Uncorrected, s.Lost, s.Originated = pairs.Pairs, pairs.Uncorrected, pairs.Lost, pairs.Originated
	clock, err := d.Clock()
	if err != nil {
		return err
	}
	tables, err := flows.Usage(&d.Maps, clock, gathering, func(*bpf.DatapathFlow, string) {})
	if err != nil {
		return err
	}
	readmissions := map[bpf.DatapathTable]uint64{
		bpf.DatapathTableTABLE_ESTABLISHED: events[bpf.DatapathEventEVENT_READMITTED_ESTABLISHED],
	}
	for _, t := range tables {
		s.Tables = append(s.Tables, metrics.Table{
			Name: t.Name, Flows: t.Flows, Lasting: t.Lasting, Capacity: t.Capacity,
			Admissions:     events[bpf.DatapathEventEVENT_ADMITTED_HALF_OPEN+bpf.DatapathEvent(t.ID)],
			Readmissions:   readmissions[t.ID],
			InsertFailures: events[bpf.DatapathEventEVENT_INSERT_FAILED_HALF_OPEN+bpf.DatapathEvent(t.ID)],
		})
	}
	return nil
}

// setEvents names what was counted without an interface pair.
func setEvents(s *metrics.Snapshot, events []uint64) {
	named := func(reasons map[bpf.DatapathEvent]string) map[string]uint64 {
		counts := make(map[string]uint64, len(reasons))
		for event, name := range reasons {
			counts[name] = events[event]
		}
		return counts
	}
	s.Unparsed, s.Ignored, s.MovesRefused = named(unparsedReasons), named(ignoredReasons), named(refusedReasons)
	s.WaysLearnt = named(learntWays)
	s.Uncounted = events[bpf.DatapathEventEVENT_INSERT_FAILED_COUNTER]
	s.SourceRepairs.IPv4 = events[bpf.DatapathEventEVENT_SOURCE_REPAIRED_V4]
	s.SourceRepairs.IPv6 = events[bpf.DatapathEventEVENT_SOURCE_REPAIRED_V6]
	s.FallbackDropped.IPv4 = events[bpf.DatapathEventEVENT_FALLBACK_DROPPED_V4]
	s.FallbackDropped.IPv6 = events[bpf.DatapathEventEVENT_FALLBACK_DROPPED_V6]
	s.Outbound.Admissions = events[bpf.DatapathEventEVENT_ADMITTED_OUTBOUND]
	s.Moves = make(map[string]uint64, len(protocolNames))
	for class, name := range protocolNames {
		s.Moves[name] = events[bpf.DatapathEventEVENT_MOVED+bpf.DatapathEvent(class)]
	}
}

// ByName are the counters of interface pairs as Fill reads them.
type ByName struct {
	Pairs             []metrics.PairCounters
	Uncorrected, Lost []metrics.Uncorrected // for every pair, every reason
	Originated        []metrics.Originated
}

// Unrecorded tells by which protocol, that is not recorded, this host was asked over an interface.
type Unrecorded struct {
	Interface        string
	Family, Protocol uint8 // 4 or 6; of IP
	Packets          uint64
	Last             time.Time
}

// ReadByName reads the counters of interface pairs.
func ReadByName(maps *bpf.Maps, names map[uint16]string) (ByName, error) {
	pairs, err := ReadPairs(maps)
	return ByName{pairs.named(names), pairs.because(uncorrectedReasons, names), pairs.because(lostReasons, names), pairs.originated(names)}, err
}

// named adds up what was counted for interfaces of the same names.
func (c Pairs) named(names map[uint16]string) (list []metrics.PairCounters) {
	sums := make(map[metrics.Pair]*metrics.PairCounters)
	for pair, count := range c {
		if isOriginated(pair) || isUnrecorded(pair) {
			continue
		}
		key := namedPair(pair, names)
		if sums[key] == nil {
			sums[key] = &metrics.PairCounters{Pair: key}
		}
		if !isOfRightInterface(pair) {
			add(sums[key], bpf.DatapathOutcome(pair.Outcome), count)
		}
	}
	for _, sum := range sums {
		list = append(list, *sum)
	}
	return list
}

// because is how many packets had an outcome that is a reason, for every pair and every reason.
func (c Pairs) because(reasons map[bpf.DatapathOutcome]string, names map[uint16]string) (list []metrics.Uncorrected) {
	packets := make(map[metrics.Uncorrected]uint64)
	pairs := make(map[metrics.Pair]bool)
	for pair, count := range c {
		if isOriginated(pair) || isUnrecorded(pair) {
			continue
		}
		key := namedPair(pair, names)
		pairs[key] = true
		if reason, is := reasons[bpf.DatapathOutcome(pair.Outcome)]; is {
			packets[metrics.Uncorrected{Pair: key, Reason: reason}] += count.Packets
		}
	}
	for pair := range pairs {
		for _, reason := range reasons {
			counter := metrics.Uncorrected{Pair: pair, Reason: reason}
			counter.Packets = packets[counter]
			list = append(list, counter)
		}
	}
	return list
}

// originated is what the host originated, of interfaces of these names.
func (c Pairs) originated(names map[uint16]string) (list []metrics.Originated) {
	sums := make(map[metrics.Pair]*metrics.Originated)
	for pair, count := range c {
		if !isOriginated(pair) {
			continue
		}
		key := namedPair(pair, names)
		if sums[key] == nil {
			sums[key] = &metrics.Originated{Pair: key, Reasons: make(map[string]uint64)}
		}
		sent := &sums[key].Moved
		if reason := originatedReason(bpf.DatapathOutcome(pair.Outcome) &^ bpf.DatapathOutcomeOUTCOME_ORIGINATED); reason != "" {
			sent = &sums[key].Routed
			sums[key].Reasons[reason] += count.Packets
		}
		sent.Packets += count.Packets
		sent.Flows += count.Flows
	}
	for _, sum := range sums {
		list = append(list, *sum)
	}
	return list
}

// Unrecorded is what this host was asked by protocols that are not recorded.
func (c Pairs) Unrecorded(names map[uint16]string, since func(tick uint32) time.Duration) (list []Unrecorded) {
	for pair, count := range c {
		if isUnrecorded(pair) {
			list = append(list, Unrecorded{names[pair.From], pair.Family, pair.Protocol, count.Packets, time.Now().Add(-since(count.Last))})
		}
	}
	return list
}

func isUnrecorded(pair bpf.DatapathPair) bool {
	return bpf.DatapathOutcome(pair.Outcome) == bpf.DatapathOutcomeOUTCOME_UNRECORDED
}

func isOriginated(pair bpf.DatapathPair) bool {
	return bpf.DatapathOutcome(pair.Outcome)&bpf.DatapathOutcomeOUTCOME_ORIGINATED != 0
}

// isOfRightInterface tells of replies for which there was no other next hop than the kernel's, by the interface of their flow.
func isOfRightInterface(pair bpf.DatapathPair) bool {
	outcome := bpf.DatapathOutcome(pair.Outcome)
	return pair.From == pair.To && (outcome == bpf.DatapathOutcomeOUTCOME_LINK_DOWN || outcome == bpf.DatapathOutcomeOUTCOME_NO_NEXT_HOP)
}

// add adds what had an outcome. Whatever became of them, replies were asymmetric.
func add(c *metrics.PairCounters, outcome bpf.DatapathOutcome, count bpf.DatapathPairCount) {
	switch outcome {
	case bpf.DatapathOutcomeOUTCOME_UNNAMED_TUNNEL: // of requests
		return
	case bpf.DatapathOutcomeOUTCOME_ASYMMETRIC: // of flows
		c.AsymmetricFlows += count.Flows
		return
	case bpf.DatapathOutcomeOUTCOME_CORRECTED:
		c.CorrectedPackets += count.Packets
		c.CorrectedBytes += count.Bytes
		c.CorrectedFlows += count.Flows
	}
	c.AsymmetricPackets += count.Packets
}

func namedPair(pair bpf.DatapathPair, names map[uint16]string) metrics.Pair {
	return metrics.Pair{
		From: names[pair.From], To: names[pair.To],
		Family:   fmt.Sprintf("ipv%d", pair.Family),
		Protocol: protocolNames[bpf.DatapathProtocolClass(pair.Protocol)],
	}
}

// Totals are the packets of replies by what became of them, of all interface pairs together. The JSON names are fixed.
type Totals struct {
	Corrected    uint64            `json:"corrected"`
	WouldCorrect uint64            `json:"would_correct"` // if their interface enforced
	Lost         uint64            `json:"lost"`          // moved, and never seen leaving
	Uncorrected  map[string]uint64 `json:"uncorrected"`   // by reason, those that there are, without what is observed
}

// Wrong are the packets of a pair that left by another way than that of their flow, or not at all, for a reason.
type Wrong struct {
	From, To  string // names of interfaces: the kernel's choice, the flow's
	Reason    string // of the metrics, or ReasonLost
	Packets   uint64 // since the pins were made
	Corrected uint64 // of the same pair
	Last      time.Time
	// Originated tells of what the host originates, and was to be moved as related, or by host_model: strong.
	Originated bool
}

// ReasonLost is no label: the packets were handed to the right interface, and not seen leaving there.
const ReasonLost = "lost"

// IsFew tells of what an interface may lose that goes down, or programs that come and go.
func (w *Wrong) IsFew() bool { return w.Packets <= max(Few, w.Corrected/failInNumber) }

// IsMeant tells of packets that go as routed as somebody wants it.
func (w *Wrong) IsMeant() bool { return meant[w.Reason] }

// Wrong adds up what left wrongly, of interfaces of these names, whatever the family and protocol.
func (c Pairs) Wrong(names map[uint16]string, since func(tick uint32) time.Duration) (list []Wrong) {
	type way struct {
		from, to, reason string
		originated       bool
	}
	sums, corrected := make(map[way]*Wrong), make(map[way]uint64)
	now := time.Now()
	for pair, count := range c {
		outcome := bpf.DatapathOutcome(pair.Outcome) &^ bpf.DatapathOutcomeOUTCOME_ORIGINATED
		w := way{from: names[pair.From], to: names[pair.To], reason: uncorrectedReasons[outcome], originated: isOriginated(pair)}
		if _, isLost := lostReasons[outcome]; isLost {
			w.reason = ReasonLost
		}
		if outcome == bpf.DatapathOutcomeOUTCOME_CORRECTED {
			corrected[w] += count.Packets
		}
		if w.reason == "" || count.Packets == 0 {
			continue
		}
		if sums[w] == nil {
			sums[w] = &Wrong{From: w.from, To: w.to, Reason: w.reason, Originated: w.originated}
		}
		sums[w].Packets += count.Packets
		if last := now.Add(-since(count.Last)); count.Last != 0 && last.After(sums[w].Last) {
			sums[w].Last = last
		}
	}
	for w, sum := range sums {
		sum.Corrected = corrected[way{from: w.from, to: w.to, originated: w.originated}]
		list = append(list, *sum)
	}
	return list
}

// A pair loses Few packets when an interface goes down, or programs come and go.
const (
	Few          = 3
	failInNumber = 1000 // corrected packets, beside which one may fail
)

// meant are the reasons for which packets go as routed as somebody wants it.
var meant = map[string]bool{
	uncorrectedReasons[bpf.DatapathOutcomeOUTCOME_OBSERVE]:        true,
	uncorrectedReasons[bpf.DatapathOutcomeOUTCOME_BOUND_DEVICE]:   true,
	uncorrectedReasons[bpf.DatapathOutcomeOUTCOME_UNNAMED_TUNNEL]: true,
}

// Unmeant is how many packets went as routed although nobody wants it.
func (t *Totals) Unmeant() (sum uint64) {
	for reason, packets := range t.Uncorrected {
		if !meant[reason] {
			sum += packets
		}
	}
	return sum
}

// NotEntered is how many flows found no place in a table.
func NotEntered(maps *bpf.Maps) (sum uint64, err error) {
	events, err := readEvents(maps.Events)
	if err == nil {
		for event := bpf.DatapathEventEVENT_INSERT_FAILED_HALF_OPEN; event <= bpf.DatapathEventEVENT_INSERT_FAILED_CONNECTIONLESS; event++ {
			sum += events[event]
		}
	}
	return sum, err
}

// Totals adds up what was counted for replies. What the host originates is none.
func (c Pairs) Totals() Totals {
	t := Totals{Uncorrected: make(map[string]uint64)}
	for pair, count := range c {
		outcome := bpf.DatapathOutcome(pair.Outcome)
		_, isLost := lostReasons[outcome]
		reason, isUncorrected := uncorrectedReasons[outcome]
		switch {
		case count.Packets == 0:
		case outcome == bpf.DatapathOutcomeOUTCOME_CORRECTED:
			t.Corrected += count.Packets
		case outcome == bpf.DatapathOutcomeOUTCOME_OBSERVE:
			t.WouldCorrect += count.Packets
		case isLost:
			t.Lost += count.Packets
		case isUncorrected:
			t.Uncorrected[reason] += count.Packets
		}
	}
	return t
}

// readEvents adds up the counters of all CPUs, by event.
func readEvents(table *ebpf.Map) ([]uint64, error) {
	sums := make([]uint64, table.MaxEntries())
	var counts []uint64
	for event := range sums {
		if err := table.Lookup(uint32(event), &counts); err != nil {
			return nil, fmt.Errorf("read counter %d: %w", event, err)
		}
		for _, count := range counts {
			sums[event] += count
		}
	}
	return sums, nil
}

// Pairs are counters by interface pair.
type Pairs map[bpf.DatapathPair]bpf.DatapathPairCount

// ReadPairs adds up the counters of interface pairs of all CPUs.
func ReadPairs(maps *bpf.Maps) (Pairs, error) {
	sums := make(Pairs)
	var (
		pair   bpf.DatapathPair
		counts []bpf.DatapathPairCount
	)
	entries := maps.Pairs.Iterate()
	for entries.Next(&pair, &counts) {
		delete(sums, pair) // an iteration that a deletion interrupts begins again
		sums.add(pair, counts...)
	}
	slots := maps.EachPairSlot(func(s *bpf.DatapathPairSlot) { sums.add(s.Pair, s.Count) })
	if err := errors.Join(entries.Err(), slots); err != nil {
		return nil, fmt.Errorf("read the counters of interface pairs: %w", err)
	}
	return sums, nil
}

// later is the later of two times, in ticks, that are past.
func later(a, b uint32) uint32 {
	if int32(b-a) > 0 || a == 0 {
		return b
	}
	return a
}

func (c Pairs) add(pair bpf.DatapathPair, counts ...bpf.DatapathPairCount) {
	sum := c[pair]
	for _, count := range counts {
		sum.Packets += count.Packets
		sum.Bytes += count.Bytes
		sum.Flows += count.Flows
		if count.Last != 0 {
			sum.Last = later(sum.Last, count.Last)
		}
	}
	c[pair] = sum
}

// Forget deletes the counters of pairs with an interface whose id is about to become another's.
func Forget(maps *bpf.Maps, id uint16) error {
	pairs, err := ReadPairs(maps)
	errs := []error{err, maps.EachPairSlot(func(s *bpf.DatapathPairSlot) {
		if Concerns(s.Pair, id) {
			*s = bpf.DatapathPairSlot{}
		}
	})}
	for pair := range pairs {
		if !Concerns(pair, id) {
			continue
		}
		if err := maps.Pairs.Delete(pair); !errors.Is(err, ebpf.ErrKeyNotExist) { // some are in slots alone
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("clear the counters of an interface: %w", err)
	}
	return nil
}

// Concerns tells whether a pair is one with an interface of this id.
func Concerns(pair bpf.DatapathPair, id uint16) bool { return pair.From == id || pair.To == id }
