// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"replypath/bpf"
	"replypath/bpf/internal/fuzz"
	"replypath/bpf/internal/model"
	"replypath/bpf/internal/rig"
)

// newFuzzer loads a datapath of its own: its tables are too large to be compared
// whole, as the other tests do.
func newFuzzer(t testing.TB, opts rig.Options, sockets fuzz.Sockets) *fuzz.Runner {
	t.Helper()
	d, err := rig.Load(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	r, err := fuzz.NewRunner(host, d, sockets, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// compareWithModel runs a program and explains where the two sides differ.
func compareWithModel(t *testing.T, r *fuzz.Runner, program []byte) {
	t.Helper()
	d, err := r.Run(program, false)
	if err != nil {
		t.Fatal(err)
	}
	if d == nil {
		return
	}
	small, text, err := r.Explain(program)
	if err != nil {
		t.Fatalf("%s; shrinking it: %v", d.What, err)
	}
	t.Fatalf("datapath and model differ:\n%s\nprogram: %q\nbefore it was shrunk, at step %d: %s", text, small, d.Step, d.What)
}

// packetsToRun is how many packets TestModel runs: a million in `make test`.
func packetsToRun(t *testing.T) int {
	t.Helper()
	text := os.Getenv("REPLYPATH_FUZZ_PACKETS")
	if text == "" {
		return 100_000
	}
	packets, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("REPLYPATH_FUZZ_PACKETS: %v", err)
	}
	return packets
}

// TestModel holds the datapath against the model: half of the packets are always
// the same ones, half of them others every time.
func TestModel(t *testing.T) {
	t.Run("old kernel", func(t *testing.T) {
		r := newFuzzer(t, fuzz.Options(true), fuzz.Sockets{})
		compareRandomly(t, r, packetsToRun(t)/2)
		checkSeen(t, r)
		checkRemembered(t, r, bpf.DatapathMapFragments, bpf.DatapathMapForeign, bpf.DatapathMapOriginated, fuzz.Answered)
	})
	t.Run("this kernel", func(t *testing.T) {
		r := newFuzzer(t, fuzz.Options(false), fuzz.Sockets{})
		r.Whole = true
		compareRandomly(t, r, packetsToRun(t)/4)
		checkSeen(t, r)
	})
}

// TestModelWithRequests does it where a request sends each SYN-ACK: connections stay in the nursery.
func TestModelWithRequests(t *testing.T) {
	opts := fuzz.Options(true)
	opts.Requests = true
	r := newFuzzer(t, opts, fuzz.Sockets{})
	r.Requests = true
	compareRandomly(t, r, packetsToRun(t)/4)
}

// enough is how many packets it takes to see everything happen.
const enough = 1_000_000

// checkSeen makes sure that the packets were of every kind.
func checkSeen(t *testing.T, r *fuzz.Runner) {
	t.Helper()
	if packetsToRun(t) < enough {
		return
	}
	for event, name := range eventSet {
		if r.Events[event] == 0 && !slices.Contains(unseen, event) {
			t.Errorf("no packet raised %s", name)
		}
	}
	for outcome := range bpf.DatapathOutcomeOUTCOME_END {
		if slices.Contains(unseenOutcomes, outcome) {
			continue
		}
		if r.Outcomes[outcome] == 0 && outcome != bpf.DatapathOutcomeOUTCOME_WEAK_HOST {
			t.Errorf("no reply had outcome %d", outcome)
		}
		isLost := outcome == bpf.DatapathOutcomeOUTCOME_LOST || outcome == bpf.DatapathOutcomeOUTCOME_LOST_LINK_DOWN
		if r.Outcomes[outcome|bpf.DatapathOutcomeOUTCOME_ORIGINATED] == 0 && outcome != bpf.DatapathOutcomeOUTCOME_ASYMMETRIC && !isLost {
			t.Errorf("nothing that the host originates had outcome %d", outcome)
		}
	}
}

// unseenOutcomes need sockets, or no memory.
var unseenOutcomes = []bpf.DatapathOutcome{
	bpf.DatapathOutcomeOUTCOME_NO_HEADER_ROOM, bpf.DatapathOutcomeOUTCOME_BOUND_DEVICE, bpf.DatapathOutcomeOUTCOME_REWRITE_FAILED,
}

// checkRemembered makes sure that there was something to compare in these maps.
func checkRemembered(t *testing.T, r *fuzz.Runner, maps ...string) {
	t.Helper()
	for _, name := range maps {
		if r.Remembered[name] == 0 {
			t.Errorf("nothing was ever in %s", name)
		}
	}
}

// TestModelWithSockets does it where some of the connections have sockets.
func TestModelWithSockets(t *testing.T) {
	r := newFuzzer(t, fuzz.Options(true), realSockets(t))
	compareRandomly(t, r, packetsToRun(t)/4)
	events := []bpf.DatapathEvent{bpf.DatapathEventEVENT_IGNORED_SEGMENT}
	if packetsToRun(t) >= enough { // there is one among tens of thousands of packets
		events = append(events, bpf.DatapathEventEVENT_READMITTED_ESTABLISHED)
	}
	for _, event := range events {
		if r.Events[event] == 0 {
			t.Errorf("no packet raised %s", eventSet[event])
		}
	}
	checkRemembered(t, r, bpf.DatapathMapAsked)
}

// unseen are events that need sockets, full tables, IPsec or the device of the fallback
// route.
var unseen = []bpf.DatapathEvent{
	bpf.DatapathEventEVENT_IGNORED_IPSEC,
	bpf.DatapathEventEVENT_IGNORED_SEGMENT,
	bpf.DatapathEventEVENT_INSERT_FAILED_HALF_OPEN,
	bpf.DatapathEventEVENT_INSERT_FAILED_ESTABLISHED,
	bpf.DatapathEventEVENT_INSERT_FAILED_CONNECTIONLESS,
	bpf.DatapathEventEVENT_INSERT_FAILED_OUTBOUND,
	bpf.DatapathEventEVENT_INSERT_FAILED_COUNTER,
	bpf.DatapathEventEVENT_EVICTED_HALF_OPEN,
	bpf.DatapathEventEVENT_EVICTED_ESTABLISHED,
	bpf.DatapathEventEVENT_EVICTED_CONNECTIONLESS,
	bpf.DatapathEventEVENT_EVICTED_OUTBOUND,
	bpf.DatapathEventEVENT_READMITTED_ESTABLISHED,
	bpf.DatapathEventEVENT_SOURCE_REPAIRED_V4,
	bpf.DatapathEventEVENT_SOURCE_REPAIRED_V6,
	bpf.DatapathEventEVENT_FALLBACK_DROPPED_V4,
	bpf.DatapathEventEVENT_FALLBACK_DROPPED_V6,
	bpf.DatapathEventEVENT_END,
}

func compareRandomly(t *testing.T, r *fuzz.Runner, packets int) {
	t.Helper()
	for i, seed := range []uint64{1, uint64(time.Now().UnixNano())} {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 0))
			for r.Packets < packets/2*(i+1) {
				compareWithModel(t, r, fuzz.Random(rng, 40))
			}
		})
	}
}

