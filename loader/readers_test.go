// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"replypath/loader/config"
	"replypath/loader/datapath"
	"replypath/loader/doctor"
	"replypath/loader/explain"
	"replypath/loader/flows"
	"replypath/loader/pins"
	"replypath/loader/status"
	"replypath/loader/trace"
	"replypath/metrics"
	"replypath/test/await"
	"replypath/test/product"
	"replypath/test/short"
	"replypath/test/topology"
	testtraffic "replypath/test/traffic"
)

// reader reads once, as a command does, and returns what is wrong with what it has read.
type reader func() error

// beside counts what is read beside a writer.
type beside struct {
	*server
	looks  []atomic.Int64 // of each reader
	failed atomic.Int64
}

// readBeside has all readers read while somebody writes in rounds, and returns how often they did.
func (b *server) readBeside(readers []reader, write func(round int, done *beside)) (reads int64, rounds int) {
	b.Helper()
	var reading sync.WaitGroup
	done := &beside{server: b, looks: make([]atomic.Int64, len(readers))}
	ctx, cancel := context.WithCancel(b.Context())
	defer reading.Wait()
	defer cancel()
	for i, read := range readers {
		reading.Go(func() {
			for ; ctx.Err() == nil; done.looks[i].Add(1) {
				if err := b.host.Do(read); err != nil && done.failed.Add(1) <= 5 {
					b.Error(err)
				}
			}
		})
	}
	rounds = 5
	if short.Run(b) {
		rounds = 1
	} else if !short.Long(b, "three of five rounds") {
		rounds = 2
	}
	for round := range rounds {
		write(round, done)
	}
	for i := range done.looks {
		reads += done.looks[i].Load()
	}
	return reads, rounds
}

// awaitLooks returns when every reader has looked at what is there now.
func (d *beside) awaitLooks() {
	d.Helper()
	for i := range d.looks {
		enough := d.looks[i].Load() + 2 // one may be under way
		for ctx := await.Within(d.T, await.StartTime); d.looks[i].Load() < enough; time.Sleep(await.Poll) {
			if ctx.Err() != nil { // explain has the verifier look at a program, as a start has
				d.Fatalf("reader %d does not look", i)
			}
		}
	}
}

// TestReadersBesideAWriter reads while datapaths are started, resized, switched and ended, at any moment of that: no reader
// may see anything but a whole one, with all flows, and with counters that go on.
func TestReadersBesideAWriter(t *testing.T) {
	t.Parallel()
	b := newServerIn(t, topology.S1Options{Policy: topology.AnySource})
	sizes := []uint32{1, 2, 4, 8, 16}
	w := newWhole(b, sizes)
	reads, rounds := b.readBeside(w.readers(), func(round int, done *beside) {
		r := b.start(func(o *Options) { o.Config.MaxEntries *= sizes[round%2] })
		done.awaitLooks() // before the flows are asked, which brings back what is lost
		w.ask()
		await.Must(t, r.reload(func(c *config.Config) { c.MaxEntries *= sizes[2+round%3] }))
		done.awaitLooks()
		w.ask()
		w.switchMode()
		r.stop()
		w.ask()
	})
	t.Logf("%d reads beside %d starts, as many reloads, switches of the mode and ends", reads, rounds)
}

// whole is what every reader has to see while datapaths take each other's place.
type whole struct {
	*server
	kept       []*testtraffic.Conversation // that began before
	capacities []int                       // of the flow tables of one datapath
	// switches is odd while the mode is switched: from enforce to observe, and back.
	switches atomic.Int64
}

// newWhole puts a datapath in place, with flows, and ends its loader. Others that take its place have one of these multiples
// of its size.
func newWhole(b *server, multiples []uint32) *whole {
	b.Helper()
	w := &whole{server: b}
	for _, m := range multiples {
		w.capacities = append(w.capacities, capacityOf(m*newConfig().MaxEntries))
	}
	b.start().stop()
	for range 5 {
		w.kept = append(w.kept, b.conversations()...)
	}
	w.ask()
	return w
}

// capacityOf returns for how many flows all tables together have room, of which the largest is for so many: the one of half-open
// connections for a quarter of that, the connectionless one for half. Each has half as many places again, and two share the
// nursery.
func capacityOf(largest uint32) int {
	const nursery = 512
	return int(largest/4+largest+largest/2)*3/2 + 2*nursery
}

