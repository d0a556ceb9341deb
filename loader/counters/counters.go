// SPDX-License-Identifier: Apache-2.0

// Package counters reads what the programs, and the kernel, have counted: the figures of the metrics.
package counters

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"github.com/cilium/ebpf"

	"replypath/bpf"
	"replypath/loader/datapath"
	"replypath/loader/flows"
	"replypath/metrics"
)

// Fill adds what the programs have counted, and returns how full the flow tables are. The names are those of interfaces by
// their id. Each label that is known beforehand has a series, so that the first occurrence is seen as an increase.
func Fill(s *metrics.Samples, d *datapath.Datapath, names map[uint16]string, gathering *flows.Gathering) ([]flows.TableUsage, error) {
	events, err := readEvents(d.Events)
	if err != nil {
		return nil, err
	}
	addEvents(s, events)
	notes := bpf.Notes{Table: bpf.TableOf(&d.DatapathMaps)}
	s.Add(FlowTableCapacity, float64(notes.Capacity()), outbound)
	pairs, err := ReadPairs(&d.Maps)
	if err != nil {
		return nil, err
	}
	for series, count := range pairs.Named(names) {
		s.Add(series.Of, float64(count), series.labels()...)
	}
	clock, err := d.Clock()
	if err != nil {
		return nil, err
	}
	tables, err := flows.Usage(&d.Maps, clock, gathering, func(*bpf.DatapathFlow, string) {})
	for _, t := range tables {
		addTable(s, &t, events)
	}
	return tables, err
}

// outbound is what the table of notes is called beside the flow tables: of what the host began.
const outbound = "outbound"

// addEvents names what was counted without an interface pair.
func addEvents(s *metrics.Samples, events []uint64) {
	for family, causes := range eventFamilies {
		for _, c := range causes {
			s.Add(family, float64(events[c.of]), c.name)
		}
	}
	s.Add(UncountedPackets, float64(events[bpf.DatapathEventEVENT_INSERT_FAILED_COUNTER]))
	s.Add(FlowAdmissions, float64(events[bpf.DatapathEventEVENT_ADMITTED_OUTBOUND]), outbound)
	for class, name := range protocolNames {
		s.Add(FlowMoves, float64(events[bpf.DatapathEventEVENT_MOVED+bpf.DatapathEvent(class)]), name)
	}
}

func addTable(s *metrics.Samples, t *flows.TableUsage, events []uint64) {
	s.Add(Flows, float64(t.Flows), t.Name)
	s.Add(LastingFlows, float64(t.Lasting), t.Name)
	s.Add(FlowTableCapacity, float64(t.Capacity), t.Name)
	s.Add(FlowAdmissions, float64(events[bpf.DatapathEventEVENT_ADMITTED_HALF_OPEN+bpf.DatapathEvent(t.ID)]), t.Name)
	s.Add(FlowInsertFailures, float64(events[bpf.DatapathEventEVENT_INSERT_FAILED_HALF_OPEN+bpf.DatapathEvent(t.ID)]), t.Name)
	readmissions := 0.0
	if t.ID == bpf.DatapathTableTABLE_ESTABLISHED {
		readmissions = float64(events[bpf.DatapathEventEVENT_READMITTED_ESTABLISHED])
	}
	s.Add(FlowReadmissions, readmissions, t.Name)
}

// Series is one of a metric by interface pair.
type Series struct {
	Of               *metrics.Family
	From, To         string // names of interfaces: the kernel's choice, empty for replypath0; the flow's
	family, protocol string
	Value            string // of the last label, a reason or an outcome, where there is one
}

func (s *Series) labels() []string {
	labels := []string{cmp.Or(s.From, "none"), s.To, s.family, s.protocol}
	if s.Value != "" {
		labels = append(labels, s.Value)
	}
	return labels
}

// Unrecorded tells by which protocol, that is not recorded, this host was asked over an interface.
type Unrecorded struct {
	Interface        string
	Family, Protocol uint8 // 4 or 6; of IP
	Packets          uint64
	Last             time.Time
}

