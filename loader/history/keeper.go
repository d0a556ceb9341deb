// SPDX-License-Identifier: Apache-2.0

package history

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
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

// DefaultDir is where histories are kept, as StateDirectory=replypath makes it.
const DefaultDir = "/var/lib/replypath"

// Path is the file of a pin directory's history, another one for each.
func Path(stateDir, pinDir string) string {
	name := "history"
	if pinDir != pins.DefaultDir {
		name += strings.NewReplacer("_", "__", "-", "_-", "/", "-").Replace(filepath.Clean(pinDir))
	}
	return filepath.Join(stateDir, name+".json")
}

// document is what a file has.
type document struct {
	Version    int           `json:"version"`
	Since      time.Time     `json:"since"`
	Gathered   time.Time     `json:"gathered"`
	Watched    time.Duration `json:"watched"` // in nanoseconds
	Incomplete bool          `json:"incomplete"`
	Rows       []Row         `json:"rows"`
}

// version of the files.
const version = 1

// ErrFile is what it is for a file to be no history of this version.
var ErrFile = errors.New("not a history that this version reads")

// Load reads a file. Without one the history is empty, and with an error as well, which matches ErrFile where the file
// is of another form.
func Load(path string) (*History, error) {
	h := New()
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return h, nil
	}
	if err != nil {
		return h, fmt.Errorf("read the history: %w", err)
	}
	var d document
	if err := json.Unmarshal(text, &d); err != nil || d.Version != version {
		return h, fmt.Errorf("%s: %w", path, ErrFile)
	}
	h.Since, h.Gathered, h.Watched, h.Incomplete, h.loaded = d.Since, d.Gathered, d.Watched, d.Incomplete, true
	for _, r := range d.Rows[:min(len(d.Rows), MostRows)] {
		h.rows[r.Key] = &row{Row: r}
	}
	return h, nil
}

// Save replaces a file as a whole. Its directory is made where it does not exist, for root alone.
func (h *History) Save(path string) error {
	text, err := json.Marshal(document{version, h.Since, h.Gathered, h.Watched, h.Incomplete, h.List(time.Time{})})
	if err == nil {
		err = os.MkdirAll(filepath.Dir(path), 0o700)
	}
	if err == nil {
		err = replace(path, text)
	}
	if err != nil {
		return fmt.Errorf("keep the history: %w", err)
	}
	h.changed = false
	return nil
}

// replace writes beside a file first, so that neither the end of the process nor that of the power leaves half of it.
func replace(path string, text []byte) error {
	beside, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+temporary)
	if err != nil {
		return err
	}
	_, err = beside.Write(text)
	if err == nil {
		err = beside.Sync()
	}
	err = errors.Join(err, beside.Close())
	if err == nil {
		err = os.Rename(beside.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(beside.Name()))
	}
	return nil
}

// What stands beside a file: what is being written, and what an earlier version could not read.
const (
	temporary = ".new*"
	unread    = ".old"
)

// SetAside renames a file that is of another form.
func SetAside(path string) error { return os.Rename(path, path+unread) }

// Remove removes a file and what stands beside it, and tells whether there was one.
func Remove(path string) (removed bool, _ error) {
	beside, err := filepath.Glob(path + temporary)
	for _, file := range append(beside, path+unread, path) {
		switch err2 := os.Remove(file); {
		case err2 == nil:
			removed = true
		case !errors.Is(err2, fs.ErrNotExist):
			err = errors.Join(err, err2)
		}
	}
	if err != nil {
		return removed, fmt.Errorf("remove the history: %w", err)
	}
	return removed, nil
}
