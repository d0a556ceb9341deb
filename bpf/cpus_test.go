// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"replypath/bpf"
	"replypath/bpf/internal/rig"
	"replypath/test/await"
)

// What programs on two CPUs do to the same places at the same moment.

// raceTime is how long each race lasts: two seconds, or as the environment has it.
func raceTime(t *testing.T) time.Duration {
	t.Helper()
	text := os.Getenv("REPLYPATH_RACE_SECONDS")
	if text == "" {
		return 2 * time.Second
	}
	seconds, err := strconv.Atoi(text)
	await.Must(t, err)
	return time.Duration(seconds) * time.Second
}

// racer is a peer by two paths, whose MACs are its own; the host answers by the MAC that it came from.
type racer struct {
	network
	paths [2]nic
	in    map[string][2]run // by its two paths
	out   map[string]run
}

// racers are so many peers.
func (b *bed) racers(n network, count int) (all []racer) {
	for _, i := range []nic{b.production, b.replication, b.backup} {
		b.manage(i, func(r *bpf.DatapathInterface) { r.NextHop = uint8(lastHop) })
	}
	for i := range count {
		r := racer{network: n.numbered(uint16(1000 + i)), in: map[string][2]run{}, out: map[string]run{}}
		for p, via := range []nic{b.replication, b.backup} {
			via.router = net.HardwareAddr{2, 0, 0, 1, byte(p), byte(i)}
			r.paths[p] = via
		}
		for name, m := range map[string]message{"syn": syn, "ack": finalAck, "question": udp{}} {
			for p, path := range r.paths {
				comes := r.in[name]
				comes[p] = ingress(path, r.network.in(path, m))
				r.in[name] = comes
			}
		}
		for name, m := range map[string]message{
			"syn-ack": synAck, "data": tcp{flags: "A", seq: ourISN + 1, ack: peerISN + 1}, "answer": udp{},
			"opening": syn, "fin": tcp{flags: "FA", seq: ourISN + 1, ack: peerISN + 1},
		} {
			r.out[name] = egress(b.production, r.network.out(b.production, m))
		}
		all = append(all, r)
	}
	return all
}

// race has a CPU run what next returns until stop; seen gets what became of it.
func (b *bed) race(cpu int, stop *atomic.Bool, next func() run, seen func(verdict int32, frame []byte)) error {
	return host.Do(func() error {
		if err := rig.Pin(cpu); err != nil {
			return err
		}
		buffer := make([]byte, 2048)
		for !stop.Load() {
			r := next()
			opts := ebpf.RunOptions{Data: r.frame, DataOut: buffer, Context: rig.Context{Ifindex: r.via.Index}}
			verdict, err := b.program(r.program).Run(&opts)
			if err != nil {
				return err
			}
			seen(int32(verdict), opts.DataOut)
		}
		return nil
	})
}

// pathOf tells by which of its peer's paths a frame leaves; -1: by none.
func (r *racer) pathOf(frame []byte) int {
	for i, path := range r.paths {
		if bytes.Equal(frame[:6], path.router) && bytes.Equal(frame[6:12], path.MAC) {
			return i
		}
	}
	return -1
}

// together runs all at once, and ends them after a while.
func together(t *testing.T, stop *atomic.Bool, all ...func() error) {
	t.Helper()
	var wait sync.WaitGroup
	ctx, end := context.WithTimeout(t.Context(), raceTime(t))
	defer end()
	errs := make([]error, len(all))
	for i, f := range all {
		wait.Go(func() {
			if errs[i] = f(); errs[i] != nil {
				end()
			}
		})
	}
	<-ctx.Done()
	stop.Store(true)
	wait.Wait()
	await.Must(t, errors.Join(errs...))
}

// TestMovesMeanwhile: while a conversation moves to and fro between two paths, replies of another CPU leave by one of
// them, and none by half a path. Hardly one finds no flow, as a reader that is interrupted may.
func TestMovesMeanwhile(t *testing.T) {
	eachFamilyOn(t, twoBuckets, func(t *testing.T, b *bed, n network) {
		var stop atomic.Bool
		r, moves, halves, lost, replies := b.racers(n, 1)[0], 0, 0, 0, 0
		b.follow(bpf.DatapathFollowFOLLOW_LATEST)
		b.exec(r.in["question"][0])
		together(t, &stop, func() error {
			return b.race(0, &stop, func() run { moves++; return r.in["question"][moves%2] }, func(int32, []byte) {})
		}, func() error {
			return b.race(1, &stop, func() run { return r.out["answer"] }, func(verdict int32, frame []byte) {
				replies++
				if verdict != redirect {
					lost++
				} else if r.pathOf(frame) < 0 {
					halves++
				}
			})
		})
		t.Logf("%d moves, %d replies, of which %d find no flow", moves, replies, lost)
		if halves > 0 || lost > 1+replies/10000 {
			t.Errorf("of %d replies, %d leave by half a path, and %d find no flow", replies, halves, lost)
		}
	})
}

// changes reads how often places of two buckets have changed, when no CPU is just changing them.
func (b *bed) changes() (uint32, error) {
	var lock bpf.DatapathBucketLock
	err := b.BucketLocks.LookupWithFlags(uint32(0), &lock, ebpf.LookupLock)
	return lock.Changes, err
}

