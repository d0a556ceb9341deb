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
	"replypath/test/short"
)

func newFuzzer(t testing.TB, v variant, sockets fuzz.Sockets) *fuzz.Runner {
	t.Helper()
	d, err := load(v)
	if err != nil {
		t.Fatal(err)
	}
	r := fuzz.NewRunner(host, d, sockets, 0)
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

// packetsToRun is how many packets a test runs, where so many hundredths of all are its.
func packetsToRun(t *testing.T, hundredths int) int {
	t.Helper()
	packets := either(short.Run(t), 20_000, 100_000)
	if text := os.Getenv("REPLYPATH_FUZZ_PACKETS"); text != "" {
		var err error
		if packets, err = strconv.Atoi(text); err != nil {
			t.Fatalf("REPLYPATH_FUZZ_PACKETS: %v", err)
		}
	}
	return packets * hundredths / 100
}

// TestModel holds the datapath against the model: stories, which have everything happen, and then packets, half of them
// always the same ones, half of them others every time.
func TestModel(t *testing.T) {
	for name, oldKernel := range map[string]bool{"old kernel": true, "this kernel": false} {
		t.Run(name, func(t *testing.T) {
			r := newFuzzer(t, either(oldKernel, fuzzedOld, fuzzed), fuzz.Sockets{})
			r.Whole = !oldKernel
			compareStories(t, r, fuzz.Stories())
			checkSeen(t, r)
			checkRemembered(t, r.Remembered, "marks", "records", bpf.DatapathMapWays)
			checkRemembered(t, r.Leads, bpf.DatapathLeadKindLEAD_PARTS)
			compareRandomly(t, r, packetsToRun(t, either(oldKernel, 40, 30)))
		})
	}
}

// compareStories runs programs that are always the same.
func compareStories(t *testing.T, r *fuzz.Runner, stories []fuzz.Program) {
	t.Helper()
	for _, p := range stories {
		d, err := r.RunProgram(p, true)
		if err != nil {
			t.Fatal(err)
		}
		if d != nil {
			t.Fatalf("%s\n%v\nat step %d: %s", p.Setup, p.Steps, d.Step, d.What)
		}
	}
}

// checkRaised makes sure that packets raised these events.
func checkRaised(t *testing.T, counts map[bpf.DatapathEvent]uint64, events ...bpf.DatapathEvent) {
	t.Helper()
	for _, event := range events {
		if counts[event] == 0 {
			t.Errorf("no packet raised %s", eventSet[event])
		}
	}
}

// checkSeen makes sure that the packets were of every kind.
func checkSeen(t *testing.T, r *fuzz.Runner) {
	t.Helper()
	for event, name := range eventSet {
		if r.Events[event] == 0 && !slices.Contains(unseen, event) {
			t.Errorf("no packet raised %s", name)
		}
	}
	for outcome := range bpf.DatapathOutcomeOUTCOME_END {
		if slices.Contains(unseenOutcomes, outcome) {
			continue
		}
		if r.Outcomes[outcome] == 0 && outcome != outcomeWeakHost {
			t.Errorf("no reply had outcome %d", outcome)
		}
		isOfReplies := slices.Contains([]bpf.DatapathOutcome{outcomeAsymmetric, outcomeLost, outcomeLostLinkDown,
			bpf.DatapathOutcomeOUTCOME_UNNAMED_TUNNEL, bpf.DatapathOutcomeOUTCOME_UNRECORDED}, outcome)
		if r.Outcomes[outcome|bpf.DatapathOutcomeOUTCOME_ORIGINATED] == 0 && !isOfReplies {
			t.Errorf("nothing that the host originates had outcome %d", outcome)
		}
	}
}

// unseenOutcomes need sockets, or no memory.
var unseenOutcomes = []bpf.DatapathOutcome{
	outcomeNoHeaderRoom, bpf.DatapathOutcomeOUTCOME_BOUND_DEVICE, bpf.DatapathOutcomeOUTCOME_REWRITE_FAILED,
}

// checkRemembered makes sure that there was something to compare of these.
func checkRemembered[K comparable](t *testing.T, counts map[K]int, wanted ...K) {
	t.Helper()
	for _, which := range wanted {
		if counts[which] == 0 {
			t.Errorf("there was never anything of %v", which)
		}
	}
}

// TestModelWithSockets does it where some of the connections have sockets.
func TestModelWithSockets(t *testing.T) {
	r := newFuzzer(t, fuzzedOld, realSockets(t))
	compareStories(t, r, fuzz.StoriesOfSockets())
	checkRaised(t, r.Events, eventIgnoredSegment, eventReadmittedEstablished)
	checkRemembered(t, r.Leads, leadAsker, leadWatched)
	compareRandomly(t, r, packetsToRun(t, 20))
}

// unseen are events that need sockets, full tables, IPsec, a tracer or the device of the fallback route.
var unseen = []bpf.DatapathEvent{
	bpf.DatapathEventEVENT_IGNORED_IPSEC,
	eventIgnoredSegment,
	eventInsertFailedHalfOpen,
	bpf.DatapathEventEVENT_INSERT_FAILED_ESTABLISHED,
	eventInsertFailedConnectionless,
	bpf.DatapathEventEVENT_INSERT_FAILED_COUNTER,
	eventReadmittedEstablished,
	bpf.DatapathEventEVENT_SOURCE_REPAIRED_V4,
	bpf.DatapathEventEVENT_SOURCE_REPAIRED_V6,
	bpf.DatapathEventEVENT_FALLBACK_DROPPED_V4,
	bpf.DatapathEventEVENT_FALLBACK_DROPPED_V6,
	bpf.DatapathEventEVENT_TRACE_LOST,
	bpf.DatapathEventEVENT_END,
}

// compareRandomly runs programs of 40 steps: half of the packets by one seed, half of them by another every time.
func compareRandomly(t *testing.T, r *fuzz.Runner, packets int) {
	t.Helper()
	before := r.Packets
	for i, seed := range []uint64{1, uint64(time.Now().UnixNano())} {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			for rng := rand.New(rand.NewPCG(seed, 0)); r.Packets-before < packets/2*(i+1); {
				compareWithModel(t, r, fuzz.Random(rng, 40))
			}
		})
	}
}

// realSockets are a connection that a peer opened, one that the host opened, and a listener, in each family; and UDP
// sockets: connected ones, ones bound to an address, and one for everything at the port after theirs.
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
		peer, self := n.there(), n.here()
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
	r := newFuzzer(f, fuzzedOld, fuzz.Sockets{})
	for seed := range uint64(10) {
		f.Add(fuzz.Random(rand.New(rand.NewPCG(seed, 1)), 20))
	}
	f.Fuzz(func(t *testing.T, program []byte) { compareWithModel(t, r, program) })
}
