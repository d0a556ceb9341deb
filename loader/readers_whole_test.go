// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"

	"replypath/loader/config"
	"replypath/loader/datapath"
	"replypath/loader/explain"
	"replypath/loader/flows"
	"replypath/loader/status"
	"replypath/metrics"
	"replypath/test/harness"
	"replypath/test/topology"
)

// reader reads once, as a command does, and returns what is wrong with what it has read.
type reader func() error

// whole is what every reader has to see while datapaths take each other's place.
type whole struct {
	*bed
	kept       []*harness.Conversation // that began before
	capacities []int                   // of the flow tables of one datapath
	// switches is odd while the mode is switched: from enforce to observe, and back.
	switches atomic.Int64
}

// newWhole puts a datapath in place, with flows, and ends its loader. Others that take its
// place have one of these multiples of its size.
func newWhole(b *bed, s *topology.S1, multiples []uint32) *whole {
	b.Helper()
	w := &whole{bed: b}
	for _, m := range multiples {
		w.capacities = append(w.capacities, b.capacityOf(m*newConfig().MaxEntries))
	}
	b.start(nil).stop()
	for _, f := range s.Families() {
		harness.Serve(b.T, s.B.Host, s.B.Eth1.Address(f))
		for _, kind := range []harness.Kind{harness.TCP, harness.UDP} {
			for range 5 {
				w.kept = append(w.kept, harness.NewConversation(b.T, kind, s.A.Eth1, s.B.Eth1.Address(f)))
			}
		}
	}
	w.ask()
	return w
}

// capacityOf returns how many flows all tables together hold, of which the largest has so
// many: the one of half-open connections a quarter of that, the connectionless one half.
func (b *bed) capacityOf(largest uint32) int { return int(largest/4 + largest + largest/2) }

// ask has everything that is counted rise.
func (w *whole) ask() {
	w.Helper()
	for _, c := range w.kept {
		harness.Must(w.T, c.Ask(within(w.T)))
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

func (w *whole) readers() []reader {
	return []reader{
		w.status, w.mode, w.explanations(), w.tables(), w.counters(), w.looks(newMonitor(w.bed)), w.follows, w.examined(),
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
		if i := named(s.Interfaces, name); i == nil || !i.Up || !i.Attached || *i.Mechanism != byDefault() {
			errs = append(errs, fmt.Errorf("%s in the status: %+v", name, i))
		}
	}
	if len(s.Interfaces) != 2 || len(s.Errors) > 0 {
		errs = append(errs, fmt.Errorf("%d interfaces in the status, errors %q", len(s.Interfaces), s.Errors))
	}
	if s.Flows.Count < len(w.kept) || !slices.Contains(w.capacities, s.Flows.Capacity) {
		errs = append(errs, fmt.Errorf("flows in the status: %+v", s.Flows))
	}
	return errors.Join(errs...)
}

func (w *whole) mode() error {
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
		protocol := map[harness.Kind]uint8{harness.TCP: config.ProtocolTCP, harness.UDP: config.ProtocolUDP}[c.Kind]
		e, err := explain.Ask(w.dir, explain.Question{Peer: c.Peer, Self: c.Self, Protocol: &protocol})
		switch {
		case err != nil:
			return err
		case e.Flow == nil || harness.OrEmpty(e.Replypath.Interface) != "eth1" || harness.OrEmpty(e.Kernel.Interface) != "eth0":
			return fmt.Errorf("explained %s: %+v", c, e.Explanation)
		case e.Verdict == explain.Corrected:
			return w.isMode(string(config.ModeEnforce), since)
		case e.Verdict == explain.Fallback && harness.OrEmpty(e.Reason) == string(config.ModeObserve):
			return w.isMode(string(config.ModeObserve), since)
		}
		return fmt.Errorf("explained %s: verdict %s, reason %s", c, e.Verdict, harness.OrEmpty(e.Reason))
	}
}

// tables wants all flows that began before, each time older than the last time: the same
// ones.
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
			i := slices.IndexFunc(list, func(f flows.Flow) bool {
				return f.Protocol == c.Protocol() && f.Peer == c.Peer.Addr().String() && f.PeerPort == c.Peer.Port()
			})
			if i < 0 {
				return fmt.Errorf("%s is not among %d flows", c, len(list))
			}
			f := &list[i]
			if harness.OrEmpty(f.Interface) != "eth1" || f.NextHopMAC == nil || f.AgeSeconds < ages[c.Peer] {
				return fmt.Errorf("%s, by %s, is %f s old after %f s", f, harness.OrEmpty(f.Interface), f.AgeSeconds, ages[c.Peer])
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
