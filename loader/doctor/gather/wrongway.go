// SPDX-License-Identifier: Apache-2.0

package gather

import (
	"cmp"
	"errors"
	"slices"
	"time"

	"replypath/loader/counters"
	"replypath/loader/datapath"
	"replypath/loader/doctor/snapshot"
	"replypath/loader/flows"
	"replypath/loader/pins"
	"replypath/loader/status"
)

const (
	// sampleTime is how long counters are watched where some of them tell of wrong ways.
	sampleTime = time.Second
	// fewLost is what an interface may lose that goes down, or programs that come and go.
	fewLost = 3
	// mostAsked bounds the flows that the kernel is asked about.
	mostAsked = 1024
	// justSeen is the age in seconds of a frame that is answered now.
	justSeen = 10
)

// way is what wrong ways are told apart by.
type way struct{ from, to, reason string }

// firstSample reads the counters for the first time.
func (g *gatherer) firstSample() (err error) {
	if g.journal == nil {
		return nil
	}
	g.sampled, err = g.sample()
	return err
}

// sample returns nil where the datapath has gone meanwhile.
func (g *gatherer) sample() (*sample, error) {
	at := time.Now()
	pinned, err := datapath.OpenMaps(g.PinDir)
	var traffic *status.Traffic
	if err == nil {
		traffic, err = status.ReadTraffic(g.PinDir, pinned)
		err = errors.Join(err, pinned.Close())
	}
	switch {
	case errors.Is(err, pins.ErrNone):
		return nil, nil
	case err != nil:
		return nil, err
	}
	return newSample(at, traffic), nil
}

// newSample adds up what was counted for the families and protocols of each pair of interfaces.
func newSample(at time.Time, traffic *status.Traffic) *sample {
	s := &sample{at, map[way]uint64{}, map[way]uint64{}, traffic.Unrecorded}
	for _, p := range traffic.Pairs {
		s.corrected[way{from: p.From, to: p.To}] += p.CorrectedPackets
	}
	for _, u := range traffic.Uncorrected {
		if u.Packets > 0 {
			s.uncorrected[way{u.From, u.To, u.Reason}] += u.Packets
		}
	}
	for _, l := range traffic.Lost {
		if l.Packets > 0 {
			s.uncorrected[way{l.From, l.To, snapshot.ReasonLost}] += l.Packets
		}
	}
	return s
}

// wrongWays compares what is counted now with the first sample, and asks where the kernel would send the
// answers of flows that are alive. What was counted long ago tells nothing about now.
func (g *gatherer) wrongWays() error {
	before := g.sampled
	if before == nil {
		return nil
	}
	after := before
	if fails := g.failing() != (counters.Failing{}); fails || !g.Quiet {
		if fails || len(before.uncorrected) > 0 {
			time.Sleep(time.Until(before.at.Add(sampleTime)))
		}
		var err error
		if after, err = g.sample(); err != nil || after == nil {
			return err
		}
	}
	g.host.Unrecorded = after.unrecorded
	is := after.uncorrected
	found := map[way]*snapshot.WrongWay{}
	note := func(w way) *snapshot.WrongWay {
		if found[w] == nil {
			found[w] = &snapshot.WrongWay{From: w.from, To: w.to, Reason: w.reason, Packets: is[w], Took: after.at.Sub(before.at)}
		}
		return found[w]
	}
	for w, packets := range grown(before, after, g.failing().Lost > 0) {
		note(w).Grown = packets
	}
	g.askForFlows(is, func(f *flows.Flow, w way) {
		isEstablished := f.State == flows.StateEstablished
		note(w).Flows++
		note(w).Answered = note(w).Answered || f.Asymmetric || isEstablished
		if isEstablished {
			note(w).Arrived++
		}
	})
	for _, w := range found {
		g.host.WrongWays = append(g.host.WrongWays, *w)
	}
	slices.SortFunc(g.host.WrongWays, func(a, b snapshot.WrongWay) int {
		return cmp.Or(cmp.Compare(a.To, b.To), cmp.Compare(a.From, b.From), cmp.Compare(a.Reason, b.Reason))
	})
	return nil
}