// conversations have one of each kind and family.
func (b *server) conversations() (all []*testtraffic.Conversation) {
	b.Helper()
	for _, f := range b.net.Families() {
		for _, kind := range []testtraffic.Kind{testtraffic.TCP, testtraffic.UDP} {
			all = append(all, testtraffic.NewConversation(b.T, kind, b.net.A.Eth1, b.eth1.Address(f)))
		}
	}
	return all
}

// ask has everything that is counted rise.
func (w *whole) ask() {
	w.Helper()
	for _, c := range w.kept {
		await.Must(w.T, c.Ask(within(w.T)))
	}
}

var modesInTurn = []string{string(config.ModeEnforce), string(config.ModeObserve)}

func (w *whole) switchMode() {
	w.Helper()
	w.switches.Add(1)
	w.setMode(modesInTurn[(w.switches.Load()+1)/2%2])
	w.switches.Add(1)
}

// isMode wants a mode that was in force at some moment since a number of switches.
func (w *whole) isMode(got string, since int64) error {
	for n := since / 2; n <= (w.switches.Load()+1)/2; n++ {
		if got == modesInTurn[n%2] {
			return nil
		}
	}
	return fmt.Errorf("mode %q, after %d switches", got, since/2)
}

// isDecided wants what a reader tells of an answer by eth1, which the kernel sends by eth0, to be right in the mode.
func (w *whole) isDecided(verdict string, reason *string, since int64) error {
	switch {
	case verdict == explain.Corrected:
		return w.isMode(string(config.ModeEnforce), since)
	case verdict == explain.Fallback && product.OrEmpty(reason) == string(config.ModeObserve):
		return w.isMode(string(config.ModeObserve), since)
	}
	return fmt.Errorf("verdict %s, reason %s", verdict, product.OrEmpty(reason))
}

func (w *whole) readers() []reader {
	return []reader{
		w.status, w.modeIs, w.explanations(), w.tables(), w.counters(), w.looks(newMonitor(w.server)), w.follows,
		w.examined(), w.traces(),
	}
}

func (w *whole) status() error {
	since := w.switches.Load()
	s, err := status.Read(w.dir)
	if err != nil {
		return err
	}
	errs := []error{w.isMode(s.Mode, since)}
	for _, name := range []string{"eth0", "eth1"} {
		if i := named(s.Interfaces, name); i == nil || !i.Up || !i.Attached || *i.Mechanism != string(mechanisms[0]) {
			errs = append(errs, fmt.Errorf("%s in the status: %+v", name, i))
		}
	}
	if len(s.Interfaces) != 2 || len(s.Errors) > 0 || s.Flows.Count < len(w.kept) || !slices.Contains(w.capacities, s.Flows.Capacity) {
		errs = append(errs, fmt.Errorf("in the status %d interfaces, flows %+v, errors %q", len(s.Interfaces), s.Flows, s.Errors))
	}
	return errors.Join(errs...)
}

func (w *whole) modeIs() error {
	since := w.switches.Load()
	mode, err := status.Mode(w.dir)
	if err != nil {
		return err
	}
	return w.isMode(mode, since)
}

// explanations asks about one of the flows after the other.
func (w *whole) explanations() reader {
	next := 0
	return func() error {
		c, since := w.kept[next%len(w.kept)], w.switches.Load()
		next++
		protocol := map[testtraffic.Kind]uint8{testtraffic.TCP: config.ProtocolTCP, testtraffic.UDP: config.ProtocolUDP}[c.Kind]
		e, err := explain.Ask(w.dir, explain.Question{Peer: c.Peer, Self: c.Self, Protocol: &protocol})
		if err != nil {
			return err
		}
		if e.Flow == nil || product.OrEmpty(e.Replypath.Interface) != "eth1" || product.OrEmpty(e.Kernel.Interface) != "eth0" {
			return fmt.Errorf("explained %s: %+v", c, e.Explanation)
		}
		return w.isDecided(e.Verdict, e.Reason, since)
	}
}

// isOf tells whether a flow is that of a conversation.
func isOf(f *flows.Flow, c *testtraffic.Conversation) bool {
	return f.Protocol == c.Protocol() && f.Peer == c.Peer.Addr().String() && f.PeerPort == c.Peer.Port()
}

