// SPDX-License-Identifier: Apache-2.0

package gather

import (
	"cmp"
	"slices"
	"time"

	"replypath/loader/counters"
	"replypath/loader/doctor/snapshot"
	"replypath/loader/flows"
)

const (
	// mostAsked bounds the flows that the kernel is asked about.
	mostAsked = 1024
	// justSeen is the age in seconds of a frame that is answered now.
	justSeen = 10
	// longOver is the age of what nobody needs to be told of.
	longOver = 24 * time.Hour
)

// way is what wrong ways are told apart by.
type way struct {
	from, to, reason string
	opened           bool
}

// wrongWays tells what left wrongly, by what the programs counted and when, and asks where the kernel would send the answers of
// flows that are alive.
func (g *gatherer) wrongWays() error {
	if g.host.Status == nil {
		return nil
	}
	found, now := map[way]*snapshot.WrongWay{}, map[way]uint64{}
	for _, w := range g.host.Status.Counted.Wrong {
		over := g.isOver(&w)
		isTold := w.Packets > counters.Few // of those that fail now it is the flows that count
		switch {
		case w.Reason == snapshot.ReasonTunnel:
			isTold = true
		case w.IsMeant():
			isTold = !over
		case over:
			isTold = !w.IsFew()
		}
		if !isTold || time.Since(w.Last) > longOver {
			continue
		}
		by := way{w.From, w.To, w.Reason, w.Originated}
		found[by] = &snapshot.WrongWay{From: w.From, To: w.To, Reason: w.Reason, Packets: w.Packets, Last: w.Last, Over: over, Opened: w.Originated}
		if !over && !w.Originated {
			now[by] = w.Packets
		}
	}
	g.askForFlows(now, func(f *flows.Flow, w way) {
		if found[w] == nil {
			found[w] = &snapshot.WrongWay{From: w.from, To: w.to, Reason: w.reason}
		}
		isEstablished := f.State == flows.StateEstablished
		found[w].Flows++
		found[w].Over = false
		found[w].Answered = found[w].Answered || f.Asymmetric || isEstablished
		if isEstablished {
			found[w].Arrived++
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

// isOver tells of what happened last a while ago, or has another outcome by now: of all flows, or as its cause is gone.
func (g *gatherer) isOver(w *counters.Wrong) bool {
	to := g.host.Named(w.To)
	switch {
	case time.Since(w.Last) > flows.Lately:
		return true
	case w.Reason == snapshot.ReasonTunnel, w.Originated && !w.IsMeant():
		return false
	case w.Originated:
		return true // as its host model and mode want it
	case w.Reason == snapshot.ReasonObserve && !g.host.Observed(w.To):
		return true
	case w.Reason == snapshot.ReasonLinkDown && to != nil && to.Up && time.Since(w.Last) > justSeen*time.Second:
		return true
	}
	for n := range g.host.Status.Interfaces {
		if i := &g.host.Status.Interfaces[n]; i.Name == w.To {
			return !slices.ContainsFunc(counters.OutcomesOf(w.Reason), i.Recent.Shows)
		}
	}
	return false
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
			each(f, way{from: from, to: *f.Interface, reason: reason})
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
		isAnothers := w.reason == snapshot.ReasonObserve || w.reason == snapshot.ReasonLost
		if w.from == from && w.to == *f.Interface && !isAnothers && packets > counted[best] {
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