// failing is what became of replies of late.
func (g *gatherer) failing() counters.Failing {
	if g.host.Status == nil {
		return counters.Failing{}
	}
	return g.host.Status.Counted.Failing
}

// grown is by how many packets something grew that was counted before, or is now; of what is lost only where these are more than
// a few, or, where replies were lost before, nothing else has left since. Of tunnels it is told in any case.
func grown(before, after *sample, loses bool) map[way]uint64 {
	found := map[way]uint64{}
	for w, packets := range after.uncorrected {
		more, few := packets-before.uncorrected[w], uint64(0)
		pair := way{from: w.from, to: w.to}
		if w.reason == snapshot.ReasonLost && (!loses || after.corrected[pair] > before.corrected[pair]) {
			few = fewLost
		}
		if more > few || w.reason == snapshot.ReasonTunnel {
			found[w] = more
		}
	}
	return found
}

// askForFlows calls each for flows whose answers do not leave, or leave by the wrong interface, as the routes are now, the
// liveliest first.
func (g *gatherer) askForFlows(counted map[way]uint64, each func(*flows.Flow, way)) {
	var asked []flows.Flow
	for n := range g.host.Flows {
		if f := &g.host.Flows[n]; f.Interface != nil && !f.IsDirect() && (f.IdleSeconds < justSeen || f.Asymmetric && g.mayGoWrong(f)) {
			asked = append(asked, *f)
		}
	}
	slices.SortFunc(asked, func(a, b flows.Flow) int { return cmp.Compare(a.IdleSeconds, b.IdleSeconds) })
	asked = asked[:min(len(asked), mostAsked)]
	flows.AskKernel(asked)
	for n := range asked {
		f := &asked[n]
		from, known := g.chosen(f)
		if !known || from == *f.Interface {
			continue
		}
		if reason := g.reasonFor(f, from, counted); reason != "" {
			each(f, way{from, *f.Interface, reason})
		}
	}
}

// mayGoWrong tells of a flow that nothing of was corrected: where that is to be, of one that is
// being asked for answers now.
func (g *gatherer) mayGoWrong(f *flows.Flow) bool {
	return g.host.Observed(*f.Interface) || f.CorrectedPackets == 0 && f.IdleSeconds < justSeen
}

// reasonFor returns why the answers of a flow go as routed, or nowhere: where they are to be corrected, what was
// counted for these interfaces most and may still hold. It is empty where that is not known.
func (g *gatherer) reasonFor(f *flows.Flow, from string, counted map[way]uint64) string {
	to := g.host.Named(*f.Interface)
	switch {
	case from == flows.Refused:
		return snapshot.ReasonNoRoute
	case from != "" && !g.host.Sees(from):
		return snapshot.ReasonNotManaged
	case !f.Asymmetric || !g.mayGoWrong(f):
		return ""
	case g.host.Observed(*f.Interface):
		return snapshot.ReasonObserve
	}
	best := way{}
	for w, packets := range counted {
		isCured := w.reason == snapshot.ReasonObserve || w.reason == snapshot.ReasonLost || w.reason == snapshot.ReasonLinkDown && to != nil && to.Up
		if w.from == from && w.to == *f.Interface && !isCured && packets > counted[best] {
			best = w
		}
	}
	return best.reason
}

// chosen returns by which interface the kernel would send an answer, empty for replypath's own device. It is not known
// for what is forwarded, nor where no answer is built.
func (g *gatherer) chosen(f *flows.Flow) (name string, known bool) {
	switch {
	case f.KernelInterface == nil:
		return "", false
	case *f.KernelInterface == flows.NoInterface:
		return "", g.host.HasOwnDevice()
	}
	return *f.KernelInterface, true
}