// realSockets are a connection that a peer opened, one that the host opened, and
// a listener, in each family; and UDP sockets: connected ones, ones bound to an address, and one
// for everything at the port after theirs.
func realSockets(t testing.TB) fuzz.Sockets {
	t.Helper()
	s := fuzz.Sockets{
		Sockets: model.Sockets{
			Connections:  make(map[model.Tuple]model.Socket),
			Listeners:    make(map[netip.AddrPort]bool),
			ConnectedUDP: make(map[model.Tuple]bool),
			OpenUDP:      make(map[netip.AddrPort]bool),
		},
		Begin: make(map[model.Tuple][2]uint32),
	}
	add := func(n network, c connection, accepted bool) {
		s.Connections[n.tuple(tcp{})] = model.Socket{
			Accepted: accepted, Received: c.received, Acked: c.acked, Written: c.acked + uint32(c.unacked), Window: c.window,
		}
		s.Begin[n.tuple(tcp{})] = [2]uint32{c.received - 1, c.acked - 1}
	}
	listen := func(at netip.AddrPort) {
		fd := listenUDP(t, at)
		s.OpenUDP[at] = true
		t.Cleanup(func() { closeSocket(t, fd) })
	}
	listen(netip.AddrPortFrom(netip.IPv6Unspecified(), selfPort+2))
	for _, n := range networks {
		peer, self := netip.AddrPortFrom(n.peer, peerPort), netip.AddrPortFrom(n.self, selfPort)
		listen(netip.AddrPortFrom(n.self, selfPort+1))
		add(newcomer(n), accept(t, newcomer(n)), true)
		opened := connection{received: 1 << 20, acked: 1<<32 - 500, unacked: 1000, window: 100_000}
		fds := []int{connectTCP(t, self, peer, opened)}
		add(n, opened, false)
		listener := netip.AddrPortFrom(n.self, selfPort+1)
		fds = append(fds, listenTCP(t, listener), connectUDP(t, self, peer))
		s.Listeners[listener] = true
		s.ConnectedUDP[n.tuple(udp{})] = true
		t.Cleanup(func() {
			for _, fd := range fds {
				closeSocket(t, fd)
			}
		})
	}
	return s
}

