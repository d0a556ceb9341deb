// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/bpf/internal/rig"
	"replypath/test/await"
)

// Which place of the table a flow gets, and what it takes that from: src/table.h.

const places = int(bpf.DatapathPlacePLACES)

// occupants are what a place may hold, by a letter, with a message of theirs.
var occupants = map[byte]struct {
	message
	enter func(b *bed, n network, age uint32) func(tables)
}{
	's': {syn, func(b *bed, n network, age uint32) func(tables) { return halfOpen(b.stray(n, syn, b.backup, age)) }},
	'h': {syn, func(b *bed, n network, age uint32) func(tables) { return halfOpen(b.answered(n, b.backup, age)) }},
	'q': {udp{}, func(b *bed, n network, age uint32) func(tables) {
		f := b.flow(n, udp{}, b.backup, age)
		f.Flags &^= flagAssured
		return connectionlessFlow(f)
	}},
	'c': {tcp{}, func(b *bed, n network, age uint32) func(tables) {
		return establishedFlow(b.closing(n, b.backup, age))
	}},
	'a': {udp{}, func(b *bed, n network, age uint32) func(tables) {
		return connectionlessFlow(b.flow(n, udp{}, b.backup, age))
	}},
	'o': {tcp{}, func(b *bed, n network, age uint32) func(tables) {
		return establishedFlow(b.flow(n, tcp{}, b.backup, age))
	}},
}

// has tells whether the tables have what a tuple enters of this kind.
func has(t tables, kind byte, tuple bpf.DatapathTuple) bool {
	of := map[byte]entries{'s': t.HalfOpen, 'h': t.HalfOpen, 'q': t.Connectionless, 'a': t.Connectionless}[kind]
	if kind == 'c' || kind == 'o' {
		of = t.Established
	}
	_, found := of[tuple]
	return found
}

// homeOf is the bucket of a tuple.
func (b *bed) homeOf(n network, m message) int {
	return int(b.Seeds.Digest(n.tuple(m))>>1) & int(b.Buckets.MaxEntries()-1)
}

// placesOf are the buckets, of two, that have a flow of a tuple.
func (b *bed) placesOf(tuple bpf.DatapathTuple) (buckets []int) {
	b.t.Helper()
	b.must(b.Places.Read())
	const key = bpf.DatapathPlacePLACE_KEY_SHIFT
	for i, place := range b.Places.Elements {
		switch bpf.DatapathKind(place >> bpf.DatapathPlacePLACE_KIND_SHIFT & 15) {
		case bpf.DatapathKindKIND_FREE, bpf.DatapathKindKIND_MARK, bpf.DatapathKindKIND_NOTE:
			continue
		}
		if place>>key == b.Seeds.Digest(tuple)>>key {
			buckets = append(buckets, i/places)
		}
	}
	return buckets
}

// occupant is one that a test has put into a bucket. Its word is a letter, its age in seconds, and ! in the last place.
type occupant struct {
	word  string
	tuple bpf.DatapathTuple
}

// putLast has this stand in the last place of a bucket, nothing for nil. What is there goes to a free one.
func (b *bed) putLast(bucket int, change func(tables)) {
	b.t.Helper()
	const last, spilled = bpf.DatapathPlacePLACES - 1, uint64(bpf.DatapathPlacePLACE_SPILLED)
	way := func(key uint64) uint32 {
		b.must(b.Places.Read())
		return uint32(slices.IndexFunc(b.Places.Elements[bucket*places:][:places], func(place uint64) bool {
			return place>>bpf.DatapathPlacePLACE_KEY_SHIFT == key
		}))
	}
	swap := func(i uint32) {
		var cells [2]bpf.DatapathFlow
		first, second := uint32(bucket*places)+i, uint32(bucket*places)+uint32(last)
		b.must(b.Cells.Lookup(first, &cells[0]))
		b.must(b.Cells.Lookup(second, &cells[1]))
		b.must(b.Cells.Put(first, &cells[1]))
		b.must(b.Cells.Put(second, &cells[0]))
		x, y := &b.Places.Elements[first], &b.Places.Elements[second]
		*x, *y = *y|*x&spilled, *x&^spilled
		b.must(b.Places.Write())
	}
	if i := way(0); i < uint32(last) {
		swap(i)
	}
	if change == nil {
		return
	}
	t := rig.NewTables()
	change(t)
	for table, flows := range map[*bpf.FlowTable]entries{b.HalfOpen: t.HalfOpen, b.Connectionless: t.Connectionless} {
		for tuple, f := range flows {
			b.must(b.AddFlow(table, f))
			swap(way(b.Seeds.Digest(tuple) >> bpf.DatapathPlacePLACE_KEY_SHIFT))
		}
	}
}