// tables wants all flows that began before, each time older than the last time: the same ones.
func (w *whole) tables() reader {
	ages := make(map[netip.AddrPort]float64)
	return func() error {
		table, err := flows.Open(w.dir)
		if err != nil {
			return err
		}
		list, err := table.List(flows.Filter{})
		if err = errors.Join(err, table.Close()); err != nil {
			return err
		}
		for _, c := range w.kept {
			i := slices.IndexFunc(list, func(f flows.Flow) bool { return isOf(&f, c) })
			if i < 0 {
				return fmt.Errorf("%s is not among %d flows", c, len(list))
			}
			f := &list[i]
			if product.OrEmpty(f.Interface) != "eth1" || f.NextHopMAC == nil || f.AgeSeconds < ages[c.Peer] {
				return fmt.Errorf("%s, by %s, is %f s old after %f s", f, product.OrEmpty(f.Interface), f.AgeSeconds, ages[c.Peer])
			}
			ages[c.Peer] = f.AgeSeconds
		}
		return nil
	}
}

// counters wants those of every pair of interfaces that had some, and none to go backwards.
func (w *whole) counters() reader {
	before := make(map[metrics.Pair]metrics.PairCounters)
	return func() error {
		maps, err := datapath.OpenMaps(w.dir)
		if err != nil {
			return err
		}
		traffic, err := status.ReadTraffic(w.dir, maps)
		if err = errors.Join(err, maps.Close()); err != nil {
			return err
		}
		now := make(map[metrics.Pair]metrics.PairCounters)
		for _, p := range traffic.Pairs {
			now[p.Pair] = p
		}
		if len(now) == 0 {
			return errors.New("nothing is counted")
		}
		for pair, b := range before {
			n := now[pair]
			if n.AsymmetricPackets < b.AsymmetricPackets || n.AsymmetricFlows < b.AsymmetricFlows ||
				n.CorrectedPackets < b.CorrectedPackets || n.CorrectedBytes < b.CorrectedBytes || n.CorrectedFlows < b.CorrectedFlows {
				return fmt.Errorf("counters went from %+v to %+v", b, n)
			}
		}
		before = now
		return nil
	}
}

// monitor looks again and again, as `replypath top` does, and goes on with the datapath that takes the place of the one
// before.
type monitor struct {
	*server
	current *datapath.Current // nil before the first look, and where there was none
	meter   flows.Meter
}

// newMonitor returns one that is closed when the test ends.
func newMonitor(b *server) *monitor {
	m := &monitor{server: b}
	b.Cleanup(func() {
		if m.current != nil {
			await.Must(b.T, m.current.Close())
		}
	})
	return m
}

func (m *monitor) look() (traffic *status.Traffic, measure *flows.Measure, err error) {
	if m.current == nil {
		if m.current, err = datapath.OpenCurrent(m.dir); err != nil {
			m.current = nil
			return nil, nil, err
		}
	}
	maps, err := m.current.Maps()
	if err != nil {
		return nil, nil, err
	}
	if traffic, err = status.ReadTraffic(m.dir, maps); err != nil {
		return nil, nil, err
	}
	measure, err = m.meter.Read(m.dir, maps, 1)
	return traffic, measure, err
}

// looks wants both interfaces, and tables of one datapath with all flows.
func (w *whole) looks(m *monitor) reader {
	return func() error {
		since := w.switches.Load()
		traffic, measure, err := m.look()
		if err != nil {
			return fmt.Errorf("look: %w", err)
		}
		errs := []error{w.isMode(traffic.Mode, since)}
		if len(traffic.Interfaces) != 2 || slices.ContainsFunc(traffic.Interfaces, func(i status.Interface) bool { return !i.Attached }) {
			errs = append(errs, fmt.Errorf("interfaces in a look: %+v", traffic.Interfaces))
		}
		var count, capacity uint64
		for _, t := range measure.Tables {
			count, capacity = count+t.Flows, capacity+t.Capacity
		}
		if int(count) < len(w.kept) || !slices.Contains(w.capacities, int(capacity)) || len(measure.Busiest[flows.ByCorrected]) == 0 {
			errs = append(errs, fmt.Errorf("flows in a look: %+v, the busiest %+v", measure.Tables, measure.Busiest))
		}
		return errors.Join(errs...)
	}
}

// followed follows the tables for a while, as `flows --follow` does.
func (b *server) followed(report func(flows.Flow) error) error {
	table, err := flows.Open(b.dir)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(b.Context(), 100*time.Millisecond)
	defer cancel()
	return errors.Join(table.Follow(ctx, flows.Filter{}, 10*time.Millisecond, report), table.Close())
}

