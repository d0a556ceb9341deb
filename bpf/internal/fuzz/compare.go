// SPDX-License-Identifier: Apache-2.0

package fuzz

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/bpf/internal/model"
	"replypath/bpf/internal/rig"
)

// compareEvents holds the events since the beginning against the model's.
func (x *run) compareEvents(events map[bpf.DatapathEvent]uint64) string {
	var what strings.Builder
	for e := range bpf.DatapathEventEVENT_END {
		if got, want := events[e]-x.events[e], x.m.Events[e]; got != want {
			fmt.Fprintf(&what, "event %d counted %d times, in the model %d\n", e, got, want)
		}
	}
	return what.String()
}

// compareAll compares tables and counters.
func (x *run) compareAll() (string, error) {
	if err := x.sets.Read(); err != nil {
		return "", err
	}
	now, err := x.d.Now()
	if err != nil {
		return "", err
	}
	var what strings.Builder
	for i, table := range []struct {
		name string
		want map[model.Tuple]model.Flow
	}{
		{"half-open", x.m.HalfOpen},
		{"established", x.m.Established},
		{"connectionless", x.m.Connectionless},
	} {
		live := func(f model.Flow) bool { return x.live(i, f) }
		got, problem := x.flows(i)
		what.WriteString(problem)
		for t, f := range got {
			if want, ok := table.want[t]; !ok && live(f) {
				fmt.Fprintf(&what, "%s: not in the model: %s\n", table.name, text(f))
			} else if ok && (live(f) || live(want)) && !same(f, want, table.name == "half-open", now-x.start) {
				fmt.Fprintf(&what, "%s: %s, in the model\n\t%s\n", table.name, text(f), text(want))
			}
		}
		for t, want := range table.want {
			if _, ok := got[t]; !ok && live(want) {
				fmt.Fprintf(&what, "%s: not in the datapath: %s\n", table.name, text(want))
			}
		}
	}
	x.compareNotes(&what, now-x.start)
	if err := x.compareOriginated(&what, now-x.start); err != nil {
		return "", err
	}
	if err := x.comparePlaces(&what, now-x.start); err != nil {
		return "", err
	}
	err = x.compareCounters(&what) // before what was found is read
	return what.String(), err
}

// flows is what one table holds, and what the nursery holds of its kind, which is newer.
func (x *run) flows(table int) (flows map[model.Tuple]model.Flow, problem string) {
	flows, problem = x.flowsIn(table)
	young, youngProblem := x.flowsIn(int(bpf.DatapathTableTABLE_NURSERY))
	for t, f := range young {
		isHandshake := f.Flags&uint16(bpf.DatapathFlowFlagsFLOW_HANDSHAKE) != 0
		f.Flags &^= uint16(bpf.DatapathFlowFlagsNURSERY_FLAGS)
		if isHandshake && table != int(bpf.DatapathTableTABLE_HALF_OPEN) || !isHandshake && table != int(bpf.DatapathTableTABLE_ESTABLISHED) {
			continue
		}
		if _, twice := flows[t]; twice {
			youngProblem += fmt.Sprintf("table %d: in the nursery as well: %s\n", table, text(f))
		}
		flows[t] = f
	}
	return flows, problem + youngProblem
}

func (x *run) flowsIn(table int) (flows map[model.Tuple]model.Flow, problem string) {
	flows = make(map[model.Tuple]model.Flow)
	for i := range x.sets.Flows[table] {
		set := &x.sets.Flows[table][i]
		if tags := x.sets.Tags[table][i]; tags&^bpf.Overflowed != bpf.Tags(set.Digest) {
			problem += fmt.Sprintf("table %d: set %d has the tags %#x: %#x\n", table, i, tags, set.Digest)
		}
		for way, digest := range set.Digest {
			if digest == 0 {
				continue
			}
			f := set.Flow[way]
			if rig.IsOriginated(&f) { // the model decides about each packet
				continue
			}
			if _, twice := flows[f.Tuple]; twice || digest != x.d.Seeds.Digest(f.Tuple) {
				problem += fmt.Sprintf("table %d: twice, or under a wrong digest: %s\n", table, text(f))
			}
			flows[f.Tuple] = f
		}
	}
	return flows, problem
}