// Named adds up what was counted for interfaces of the same names. A pair that was seen has all series, those of 0 too.
func (c Pairs) Named(names map[uint16]string) map[Series]uint64 {
	sums := make(map[Series]uint64)
	for pair, count := range c {
		series := Series{
			From: names[pair.From], To: names[pair.To], family: fmt.Sprintf("ipv%d", pair.Family),
			protocol: protocolNames[bpf.DatapathProtocolClass(pair.Protocol)],
		}
		add := func(f *metrics.Family, value string, count uint64) {
			series.Of, series.Value = f, value
			sums[series] += count
		}
		switch outcome := bpf.DatapathOutcome(pair.Outcome); {
		case isUnrecorded(pair):
		case isOriginated(pair):
			addOriginated(add, outcome&^bpf.DatapathOutcomeOUTCOME_ORIGINATED, count)
		default:
			addReplies(add, outcome, count, isOfRightInterface(pair))
		}
	}
	return sums
}

// adder adds to the series of an interface pair with this last label.
type adder func(f *metrics.Family, value string, count uint64)

// because adds the packets of an outcome to the reason that it is, and 0 to all others.
func (add adder) because(f *metrics.Family, reasons []cause[bpf.DatapathOutcome], outcome bpf.DatapathOutcome, packets uint64) {
	for _, r := range reasons {
		if add(f, r.name, 0); r.of == outcome {
			add(f, r.name, packets)
		}
	}
}

// addOriginated adds what the host originated.
func addOriginated(add adder, outcome bpf.DatapathOutcome, count bpf.DatapathPairCount) {
	isMoved := nameOf(originatedReasons, outcome) == ""
	for value, is := range map[string]bool{"moved": isMoved, "routed": !isMoved} {
		var sent bpf.DatapathPairCount
		if is {
			sent = count
		}
		add(OriginatedPackets, value, sent.Packets)
		add(OriginatedFlows, value, sent.Flows)
	}
	add.because(OriginatedRouted, originatedReasons, outcome, count.Packets)
}

// addReplies adds what had an outcome. Whatever became of them, replies were asymmetric, unless by the right interface.
func addReplies(add adder, outcome bpf.DatapathOutcome, count bpf.DatapathPairCount, isRight bool) {
	var asymmetric, corrected bpf.DatapathPairCount
	switch {
	case isRight, outcome == bpf.DatapathOutcomeOUTCOME_UNNAMED_TUNNEL: // of requests
	case outcome == bpf.DatapathOutcomeOUTCOME_ASYMMETRIC: // of flows
		asymmetric.Flows = count.Flows
	case outcome == bpf.DatapathOutcomeOUTCOME_CORRECTED:
		corrected = count
		fallthrough
	default:
		asymmetric.Packets = count.Packets
	}
	add(AsymmetricPackets, "", asymmetric.Packets)
	add(AsymmetricFlows, "", asymmetric.Flows)
	add(CorrectedPackets, "", corrected.Packets)
	add(CorrectedBytes, "", corrected.Bytes)
	add(CorrectedFlows, "", corrected.Flows)
	add.because(UncorrectedPackets, replyReasons, outcome, count.Packets)
	add.because(LostPackets, lostReasons, outcome, count.Packets)
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
		w := way{from: names[pair.From], to: names[pair.To], reason: UncorrectedReason(outcome), originated: isOriginated(pair)}
		if nameOf(lostReasons, outcome) != "" {
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
	UncorrectedReason(bpf.DatapathOutcomeOUTCOME_OBSERVE):        true,
	UncorrectedReason(bpf.DatapathOutcomeOUTCOME_BOUND_DEVICE):   true,
	UncorrectedReason(bpf.DatapathOutcomeOUTCOME_UNNAMED_TUNNEL): true,
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
		reason := UncorrectedReason(outcome)
		switch {
		case count.Packets == 0:
		case outcome == bpf.DatapathOutcomeOUTCOME_CORRECTED:
			t.Corrected += count.Packets
		case outcome == bpf.DatapathOutcomeOUTCOME_OBSERVE:
			t.WouldCorrect += count.Packets
		case nameOf(lostReasons, outcome) != "":
			t.Lost += count.Packets
		case reason != "":
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