// FuzzDatapath is for `go test -fuzz=FuzzDatapath ./bpf`.
func FuzzDatapath(f *testing.F) {
	r := newFuzzer(f, fuzz.Options(true), fuzz.Sockets{})
	for seed := range uint64(10) {
		f.Add(fuzz.Random(rand.New(rand.NewPCG(seed, 1)), 20))
	}
	f.Fuzz(func(t *testing.T, program []byte) { compareWithModel(t, r, program) })
}

// tiny are options that leave room for eight entries in each table.
func tiny() rig.Options {
	opts := fuzz.Options(true)
	opts.Sets = 1
	return opts
}

// checkFull runs a program where tables are full.
func checkFull(t *testing.T, r *fuzz.Runner, program []byte) {
	t.Helper()
	what, err := r.RunFull(program)
	if err != nil {
		t.Fatal(err)
	}
	if what != "" {
		t.Fatalf("%s\nprogram: %q", what, program)
	}
}

// TestFullTables: whatever is forgotten, nothing goes where it does not belong,
// and nothing but connections pushes out connections.
func TestFullTables(t *testing.T) {
	r := newFuzzer(t, tiny(), fuzz.Sockets{})
	for i, seed := range []uint64{1, uint64(time.Now().UnixNano())} {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 0))
			for r.Packets < packetsToRun(t)/20*(i+1) {
				checkFull(t, r, fuzz.Random(rng, 60))
			}
		})
	}
	if packetsToRun(t) < enough {
		return
	}
	counts, err := r.Counted()
	if err != nil {
		t.Fatal(err)
	}
	// Handshakes mostly take the places of strays, which is no eviction.
	for event := bpf.DatapathEventEVENT_EVICTED_ESTABLISHED; event <= bpf.DatapathEventEVENT_EVICTED_OUTBOUND; event++ {
		if counts[event] == 0 {
			t.Errorf("no packet raised %s", eventSet[event])
		}
	}
}

// FuzzFullTables is TestFullTables for `go test -fuzz=FuzzFullTables ./bpf`.
func FuzzFullTables(f *testing.F) {
	r := newFuzzer(f, tiny(), fuzz.Sockets{})
	for seed := range uint64(10) {
		f.Add(fuzz.Random(rand.New(rand.NewPCG(seed, 2)), 60))
	}
	f.Fuzz(func(t *testing.T, program []byte) { checkFull(t, r, program) })
}