// same compares entries: the times of the datapath's may be later, by as much as
// the run has taken.
func same(got, want model.Flow, halfOpen bool, late uint32) bool {
	if got.Seen-want.Seen > late || got.Created-want.Created > late {
		return false
	}
	if uint32(got.Told-want.Told) > late {
		return false
	}
	got.Seen, got.Created, got.Told = want.Seen, want.Created, want.Told
	// Sequence numbers mean nothing in other entries than these.
	if !halfOpen && want.Flags&uint16(bpf.DatapathFlowFlagsFLOW_NO_SOCKET) == 0 {
		got.SndUna, got.SndNxt, got.RcvNxt = want.SndUna, want.SndNxt, want.RcvNxt
	}
	return got == want
}

// compareNotes compares what is known of who spoke first, and what is marked.
func (x *run) compareNotes(what *strings.Builder, late uint32) {
	notes := make(map[uint64]model.Tuple)
	for t, want := range x.m.Outbound {
		notes[x.d.Seeds.Digest(t)] = t
		got, ok := x.noted(t)
		if t.Protocol == unix.IPPROTO_TCP {
			got.Answered, got.Checked = want.Answered, want.Checked
		}
		if x.m.IsNoted(want.Sent) && (!ok || got.Sent-want.Sent > late || got.Answered != want.Answered || got.Checked != want.Checked) {
			fmt.Fprintf(what, "outbound: %s %+v, found %v; in the model %+v\n", tupleText(t), got, ok, want)
		}
	}
	for i := range x.sets.Outbound {
		for way, digest := range x.sets.Outbound[i].Digest {
			if _, ok := notes[digest]; digest != 0 && !ok && x.m.IsNoted(x.sets.Outbound[i].Sent[way]) {
				fmt.Fprintf(what, "outbound: digest %#x at %d is not in the model\n", digest, x.sets.Outbound[i].Sent[way])
			}
		}
	}
	for t := range x.tuples {
		if got, err := x.marked(t); err != nil || got != x.m.Marks[t] {
			fmt.Fprintf(what, "marks: %s %v, in the model %v\n", tupleText(t), got, x.m.Marks[t])
		}
	}
}

func (x *run) noted(t model.Tuple) (model.Note, bool) {
	digest := x.d.Seeds.Digest(t)
	first, second := bpf.Sets(digest, uint32(len(x.sets.Outbound)))
	for _, index := range []uint32{first, second} {
		for way, found := range x.sets.Outbound[index].Digest {
			if found == digest {
				set := &x.sets.Outbound[index]
				flags := set.Answered[way]
				return model.Note{
					Sent: set.Sent[way], Answered: flags&uint32(bpf.DatapathNoteFlagsNOTE_ANSWERED) != 0,
					Checked: flags&uint32(bpf.DatapathNoteFlagsNOTE_CHECKED) != 0,
				}, true
			}
		}
	}
	return model.Note{}, false
}

func (x *run) compareCounters(what *strings.Builder) error {
	pairs, err := x.readPairs()
	if err != nil {
		return err
	}
	x.lastPairs = pairs
	all := make(map[model.Pair]bool)
	for p := range pairs {
		all[p] = true
	}
	for p := range x.m.Pairs {
		all[p] = true
	}
	for p := range all {
		now, before, want := pairs[p], x.pairs[p], x.m.Pairs[p]
		got := model.Count{Packets: now.Packets - before.Packets, Bytes: now.Bytes - before.Bytes, Flows: now.Flows - before.Flows}
		if got != want {
			fmt.Fprintf(what, "pair %+v: %+v, in the model %+v\n", p, got, want)
		}
	}
	return nil
}

func text(f model.Flow) string {
	return fmt.Sprintf("%s by %d (id %d) gateway %d mac %x flags %#x state %#x snd_una %d snd_nxt %d rcv_nxt %d seen %d created %d corrected %d told %d",
		tupleText(f.Tuple), f.Ifindex, f.Interface, f.Gateway, f.Mac, f.Flags, f.State, f.SndUna, f.SndNxt, f.RcvNxt, f.Seen, f.Created, f.Corrected, f.Told)
}

func tupleText(t model.Tuple) string {
	return fmt.Sprintf("%d %x:%#x-%x:%#x", t.Protocol, t.Peer, t.PeerPort, t.Self, t.SelfPort)
}
