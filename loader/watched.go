package loader

import (
	"slices"
	"time"

	"replypath/bpf"
	"replypath/loader/attach"
	"replypath/loader/datapath"
)

// watched tells since when all is seen that comes in by an interface. Until then the host
// may have answered by UDP what nobody here saw the question of: it did not speak first, as
// is noted of whoever sends without having been asked.
type watched struct {
	since uint32    // ticks; 0: longer than anything is remembered
	noted time.Time // when that was found out
}

func watchedSince(since uint32) watched { return watched{since, time.Now()} }

// isWatched tells whether what comes in by an interface is recorded already, be it by the
// programs of an earlier process.
func (l *Loader) isWatched(s *served) (bool, error) {
	mechanism, err := attach.MechanismOf(l.attacher, s.target(), attach.Ingress)
	return mechanism != attach.Auto, err
}

// putWhileWatched does something after which more is seen of what comes in by these interfaces, or
// more of it recorded. Answers to what came in before are on their way for a while after
// that. An interface that the programs do not know yet is told to them with all else of it.
func (l *Loader) putWhileWatched(do func() error, interfaces ...*served) error {
	l.noteWatched(switchPatience, interfaces)
	err := do()
	l.noteWatched(datapath.GracePeriod, interfaces)
	return err
}

// noteWatched notes that all is seen from so much later on. That it cannot keeps nobody from
// being served.
func (l *Loader) noteWatched(later time.Duration, interfaces []*served) {
	clock, err := l.datapath.Clock()
	if err != nil {
		l.log.Error("since when an interface is watched is not noted", "error", err)
		return
	}
	since := max(1, clock.After(later))
	// No note is made before the end of the grace: what is noted later cannot predate it.
	end, err := l.datapath.GraceEnd(clock)
	if err != nil {
		l.log.Error("since when an interface is watched is not noted", "error", err)
		return
	}
	if end != 0 && int32(end-since) < 0 {
		since = end
	}
	for _, s := range interfaces {
		s.watched = watchedSince(since)
		entry, known := l.maps.Interfaces.Get(uint32(s.id))
		if !known {
			continue
		}
		entry.Since = s.watched.since
		if err := l.maps.Interfaces.Put(uint32(s.id), entry); err != nil {
			l.log.Error("since when an interface is watched is not noted", "interface", s.Name, "error", err)
		}
	}
}

// forgetWatched forgets since when, once no note can be from before: the clock of the
// programs comes round.
func (s *served) forgetWatched(now time.Time) {
	const longest = time.Second*time.Duration(bpf.DatapathIdleSecondsIDLE_OUTBOUND) + switchPatience
	if now.Sub(s.watched.noted) > longest {
		s.watched.since = 0
	}
}

// recordsMore tells whether the settings and exclusions after a change let flows be recorded
// that those before it did not.
func recordsMore(before, after *bpf.DatapathSettings, excludedBefore, excludedAfter *bpf.DatapathExclusionSet) bool {
	for i := range before.Protocols {
		if after.Protocols[i]&^before.Protocols[i] != 0 {
			return true
		}
	}
	if after.ScopeAll > before.ScopeAll || after.Loopback > before.Loopback {
		return true
	}
	return slices.ContainsFunc(excludedBefore.Rule[:excludedBefore.Count], func(rule bpf.DatapathExclusion) bool {
		return !slices.Contains(excludedAfter.Rule[:excludedAfter.Count], rule)
	})
}