// follows wants all flows to be there from the first look on, and nothing to become of them.
func (w *whole) follows() error {
	told := 0
	err := w.followed(func(f flows.Flow) error {
		if !slices.ContainsFunc(w.kept, func(c *testtraffic.Conversation) bool { return isOf(&f, c) }) {
			return nil // of a trace
		}
		if told++; f.Event != flows.EventNew {
			return fmt.Errorf("%s is %s", &f, f.Event)
		}
		return nil
	})
	if err == nil && told != len(w.kept) {
		err = fmt.Errorf("%d new flows, not %d", told, len(w.kept))
	}
	return err
}

// examined wants `doctor` to find nothing wrong with the host, with a datapath and without. That no daemon runs is true
// between two of them.
func (b *server) examined(meant ...string) reader {
	root := b.TempDir()
	return func() error {
		findings, err := doctor.Examine(doctor.Options{PinDir: b.dir, Config: config.Default(), Root: root})
		if err != nil {
			return fmt.Errorf("examine: %w", err)
		}
		for _, f := range findings {
			if f.Severity != doctor.OK && !slices.Contains(meant, f.Check) && !strings.Contains(f.Found, "no daemon runs") {
				return fmt.Errorf("%s: %s: %s", f.Severity, f.Check, f.Found)
			}
		}
		return nil
	}
}

// traces traces one question and its answer, of one conversation of its own after the other, and wants both by their ways.
func (w *whole) traces() reader {
	talks, next := w.conversations(), 0
	return func() error {
		c, since := talks[next%len(talks)], w.switches.Load()
		next++
		told, err := w.traced(c)
		questions, answers := 0, 0
		for i := range told {
			p := &told[i]
			in, kernel, out := product.OrEmpty(p.InterfaceIn), product.OrEmpty(p.Kernel.Interface), product.OrEmpty(p.Out.Interface)
			wantOut := map[string]string{explain.Corrected: "eth1", explain.Fallback: "eth0"}[p.Verdict]
			switch {
			case p.Direction == trace.Inbound:
				questions++
				if in != "eth1" || p.Verdict != trace.Known && p.Verdict != trace.New {
					err = errors.Join(err, fmt.Errorf("in by %s, %s %s", in, p.Verdict, product.OrEmpty(p.Reason)))
				}
			case kernel != "eth0" || out != wantOut:
				err = errors.Join(err, fmt.Errorf("out by %s, by the kernel %s, %s", out, kernel, p.Verdict))
			default:
				answers++
				err = errors.Join(err, w.isDecided(p.Verdict, p.Reason, since))
			}
		}
		if err != nil || questions == 0 || answers == 0 {
			return fmt.Errorf("traced %s: %d questions, %d answers: %w", c, questions, answers, err)
		}
		return nil
	}
}

// traced returns what is told of a question and its answer.
func (b *server) traced(c *testtraffic.Conversation) (told []trace.Packet, err error) {
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	asked := make(chan error, 1)
	filter := trace.Filter{Peer: netip.PrefixFrom(c.Peer.Addr(), c.Peer.Addr().BitLen()), Self: c.Self.Addr()}
	ask := func() {
		asked <- c.Ask(within(b.T))
		cancel()
	}
	err = trace.Follow(ctx, b.dir, filter, observer(func() { go ask() }, func(p trace.Packet) {
		if p.PeerPort == c.Peer.Port() {
			told = append(told, p)
		}
	}))
	if err == nil {
		err = <-asked
	}
	return told, err
}

func observer(ready func(), packet func(trace.Packet)) trace.Observer {
	return trace.Observer{Ready: ready, Packet: func(p trace.Packet) error { packet(p); return nil }, Lost: func(uint64) {}}
}

// TestReadersBesideDetach reads while everything is taken away and put in place anew: every reader sees a datapath, or that
// there is none.
func TestReadersBesideDetach(t *testing.T) {
	b := newServer(t)
	n := &noneOrOne{server: b}
	reads, rounds := b.readBeside(n.readers(), func(_ int, done *beside) {
		var r *running
		n.change(func() { r = b.start() })
		done.awaitLooks()
		r.stop()
		n.change(func() { b.detach() })
		done.awaitLooks()
	})
	t.Logf("%d reads beside %d starts and as many detachments: %d saw a datapath, %d none", reads, rounds, n.one.Load(), n.none.Load())
}

