package loader

import (
	"slices"

	"replypath/bpf"
	"replypath/loader/pins"
)

// mostPast bounds what is past: the journal holds a mebibyte. Names of which nothing is
// left are forgotten beyond it, those that were longest ago first.
const mostPast = 1000

// retire adds what was counted under an interface id to what is past, by the names that its
// interfaces have had so far, and starts anew: the id or its name is about to be
// another's, and what was counted for a name stays with it.
func (l *Loader) retire(id uint16) error {
	l.reading.Lock() // who knows the journal of before has read the maps of before
	defer l.reading.Unlock()
	counted, forgotten, err := forgetCounters(&l.datapath.DatapathMaps, id, l.state.Forgotten)
	if err != nil {
		return err
	}
	names := namesByID(l.state.Interfaces)
	past := slices.Clone(l.state.Past)
	for pair, count := range counted {
		past = addPast(past, pastOf(pair, count, names))
	}
	l.state.Forgotten, l.state.Past = forgotten, l.boundPast(past)
	return nil
}

func pastOf(pair bpf.DatapathPair, count bpf.DatapathPairCount, names map[uint16]string) pins.PastRecord {
	return pins.PastRecord{
		From: names[pair.From], To: names[pair.To],
		Family: pair.Family, Protocol: pair.Protocol, Outcome: pair.Outcome,
		Packets: count.Packets, Bytes: count.Bytes, Flows: count.Flows,
	}
}

// addPast adds to the record of the same names, which becomes the latest.
func addPast(past []pins.PastRecord, r pins.PastRecord) []pins.PastRecord {
	same := func(p pins.PastRecord) bool {
		return p.From == r.From && p.To == r.To && p.Family == r.Family && p.Protocol == r.Protocol && p.Outcome == r.Outcome
	}
	if i := slices.IndexFunc(past, same); i >= 0 {
		r.Packets += past[i].Packets
		r.Bytes += past[i].Bytes
		r.Flows += past[i].Flows
		past = slices.Delete(past, i, i+1)
	}
	return append(past, r)
}

// boundPast forgets names that no interface has any more, nor is recorded to have had.
func (l *Loader) boundPast(past []pins.PastRecord) []pins.PastRecord {
	recorded := map[string]bool{"": true} // replypath0 has no id
	for _, r := range l.state.Interfaces {
		recorded[r.Name] = true
	}
	excess := len(past) - mostPast
	return slices.DeleteFunc(past, func(r pins.PastRecord) bool {
		if excess <= 0 || recorded[r.From] && recorded[r.To] {
			return false
		}
		excess--
		return true
	})
}
