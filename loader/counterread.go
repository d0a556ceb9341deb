package loader

import (
	"fmt"

	"replypath/bpf"
	"replypath/loader/datapath"
	"replypath/loader/flows"
	"replypath/loader/pins"
)

// read fills in what the programs have counted.
func (c *Counters) read(d *datapath.Datapath, names map[uint16]string, forgotten []pins.PairRecord) error {
	events, err := readEvents(d.Events)
	if err != nil {
		return err
	}
	c.setEvents(events)
	c.Outbound.Capacity = uint64(datapath.Capacity(d.Outbound))
	pairs, err := readPairs(&d.DatapathMaps, forgotten)
	if err != nil {
		return err
	}
	c.setPairs(pairs, names)
	clock, err := d.Clock()
	if err != nil {
		return err
	}
	tables, err := flows.Usage(&d.DatapathMaps, clock)
	if err != nil {
		return err
	}
	readmissions := map[bpf.DatapathTable]uint64{
		bpf.DatapathTableTABLE_ESTABLISHED: events[bpf.DatapathEventEVENT_READMITTED_ESTABLISHED],
	}
	for _, t := range tables {
		c.Tables = append(c.Tables, TableCounters{
			Name: t.Name, Flows: t.Flows, Capacity: t.Capacity,
			Admissions:     events[bpf.DatapathEventEVENT_ADMITTED_HALF_OPEN+bpf.DatapathEvent(t.ID)],
			Readmissions:   readmissions[t.ID],
			InsertFailures: events[bpf.DatapathEventEVENT_INSERT_FAILED_HALF_OPEN+bpf.DatapathEvent(t.ID)],
			Evictions:      events[bpf.DatapathEventEVENT_EVICTED_HALF_OPEN+bpf.DatapathEvent(t.ID)],
		})
	}
	return nil
}

// setEvents names what was counted without an interface pair.
func (c *Counters) setEvents(events []uint64) {
	named := func(reasons map[bpf.DatapathEvent]string) map[string]uint64 {
		counts := make(map[string]uint64, len(reasons))
		for event, name := range reasons {
			counts[name] = events[event]
		}
		return counts
	}
	c.Unparsed, c.Ignored, c.MovesRefused = named(unparsedReasons), named(ignoredReasons), named(refusedReasons)
	c.Uncounted = events[bpf.DatapathEventEVENT_INSERT_FAILED_COUNTER]
	c.SourceRepairs4 = events[bpf.DatapathEventEVENT_SOURCE_REPAIRED_V4]
	c.SourceRepairs6 = events[bpf.DatapathEventEVENT_SOURCE_REPAIRED_V6]
	c.FallbackDropped4 = events[bpf.DatapathEventEVENT_FALLBACK_DROPPED_V4]
	c.FallbackDropped6 = events[bpf.DatapathEventEVENT_FALLBACK_DROPPED_V6]
	c.Outbound.Admissions = events[bpf.DatapathEventEVENT_ADMITTED_OUTBOUND]
	c.Outbound.Evictions = events[bpf.DatapathEventEVENT_EVICTED_OUTBOUND]
	c.Moves = make(map[string]uint64, len(protocolNames))
	for class, name := range protocolNames {
		c.Moves[name] = events[bpf.DatapathEventEVENT_MOVED+bpf.DatapathEvent(class)]
	}
}

// setPairs adds up what was counted for interfaces of the same names.
func (c *Counters) setPairs(pairs pairCounts, names map[uint16]string) {
	sums := make(map[Pair]*PairCounters)
	uncorrected := make(map[UncorrectedCounter]uint64)
	for pair, count := range pairs {
		key := namedPair(pair, names)
		if sums[key] == nil {
			sums[key] = &PairCounters{Pair: key}
		}
		outcome := bpf.DatapathOutcome(pair.Outcome)
		sums[key].add(outcome, count)
		if reason, is := uncorrectedReasons[outcome]; is {
			uncorrected[UncorrectedCounter{Pair: key, Reason: reason}] += count.Packets
		}
	}
	for key, sum := range sums {
		c.Pairs = append(c.Pairs, *sum)
		for _, reason := range uncorrectedReasons {
			counter := UncorrectedCounter{Pair: key, Reason: reason}
			counter.Packets = uncorrected[counter]
			c.Uncorrected = append(c.Uncorrected, counter)
		}
	}
}

func (c *PairCounters) add(outcome bpf.DatapathOutcome, count bpf.DatapathPairCount) {
	switch outcome {
	case bpf.DatapathOutcomeOUTCOME_ASYMMETRIC:
		c.AsymmetricPackets += count.Packets
		c.AsymmetricFlows += count.Flows
	case bpf.DatapathOutcomeOUTCOME_CORRECTED:
		c.CorrectedPackets += count.Packets
		c.CorrectedBytes += count.Bytes
		c.CorrectedFlows += count.Flows
	}
}

func namedPair(pair bpf.DatapathPair, names map[uint16]string) Pair {
	return Pair{
		From: names[pair.From], To: names[pair.To],
		Family:   fmt.Sprintf("ipv%d", pair.Family),
		Protocol: protocolNames[bpf.DatapathProtocolClass(pair.Protocol)],
	}
}
