// SPDX-License-Identifier: Apache-2.0

package history

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"replypath/loader/pins"
)

const (
	// gatherInterval is how often the tables are looked at: those of connections keep them for longer.
	gatherInterval = time.Minute
	// gatherRest bounds the share of a processor that it takes.
	gatherRest = 50
	// saveInterval is how much an unclean end may lose, lazyInterval where nothing but when something was seen is new.
	saveInterval, lazyInterval = 5 * time.Minute, time.Hour
)

// Keeper keeps the history of a pin directory.
type Keeper struct {
	PinDir string
	Path   string // of the file
	Log    *slog.Logger

	history  *History
	readOnly bool // the file could not be read: it is not replaced
	saved    time.Time
	failures [2]string // of gathering and of saving, that were logged last
}

// Run gathers until ctx ends, and saves then. What cannot be read or saved is logged once; the history goes on.
func (k *Keeper) Run(ctx context.Context) {
	k.load()
	next := time.NewTimer(gatherInterval)
	defer next.Stop()
	last := time.Now()
	k.gather(ctx)
	for {
		select {
		case <-ctx.Done():
			k.watched(last)
			k.save()
			return
		case <-next.C:
		}
		begun := time.Now()
		k.watched(last)
		last = begun
		k.gather(ctx)
		since := begun.Sub(k.saved)
		if k.history.changed && since > saveInterval || since > lazyInterval {
			k.save()
		}
		next.Reset(max(gatherInterval, gatherRest*time.Since(begun)))
	}
}

// watched adds the time since the last look: a suspended host has watched nothing.
func (k *Keeper) watched(last time.Time) {
	k.history.Watched += min(time.Since(last), 2*gatherInterval)
}

func (k *Keeper) load() {
	var err error
	k.history, err = Load(k.Path)
	if errors.Is(err, ErrFile) { // of a later version, which may come back
		err = errors.Join(err, SetAside(k.Path))
	} else {
		k.readOnly = err != nil
	}
	k.report(0, "the history cannot be read and starts empty", err)
	k.saved = time.Now()
}

func (k *Keeper) gather(ctx context.Context) {
	if err := k.history.Gather(ctx, k.PinDir); !errors.Is(err, pins.ErrNone) { // they are being taken away
		k.report(0, "the history is not complete", err)
	}
}

func (k *Keeper) save() {
	if k.readOnly {
		return
	}
	k.saved = time.Now()
	k.report(1, "the history is not kept", k.history.Save(k.Path))
}

// report logs an error unless it is the last one again.
func (k *Keeper) report(kind int, message string, err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text != "" && text != k.failures[kind] {
		k.Log.Warn(message, "error", err)
	}
	k.failures[kind] = text
}
