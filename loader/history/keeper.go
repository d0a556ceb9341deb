// SPDX-License-Identifier: Apache-2.0

package history

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"time"

	"replypath/loader/pins"
)

const (
	// gatherInterval is how often the tables are looked at: those of connections keep them for longer.
	gatherInterval = time.Minute
	// gatherRest bounds the share of a processor that it takes.
	gatherRest = 50
	// saveInterval is how much an unclean end may lose.
	saveInterval = 5 * time.Minute
)

// Keeper keeps the history of a pin directory.
type Keeper struct {
	PinDir string
	Path   string // of the file
	Log    *slog.Logger

	history *History
	saved   time.Time
	failure string // that was logged last
}

// Run gathers until ctx ends, and saves then. What cannot be read or saved is logged once; the history goes on.
func (k *Keeper) Run(ctx context.Context) {
	var err error
	k.history, err = Load(k.Path)
	if errors.Is(err, ErrFile) { // of a later version, which may come back
		err = errors.Join(err, os.Rename(k.Path, k.Path+".old"))
	}
	k.report(err)
	k.saved = time.Now()
	next := time.NewTimer(gatherInterval)
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			k.gather()
			k.save()
			return
		case begun := <-next.C:
			k.gather()
			if time.Since(k.saved) > saveInterval {
				k.save()
			}
			next.Reset(max(gatherInterval, gatherRest*time.Since(begun)))
		}
	}
}

func (k *Keeper) gather() {
	if err := k.history.Gather(k.PinDir); !errors.Is(err, pins.ErrNone) { // they are being taken away
		k.report(err)
	}
}

func (k *Keeper) save() {
	k.saved = time.Now()
	k.report(k.history.Save(k.Path))
}

// report logs an error unless it is the last one again.
func (k *Keeper) report(err error) {
	if err == nil || err.Error() == k.failure {
		return
	}
	k.failure = err.Error()
	k.Log.Warn("the history is not complete", "error", err)
}