// occupy says how these come into buckets of two, each of another peer than all others, and what into the last place.
func (b *bed) occupy(n network, bucket int, words string, peer *uint16) (
	who []occupant, changes []func(tables), last func(tables),
) {
	b.t.Helper()
	for _, word := range strings.Fields(words) {
		kind := occupants[word[0]]
		age, err := strconv.ParseUint(strings.TrimSuffix(word[1:], "!"), 10, 32)
		b.must(err)
		next := n
		for next.peer == n.peer || b.homeOf(next, kind.message) != bucket {
			*peer++
			next = n.numbered(*peer)
		}
		who = append(who, occupant{word, next.tuple(kind.message)})
		if change := kind.enter(b, next, uint32(age)); strings.HasSuffix(word, "!") {
			last = change
		} else {
			changes = append(changes, change)
		}
	}
	return who, changes, last
}

// numbered is the network with another peer.
func (n network) numbered(peer uint16) network {
	address := n.peer.AsSlice()
	binary.BigEndian.PutUint16(address[len(address)-2:], peer)
	n.peer, _ = netip.AddrFromSlice(address)
	return n
}

// arrivals are flows that look for a place, by a letter. What has one before stands in its bucket, a second old.
var arrivals = map[byte]struct {
	kind byte
	message
	before byte
	arrive func(t *testing.T, b *bed, n network) // nil: the message, by another path than before
	last   bool                                  // what was before stands in the last place
}{
	's': {kind: 's', message: tcp{flags: "A"}},
	'h': {kind: 'h', message: syn},
	'q': {kind: 'q', message: udp{}},
	'a': {kind: 'a', message: udp{}, before: 'a'},
	'o': {kind: 'o', message: finalAck, before: 'h'},
	'O': {kind: 'o', message: finalAck, before: 'h', last: true},
	'm': {kind: 'o', message: tcp{flags: "A"}, before: 'o', arrive: func(t *testing.T, b *bed, n network) {
		c := connection{received: 1000, acked: 2000, window: 4096}
		fd := connectTCP(t, n.here(), n.there(), c)
		b.exec(ingress(b.replication, n.in(b.replication, tcp{flags: "A", seq: c.received, ack: c.acked})))
		closeSocket(t, fd)
	}},
	'r': {kind: 'o', message: tcp{}, arrive: func(t *testing.T, b *bed, n network) { b.readmit(t, n, false) }},
	'c': {kind: 'c', message: tcp{}, arrive: func(t *testing.T, b *bed, n network) { b.readmit(t, n, true) }},
}

// readmit has a segment of a connection come in that the host has, or has closed.
func (b *bed) readmit(t *testing.T, n network, closes bool) {
	client, accepted := connectPair(t, n.here(), n.there())
	c := standing(t, accepted)
	if closes {
		b.must(unix.Shutdown(accepted, unix.SHUT_WR))
		c.acked++ // perhaps it is by now
	}
	b.exec(ingress(b.replication, n.in(b.replication, tcp{flags: "A", seq: c.received, ack: c.acked})))
	abort(t, client)
	abort(t, accepted)
}

const (
	open6  = "o81 o71 o61 o51 o41 o31"
	open7  = open6 + " o21"
	talks7 = "a81 a71 a61 o91 o92 o93 o94"
)

