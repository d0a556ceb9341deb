// SPDX-License-Identifier: Apache-2.0

package attachment

import (
	"time"

	"replypath/bpf"
	"replypath/loader/datapath"
)

// Patience is how long the programs of all interfaces may take to be replaced. Those for devices without an Ethernet
// header, and those of the source repair, are only loaded then.
const Patience = 30 * time.Second

// WhileWatched does something after which more is seen of what comes in by these interfaces, or
// more of it recorded. Answers to what came in before are on their way for a while after
// that. An interface that the programs do not know yet is told to them with all else of it.
func (a *Attachments) WhileWatched(do func() error, interfaces ...Interface) error {
	a.noteWatched(Patience, interfaces)
	err := do()
	a.noteWatched(datapath.GracePeriod, interfaces)
	return err
}

// noteWatched notes that all is seen from so much later on. That it cannot keeps nobody from
// being served.
func (a *Attachments) noteWatched(later time.Duration, interfaces []Interface) {
	clock, err := a.host.Datapath().Clock()
	if err != nil {
		a.host.Log.Error("since when an interface is watched is not noted", "error", err)
		return
	}
	since := max(1, clock.After(later))
	// No note is made before the end of the grace: what is noted later cannot predate it.
	end, err := datapath.GraceEnd(&a.host.Datapath().DatapathMaps, clock)
	if err != nil {
		a.host.Log.Error("since when an interface is watched is not noted", "error", err)
		return
	}
	if end != 0 && int32(end-since) < 0 {
		since = end
	}
	for _, i := range interfaces {
		a.of[i.Index].watched = watchedSince(since)
		entry, known := a.host.Maps().Interfaces.Get(uint32(i.ID))
		if !known {
			continue
		}
		entry.Since = since
		if err := a.host.Maps().Interfaces.Put(uint32(i.ID), entry); err != nil {
			a.host.Log.Error("since when an interface is watched is not noted", "interface", i.Name, "error", err)
		}
	}
}

// ExpireWatched forgets since when, once no note can be from before: the clock of the programs comes round.
func (a *Attachments) ExpireWatched(now time.Time) {
	const longest = time.Second*time.Duration(bpf.DatapathIdleSecondsIDLE_OUTBOUND) + Patience
	for _, of := range a.of {
		if now.Sub(of.watched.noted) > longest {
			of.watched.since = 0
		}
	}
}

// Since returns since when all is seen that comes in by an interface, in ticks; 0: longer than anything is remembered.
func (a *Attachments) Since(index int) uint32 { return a.of[index].watched.since }