// noneOrOne is what every reader has to see while a datapath comes and goes.
type noneOrOne struct {
	*server
	none, one atomic.Int64
	// changes is odd while one is put in place, or taken away: in turn, from none on.
	changes atomic.Int64
}

// change puts a datapath in place, or takes it away.
func (n *noneOrOne) change(by func()) {
	n.changes.Add(1)
	by()
	n.changes.Add(1)
}

func (n *noneOrOne) readers() []reader {
	question := explain.Question{
		Peer: netip.AddrPortFrom(n.net.A.Eth1.Address(topology.IPv4), 0),
		Self: netip.AddrPortFrom(n.eth1.Address(topology.IPv4), 0),
	}
	monitor := newMonitor(n.server)
	readers := []reader{n.examined("addresses")} // whose replies go wrong where there is none
	for _, read := range []reader{
		func() error {
			s, err := status.Read(n.dir)
			if err == nil && s.Flows.Capacity != capacityOf(newConfig().MaxEntries) {
				err = fmt.Errorf("flows in the status: %+v", s.Flows)
			}
			return err
		},
		func() error {
			mode, err := status.Mode(n.dir)
			if err == nil && mode != string(config.ModeEnforce) {
				err = fmt.Errorf("mode %q", mode)
			}
			return err
		},
		func() error { _, err := explain.Ask(n.dir, question); return err },
		func() error {
			ctx, cancel := context.WithCancel(n.Context())
			defer cancel()
			return trace.Follow(ctx, n.dir, trace.Filter{}, observer(cancel, func(trace.Packet) {}))
		},
		func() error { _, _, err := monitor.look(); return err },
		func() error { return n.followed(func(flows.Flow) error { return nil }) }, // which lists them first
	} {
		readers = append(readers, n.judged(read))
	}
	return readers
}

// judged counts what is seen. That there is none is no error, unless nobody has taken it away.
func (n *noneOrOne) judged(read reader) reader {
	return func() error {
		since := n.changes.Load()
		err := read()
		atRest, isOne := since%2 == 0 && since == n.changes.Load(), since/2%2 == 1
		switch {
		case errors.Is(err, ErrNotAttached):
			n.none.Add(1)
			if atRest && isOne {
				return err
			}
			return nil
		case err != nil:
			return err
		}
		n.one.Add(1)
		if atRest && !isOne {
			return errors.New("a datapath is seen where there is none")
		}
		return nil
	}
}

// TestTraceEnds: a trace ends when what it traces is taken away or has its place taken, instead of waiting for what no program
// tells it any more.
func TestTraceEnds(t *testing.T) {
	for name, change := range map[string]func(*server){
		"detached":                             func(b *server) { b.detach() },
		"detached and started again":           func(b *server) { b.detach(); b.start() },
		"the place is taken by another layout": func(b *server) { b.setForeignLayout(); b.start() },
	} {
		t.Run(name, func(t *testing.T) {
			b := newServer(t)
			b.start().stop()
			ended, ready := make(chan error, 1), make(chan struct{})
			go func() { ended <- b.traceUntilTheEnd(func() { close(ready) }) }()
			select {
			case <-ready:
			case err := <-ended:
				t.Fatalf("the trace ended with %v", err)
			}
			change(b)
			select {
			case err := <-ended:
				if !errors.Is(err, pins.ErrNone) {
					t.Errorf("the trace ended with %v", err)
				}
			case <-within(t).Done():
				t.Error("the trace goes on")
			}
		})
	}
}

// TestTraceWhileDetaching: a trace that begins when the directory of the links is gone already, and the maps are not yet,
// says that nothing is pinned.
func TestTraceWhileDetaching(t *testing.T) {
	b := newServer(t)
	b.start().stop()
	links := b.dir + "/" + datapath.LinksDir
	await.Must(t, os.Rename(links, links+"-aside"))
	err := b.traceUntilTheEnd(func() {})
	await.Must(t, os.Rename(links+"-aside", links))
	if !errors.Is(err, pins.ErrNone) {
		t.Errorf("the trace ended with %v", err)
	}
}

// traceUntilTheEnd traces everything until the test or the datapath ends.
func (b *server) traceUntilTheEnd(ready func()) error {
	return b.host.Do(func() error {
		return trace.Follow(b.Context(), b.dir, trace.Filter{}, observer(ready, func(trace.Packet) {}))
	})
}