// placesGivenUp are what two buckets have, whose place goes to whom, and in which of them that stands: 0, 1, or -1.
var placesGivenUp = []struct {
	what, home, other string
	arrivals          string
	gone              string
	stands            int
}{
	{"free", "s99 h98 q97 c96 a95 o94", "", "shqrc", "", 0},
	{"free, by one that has a place", "s99 h98 q97 c96 a95", "", "aomO", "", 0},
	{"the last, which is free", "s99 h98 q97 c96 a95 o94 o93", "", "shq", "", 0},
	{"a stray, though the last is free", "s99 h98 q97 c96 a95 o94 o93", "", "rc", "s99", 0},
	{"a stray that is over", "h90 q90! c90 a90 o94 o93 o92 s400", "", "shqrc", "s400", 0},
	{"a handshake that is over", "s90 q90! c90 a90 o94 o93 o92 h400", "", "shqrc", "h400", 0},
	{"a question that is over", "s90 h90! c90 a90 o94 o93 o92 q400", "", "shqrc", "q400", 0},
	{"a closing one that is over", "s90 h90! q90 a90 o94 o93 o92 c3000", "", "shqrc", "c3000", 0},
	{"a conversation that is over", "s90 h90! q90 c90 o94 o93 o92 a400", "", "shqrc", "a400", 0},
	{"a connection that is over", "s90 h90! q90 c90 a90 o93 o92 o140000", "", "shqrc", "o140000", 0},
	{"what is over longest", "s90 h90! a500 c90 a90 o93 h400 o140000", "", "hqrc", "o140000", 0},
	{"over, by one that has a place", "s90 h90! c90 o93 o92 a400 o91", "", "aom", "a400", 0},
	{"over, in the last place", "s90 h90 q90 c90 a90 o93 o92 q400!", "", "shq", "q400!", 0},
	{"a stray, though the last is over", "s90 h90 q90 c90 a90 o93 o92 q400!", "", "rc", "s90", 0},
	{"a stray, of its share", "s30 s20 s10 h90! q90 c90 a90 o90", "", "s", "s30", 0},
	{"a handshake, of its share", "h30 h20 h10 s90! q90 c90 a90 o90", "", "h", "h30", 0},
	{"a question, of its share", "q30 q20 q10 s90! h90 c90 a90 o90", "", "q", "q30", 0},
	{"a closing one, of its share", "c30 c20 c10 s90! h90 q90 a90 o90", "", "c", "c30", 0},
	{"before the share", "h30 h20 s10 q90! c90 c91 a90 o90", "", "h", "s10", 0},
	{"before the share", "q30 q20 s10 h40! c90 c91 a90 o90", "", "q", "s10", 0},
	{"the oldest of the lowest kind", "s10 s20 h90 q90! c90 c91 a90 o90", "", "shqrc", "s20", 0},
	{"the oldest of the lowest kind", "h10 h20 q90! c90 c91 a90 o90 o91", "", "shqrc", "h20", 0},
	{"the oldest of the lowest kind", "q10 q20! c90 c91 c92 a90 o90 o91", "", "shq", "q20!", 0},
	{"the oldest of the lowest kind, but for the last", "q10 q20! c90 c91 c92 a90 o90 o91", "", "r", "q10", 0},
	{"the oldest of the lowest kind, but for the last", "c10 c20 a90 a91 q9! o90 o91 o92", "", "rc", "c20", 0},
	{"a closing one, though there is room elsewhere", "c10 a90 a91 a92 o90 o91 o92", "", "r", "c10", 0},
	{"the last, of what was validated", talks7, open7, "shq", "", 0},
	{"the last, of what was validated", open7, open7, "shq", "", 0},
	{"the last, in turn", open7 + " s9!", open7, "shq", "s9!", 0},
	{"the last, in turn", open7 + " h9!", open7, "shq", "h9!", 0},
	{"the last, in turn", open7 + " q9!", open7, "shq", "q9!", 0},
	{"none, though the last is free", open7, open7, "c", "", -1},
	{"room elsewhere", talks7, "", "r", "", 1},
	{"room elsewhere, by one that has a place", open6, "", "am", "", 1},
	{"room elsewhere, by a handshake in the last place", open7, open6, "O", "", 1},
	{"the lowest kind elsewhere", open7, "c20 h10 o91 o92 o93 o94 o95", "r", "h10", 1},
	{"the lowest kind elsewhere, but for the last", open7, "c20 h10! o91 o92 o93 o94 o95 o96", "r", "c20", 1},
	{"the oldest conversation of both", talks7, "a99 o91 o92 o93 o94 o95 o96", "r", "a99", 1},
	{"the oldest conversation of both", talks7, "a59 o91 o92 o93 o94 o95 o96", "r", "a81", 0},
	{"the oldest connection of both", open7, "o70 o60 o50 o40 o30 o20 o10", "rO", "o81", 0},
	{"the oldest connection of both", open7, "o99 o70 o60 o50 o40 o30 o20", "rO", "o99", 1},
	{"none of another's, by a handshake that has a place", open6, open7, "o", "", 0},
	{"no connection's, by a conversation", open6, open7, "a", "", 0},
}

