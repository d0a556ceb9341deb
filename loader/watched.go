package loader

import (
	"time"

	"replypath/bpf"
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

// watchFromNow notes that all that comes in by these interfaces is going to be seen, and
// recorded as is configured. Answers to what came in before are on their way for a while.
func (l *Loader) watchFromNow(interfaces ...*served) error {
	clock, err := l.datapath.Clock()
	if err != nil {
		return err
	}
	for _, s := range interfaces {
		s.watched = watchedSince(max(1, clock.After(datapath.GracePeriod)))
	}
	return l.writeGateways()
}

// forgetWatched forgets since when, where no note is as old as that: the clock of the
// programs comes round.
func (s *served) forgetWatched(now time.Time) {
	if now.Sub(s.watched.noted) > time.Second*time.Duration(bpf.DatapathIdleSecondsIDLE_OUTBOUND) {
		s.watched.since = 0
	}
}