// looks reads the places again and again, while programs change them, and returns how often none did.
func (b *bed) looks(stop *atomic.Bool) (held int, err error) {
	cells := make([]bpf.DatapathFlow, b.Cells.MaxEntries())
	for !stop.Load() {
		before, err := b.changes()
		if err := errors.Join(err, b.Places.Read()); err != nil {
			return held, err
		}
		for i := range cells {
			if err := b.Cells.Lookup(uint32(i), &cells[i]); err != nil {
				return held, err
			}
		}
		switch after, err := b.changes(); {
		case err != nil:
			return held, err
		case before == after:
			held++
			if err := b.judge(cells); err != nil {
				return held, err
			}
		}
	}
	return held, nil
}

// judge wants each place to be its cell's: of its digest and its kind, and the only one that a tuple has in a table.
// What was validated stands in no last place.
func (b *bed) judge(cells []bpf.DatapathFlow) error {
	type entry struct {
		bpf.DatapathTable
		bpf.DatapathTuple
	}
	seen := make(map[entry]bool)
	for i, place := range b.Places.Elements {
		kind := bpf.DatapathKind(place >> bpf.DatapathPlacePLACE_KIND_SHIFT & 15)
		if kind == bpf.DatapathKindKIND_FREE || kind == bpf.DatapathKindKIND_MARK || kind == bpf.DatapathKindKIND_NOTE {
			continue
		}
		table := []*bpf.FlowTable{b.HalfOpen, b.Established, b.Connectionless}
		of := slices.IndexFunc(table, func(t *bpf.FlowTable) bool { return t.KindOf(&cells[i]) == kind })
		tuple := cells[i].Tuple
		isOther := (place^b.Seeds.Digest(tuple))>>bpf.DatapathPlacePLACE_KEY_SHIFT != 0
		if of < 0 || isOther || seen[entry{table[of].ID, tuple}] || rig.Misplaced(i, kind) {
			return fmt.Errorf("place %d, of kind %d: %#x, is none of %+v, or its second one", i, kind, place, cells[i])
		}
		seen[entry{table[of].ID, tuple}] = true
	}
	return nil
}

// scripts are what the packets of a peer may be, in their order: a letter of b comes by its second path.
var scripts = [][]string{
	{"syn", "syn-ack", "ack", "data", "data"}, {"syn", "syn-ack", "ack b", "data", "ack", "data"},
	{"syn b", "syn", "syn-ack", "ack"}, {"data", "fin", "data"}, {"opening"},
	{"question", "answer", "question", "answer"}, {"question b", "answer", "question"}, {"ack"},
}

// TestTwoCPUs: flows of 24 peers look for 16 places, begin, move, end, are answered and removed on two CPUs at once,
// while user space reads and deletes. No reply leaves by half a path, or by another peer's.
func TestTwoCPUs(t *testing.T) {
	eachFamilyOn(t, twoBuckets, func(t *testing.T, b *bed, n network) {
		var stop atomic.Bool
		var moved, strange [2]int
		all, held := b.racers(n, 24), 0
		b.follow(bpf.DatapathFollowFOLLOW_LATEST)
		actors := []func() error{}
		for cpu := range 2 {
			random := rand.New(rand.NewPCG(uint64(cpu), 1))
			var who *racer
			var script []string
			next := func() run {
				if len(script) == 0 {
					who, script = &all[random.IntN(len(all))], scripts[random.IntN(len(scripts))]
				}
				name, second := strings.CutSuffix(script[0], " b")
				script = script[1:]
				if comes, is := who.in[name]; is {
					return comes[either(second, 1, 0)]
				}
				return who.out[name]
			}
			actors = append(actors, func() error {
				return b.race(cpu, &stop, next, func(verdict int32, frame []byte) {
					if verdict != redirect {
						return
					}
					if moved[cpu]++; who.pathOf(frame) < 0 {
						strange[cpu]++
						t.Logf("a reply to %s leaves with %x", who.peer, frame[:12])
					}
				})
			})
		}
		actors = append(actors, func() (err error) { held, err = b.looks(&stop); return err }, func() error {
			pace := time.NewTicker(time.Millisecond)
			defer pace.Stop()
			for i := 0; !stop.Load(); i++ {
				table := []*bpf.FlowTable{b.HalfOpen, b.Established, b.Connectionless}[i%3]
				tuple := all[i/3%len(all)].tuple(either[message](table == b.Connectionless, udp{}, tcp{}))
				goOn := func(uint64, *bpf.DatapathFlow) bool { return true }
				if err := errors.Join(table.Each(goOn), table.Delete(b.Seeds.Digest(tuple))); err != nil {
					return err
				}
				<-pace.C
			}
			return nil
		})
		together(t, &stop, actors...)
		_, counts := b.snapshot() // which wants that no place is still being written
		t.Log(moved, "replies were moved;", held, "looks;", eventSet.text(counts.Events))
		if strange != [2]int{} || moved[0] == 0 || moved[1] == 0 || held == 0 {
			t.Errorf("%v replies leave by other paths than their peers', of %v; %d looks", strange, moved, held)
		}
	})
}