// TestPlaceGivenUp: what is free goes first, then what is over, then the oldest of the same kind where that has its
// share, then the oldest of the lowest kind. What was not validated takes nothing from what was, and a conversation
// nothing from a connection. The last place of a bucket is for what was not validated: a connection whose handshake
// stands there takes another.
func TestPlaceGivenUp(t *testing.T) {
	eachFamilyOn(t, twoBuckets, func(t *testing.T, b *bed, n network) {
		b.follow(bpf.DatapathFollowFOLLOW_LATEST)
		for _, c := range placesGivenUp {
			for _, letter := range []byte(c.arrivals) {
				b.sub(fmt.Sprintf("%s/to %c/of %s", c.what, letter, c.home), func(t *testing.T) {
					b.givesUp(n, letter, c.home, c.other, c.gone, c.stands)
				})
			}
		}
	})
}

// givesUp has a flow arrive, and wants one to be gone, or none, and the flow to stand in a bucket.
func (b *bed) givesUp(n network, letter byte, home, other, gone string, stands int) {
	b.t.Helper()
	a := arrivals[letter]
	if a.arrive != nil && a.before == 0 {
		n = newcomer(n) // of whom there are sockets
	}
	peer, index := uint16(1000), b.homeOf(n, a.message)
	who, changes, last := b.occupy(n, index, home, &peer)
	others, more, otherLast := b.occupy(n, 1-index, other, &peer)
	if before := occupants[a.before]; a.last {
		last = before.enter(b, n, 1)
	} else if a.before != 0 {
		changes = append(changes, before.enter(b, n, 1))
	}
	b.put(append(changes, more...)...)
	b.putLast(index, last)
	b.putLast(1-index, otherLast)
	if a.arrive != nil {
		a.arrive(b.t, b, n)
	} else {
		b.exec(ingress(b.replication, n.in(b.replication, a.message)))
	}
	after, _ := b.snapshot()
	for _, o := range append(who, others...) {
		if there := has(after, o.word[0], o.tuple); there == (o.word == gone) {
			b.t.Errorf("%s is there: %v", o.word, there)
		}
	}
	want := []int{index ^ stands}
	if stands < 0 {
		want = nil
	}
	tuple := n.tuple(a.message)
	if got := b.placesOf(tuple); !slices.Equal(got, want) || has(after, a.kind, tuple) != (want != nil) {
		b.t.Errorf("it stands in %v, want %v; its bucket is %d", got, want, index)
	}
}

// TestPlaceSpilled: a connection that stands in the other bucket, as its own was full, is found there, also once there
// is room again: it is renewed, closed, and ends there. In the end it has left nothing.
func TestPlaceSpilled(t *testing.T) {
	eachFamilyOn(t, twoBuckets, func(t *testing.T, b *bed, n network) {
		n = newcomer(n)
		c := accept(t, n)
		segment := tcp{flags: "A", seq: c.received, ack: c.acked}
		for _, end := range []struct {
			name string
			run
			kinds int
		}{
			{"closed", egress(b.production, n.out(b.production, tcp{flags: "FA", seq: c.acked, ack: c.received})), 1},
			{"opened anew", egress(b.production, n.out(b.production, syn)), 0},
		} {
			for _, full := range []bool{true, false} {
				peer, home := uint16(1000), b.homeOf(n, tcp{})
				who, changes, _ := b.occupy(n, home, open7, &peer)
				b.put(changes...)
				b.exec(ingress(b.replication, n.in(b.replication, segment)))
				for _, o := range who {
					if !full {
						b.must(b.Established.Delete(b.Seeds.Digest(o.tuple)))
					}
				}
				stands := func(what string, count int) {
					t.Helper()
					if got := b.placesOf(n.tuple(tcp{})); !slices.Equal(got, []int{1 - home}[:count]) {
						t.Errorf("%s, own bucket full %v, %s: it stands in %v", end.name, full, what, got)
					}
				}
				stands("entered", 1)
				b.agePlace(b.Established, n.tuple(tcp{}), 100)
				b.exec(ingress(b.replication, n.in(b.replication, segment)))
				stands("renewed", 1)
				if age := b.ageOfPlace(n.tuple(tcp{})); age > 1 {
					t.Errorf("%s: its place is %d stamps old after a segment", end.name, age)
				}
				reply := egress(b.production, n.out(b.production, tcp{flags: "A", seq: c.acked}))
				if verdict, _, _ := b.exec(reply); verdict != redirect {
					t.Errorf("%s: verdict %d for a reply", end.name, verdict)
				}
				b.exec(end.run)
				stands("ended", end.kinds)
				b.snapshot() // which wants each place to say what its flow is
			}
		}
	})
}

// agePlace has a flow, and its place, be so many seconds older.
func (b *bed) agePlace(table *bpf.FlowTable, tuple bpf.DatapathTuple, seconds uint32) {
	b.t.Helper()
	flow, err := table.Find(b.Seeds.Digest(tuple))
	b.must(err)
	flow.Seen -= b.Seconds(seconds)
	b.must(b.AddFlow(table, *flow))
}

// ageOfPlace is how many stamps ago a tuple's place was written.
func (b *bed) ageOfPlace(tuple bpf.DatapathTuple) uint64 {
	b.t.Helper()
	const key = bpf.DatapathPlacePLACE_KEY_SHIFT
	digest := b.Seeds.Digest(tuple)
	i := slices.IndexFunc(b.Places.Elements, func(place uint64) bool { return place>>key == digest>>key })
	stamp := uint64(b.ago(0) >> bpf.DatapathPlacePLACE_STAMP_SHIFT)
	return (stamp - b.Places.Elements[i]) % uint64(bpf.DatapathPlacePLACE_SPILLED)
}

// TestMoverTakesNoOther: where all are validated, a flow that comes by another path keeps its place: it would take one
// from another to give up its own.
func TestMoverTakesNoOther(t *testing.T) {
	eachFamilyOn(t, twoBuckets, func(t *testing.T, b *bed, n network) {
		b.follow(bpf.DatapathFollowFOLLOW_LATEST)
		for _, c := range []struct {
			letter byte
			home   string
		}{
			{'m', open6}, {'m', "a99 o60 o50 o40 o30 o20"}, {'a', "a99 a98 a97 o60 o50 o40"},
			{'a', "s9 a99 a98 a97 o60 o50"}, {'o', "h99 o70 o60 o50 o40 o30"},
		} {
			b.sub(fmt.Sprintf("%c of %s", c.letter, c.home), func(*testing.T) {
				b.givesUp(n, c.letter, c.home, open7, "", 0)
			})
		}
	})
}

// TestPlaceAhead: what another CPU has renewed in a time that this one has not reached yet is not over.
func TestPlaceAhead(t *testing.T) {
	eachFamilyOn(t, twoBuckets, func(t *testing.T, b *bed, n network) {
		peer, home := uint16(1000), b.homeOf(n, syn)
		who, changes, _ := b.occupy(n, home, open7, &peer)
		b.put(changes...)
		for _, o := range who {
			flow, err := b.Established.Find(b.Seeds.Digest(o.tuple))
			b.must(err)
			flow.Seen = b.ago(0) + 1<<bpf.DatapathPlacePLACE_STAMP_SHIFT
			b.must(b.AddFlow(b.Established, *flow))
		}
		b.exec(ingress(b.replication, n.in(b.replication, syn)))
		after, _ := b.snapshot()
		if len(after.Established) != len(who) {
			t.Errorf("%d of %d connections are left", len(after.Established), len(who))
		}
	})
}

// TestPlaceOfForgedConversations: where a bucket is full of conversations, which anybody can forge, a handshake and a
// question find room.
func TestPlaceOfForgedConversations(t *testing.T) {
	eachFamilyOn(t, twoBuckets, func(t *testing.T, b *bed, n network) {
		for i := range 160 {
			n := n.numbered(uint16(1000 + i))
			b.exec(ingress(b.replication, n.in(b.replication, udp{})))
			b.exec(egress(b.replication, n.out(b.replication, udp{})))
			b.exec(ingress(b.replication, n.in(b.replication, udp{})))
		}
		for _, m := range []message{syn, udp{}} {
			b.exec(ingress(b.replication, n.in(b.replication, m)))
			if len(b.placesOf(n.tuple(m))) == 0 {
				after, counts := b.snapshot()
				t.Errorf("no room for %+v: %d conversations, events %v", m, len(after.Connectionless),
					eventSet.text(counts.Events))
			}
		}
	})
}

// TestQuestionInLastPlace: a question in the last place of a bucket is answered, as often as it is asked. It becomes a
// conversation elsewhere, if there is room for what was validated; else it is asked about again in a second.
func TestQuestionInLastPlace(t *testing.T) {
	eachFamilyOn(t, twoBuckets, func(t *testing.T, b *bed, n network) {
		for i := range 16 {
			n, words := n.numbered(uint16(500+i)), []string{open6, open7}[i%2]
			peer, home := uint16(1000), b.homeOf(n, udp{})
			who, changes, _ := b.occupy(n, home, words, &peer)
			isFull := i%4 == 3
			if isFull {
				others, more, _ := b.occupy(n, 1-home, open7, &peer)
				who = append(who, others...)
				changes = append(changes, more...)
			}
			b.put(changes...)
			for range 3 {
				b.exec(ingress(b.replication, n.in(b.replication, udp{})))
				if verdict, _, _ := b.exec(egress(b.production, n.out(b.production, udp{}))); verdict != redirect {
					t.Errorf("verdict %d for an answer", verdict)
				}
			}
			after, _ := b.snapshot()
			f, found := after.Connectionless[n.tuple(udp{})]
			isCrowded := f.Flags&uint16(bpf.DatapathFlowFlagsFLOW_CROWDED) != 0
			if !found || f.Flags&flagAssured != 0 == isFull || isCrowded != isFull || len(after.Established) != len(who) {
				t.Errorf("%+v, found %v, beside %d connections of %s", f, found, len(after.Established), words)
			}
		}
	})
}

// burst runs all these, and looks at nothing in between.
func (b *bed) burst(count int, next func(i int) []run) {
	b.t.Helper()
	b.must(host.Do(func() error {
		if err := rig.Pin(0); err != nil {
			return err
		}
		for i := range count {
			for _, r := range next(i) {
				opts := ebpf.RunOptions{Data: r.frame, Context: rig.Context{Ifindex: r.via.Index}}
				if _, err := b.program(r.program).Run(&opts); err != nil {
					return err
				}
			}
		}
		return nil
	}))
}

// shakes are the packets of a handshake, and the first of the host's end of the connection.
func (b *bed) shakes(n network) (begin, end []run) {
	return []run{ingress(b.replication, n.in(b.replication, syn)), egress(b.production, n.out(b.production, synAck))},
		[]run{ingress(b.replication, n.in(b.replication, finalAck)),
			egress(b.production, n.out(b.production, tcp{flags: "FA", seq: ourISN + 1, ack: peerISN + 1}))}
}

// floods are what one peer sends of each, and what the host answers.
var floods = map[string]func(b *bed, n network) []run{
	"handshakes": func(b *bed, n network) []run { return []run{ingress(b.replication, n.in(b.replication, syn))} },
	"datagrams":  func(b *bed, n network) []run { return []run{ingress(b.replication, n.in(b.replication, udp{}))} },
	"pings": func(b *bed, n network) []run {
		in := ingress(b.replication, n.in(b.replication, echo{}))
		return []run{in, egress(b.production, n.out(b.production, echo{reply: true})), in}
	},
	"answered questions": func(b *bed, n network) []run {
		in := ingress(b.replication, n.in(b.replication, udp{}))
		return []run{in, egress(b.production, n.out(b.production, udp{}))}
	},
	forgedConversations: func(b *bed, n network) []run {
		in := ingress(b.replication, n.in(b.replication, udp{}))
		return []run{in, egress(b.production, n.out(b.production, udp{})), in}
	},
	"strays": func(b *bed, n network) []run {
		return []run{ingress(b.replication, n.in(b.replication, tcp{flags: "A"}))}
	},
	"ends": func(b *bed, n network) []run {
		begin, end := b.shakes(n)
		return append(begin, end...)
	},
}

const forgedConversations = "forged conversations"

// TestFloods: ten times as many as the table has places push out no connection, however silent, and no conversation.
// Who forges two questions begins one, and so takes their share: more than that are given up as questions are.
// Connections of containers, of which nothing but their handshake tells, come about meanwhile, though 64 peers of the
// flood come between SYN and ACK, and there are 128 buckets.
func TestFloods(t *testing.T) {
	const (
		links, talks = 100, 50
		every        = 64 // of the flood's peers comes somebody who opens a connection, as long as the next takes
	)
	all, least := slices.Sorted(maps.Keys(floods)), map[string]int{"all": 80, forgedConversations: 80}
	mostLost := map[string]int{"all": 3, forgedConversations: 3} // their share is counted in one bucket of the two
	for _, name := range append(all, "all") {
		least[name] = max(least[name], either(least[name] == 0, 125, 0))
		under(t, name, eachFamilyOnCrowded, func(t *testing.T, b *bed, n network) {
			room := int(b.Cells.MaxEntries())
			var quiet []func(tables)
			for i := range links {
				f := b.flow(n.numbered(uint16(i+1)), tcp{}, b.replication, uint32(3600+600*i))
				f.Flags |= flagNoSocket * uint16(i%2) // of a container
				quiet = append(quiet, establishedFlow(f))
			}
			for i := range talks {
				quiet = append(quiet, connectionlessFlow(b.flow(n.numbered(uint16(i+1)), udp{}, b.replication, 100)))
			}
			b.put(quiet...)
			before, _ := b.snapshot()

			var opening []run
			b.burst(10*room, func(i int) (packets []run) {
				one := name
				if name == "all" {
					one = all[i%len(all)]
				}
				packets = floods[one](b, n.numbered(uint16(1000+i)))
				if i%every == 0 {
					begin, end := b.shakes(n.numbered(uint16(50_000 + i/every)))
					packets, opening = append(append(packets, opening...), begin...), end[:1]
				}
				return packets
			})
			after, _ := b.snapshot()
			lost, opened := 0, 0
			for tuple := range before.Connectionless {
				if _, there := after.Connectionless[tuple]; !there {
					lost++
				}
			}
			for i := range 10 * room / every {
				if _, there := after.Established[n.numbered(uint16(50_000+i)).tuple(tcp{})]; there {
					opened++
				}
			}
			t.Logf("%d handshakes, %d connections, %d datagram flows; %d of %d came about meanwhile, %d lost",
				len(after.HalfOpen), len(after.Established), len(after.Connectionless), opened, 10*room/every, lost)
			if lost > mostLost[name] || opened < least[name] {
				t.Errorf("%d conversations are lost, and %d of %d connections came about", lost, opened, 10*room/every)
			}
			for tuple, f := range before.Established {
				if after.Established[tuple] != f {
					t.Errorf("pushed out, or changed: %+v, now %+v", f, after.Established[tuple])
				}
			}
			for i := range links {
				n := n.numbered(uint16(i + 1))
				verdict, frame, _ := b.exec(egress(b.production, n.out(b.production, tcp{flags: "A"})))
				if verdict != redirect || !bytes.Equal(frame[:6], b.replication.router) {
					t.Errorf("an answer of link %d: verdict %d, to %x", i, verdict, frame[:6])
				}
			}
		})
	}
}

func eachFamilyOnCrowded(t *testing.T, f func(*testing.T, *bed, network)) {
	eachFamilyOn(t, crowded, f)
}

// TestNoteMeanwhile: the place of a note may become a flow's while the answer is looked at, which the note is to say.
// That writes nothing to the flow but times.
func TestNoteMeanwhile(t *testing.T) {
	eachFamilyOn(t, interrupted, func(t *testing.T, b *bed, n network) {
		peer, home := uint16(1), b.homeOf(n, tcp{})
		_, changes, _ := b.occupy(n, home, open6, &peer)
		_, more, _ := b.occupy(n, home^int(b.Buckets.MaxEntries()/2), open7, &peer)
		b.put(append(append(changes, more...), b.sent(n, tcp{}, 2))...)
		newcomers, _, _ := b.occupy(n, home, "a0", &peer)
		flow := b.flow(n, udp{}, b.backup, 0)
		flow.Tuple = newcomers[0].tuple
		digest := b.Seeds.Digest(flow.Tuple)
		b.must(b.Meanwhile(digest, flow))
		note := &bpf.DatapathNote{Digest: b.Seeds.Digest(n.tuple(tcp{})), Sent: b.ago(2)}
		b.must(b.Outbound.Put(note)) // its cell was the flow's
		t.Cleanup(func() { b.must(b.Meanwhile(0, flow)) })
		c := connection{received: 1000, acked: 2000, window: 4096}
		fd := connectTCP(t, n.here(), n.there(), c)
		b.exec(ingress(b.replication, n.in(b.replication, tcp{flags: "A", seq: c.received, ack: c.acked})))
		closeSocket(t, fd)
		got, err := b.Connectionless.Find(digest)
		b.must(err)
		if got == nil {
			t.Fatal("the flow took no place")
		}
		got.Seen, got.Created = flow.Seen, flow.Created
		await.Same(t, "the flow", flow, *got)
	})
}
