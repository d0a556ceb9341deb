// SPDX-License-Identifier: Apache-2.0

package history

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"replypath/test/await"
)

// keep runs a keeper of no pins for some time, and returns what it logged.
func keep(t *testing.T, path string, d time.Duration) string {
	t.Helper()
	var log bytes.Buffer
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), d)
		defer cancel()
		k := &Keeper{PinDir: filepath.Join(t.TempDir(), "none"), Path: path, Log: slog.New(slog.NewTextHandler(&log, nil))}
		k.Run(ctx)
	})
	return log.String()
}

// watched is for how long a file says that a daemon looked.
func watched(t *testing.T, path string) time.Duration {
	t.Helper()
	h, err := Load(path)
	await.Must(t, err)
	return h.Watched
}

// TestKeeper: the time watched adds up over restarts, and is saved at the end.
func TestKeeper(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state", "history.json")
	for n := range 2 {
		if log := keep(t, path, 90*time.Minute); log != "" {
			t.Errorf("logged: %s", log)
		}
		if got, want := watched(t, path), time.Duration(n+1)*90*time.Minute; got != want {
			t.Errorf("watched for %s, not %s", got, want)
		}
	}
}

// TestKeeperSaves: while it runs it saves as well, where nothing but the time is new once an hour.
func TestKeeperSaves(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history.json")
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			(&Keeper{PinDir: filepath.Join(t.TempDir(), "none"), Path: path, Log: slog.New(slog.DiscardHandler)}).Run(ctx)
			close(done)
		}()
		time.Sleep(lazyInterval + time.Second)
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("saved within an hour: %v", err)
		}
		time.Sleep(2 * gatherInterval)
		synctest.Wait()
		if got := watched(t, path); got < lazyInterval || got > lazyInterval+2*gatherInterval {
			t.Errorf("saved after %s", got)
		}
		cancel()
		<-done
	})
}

// TestKeeperOfBadFiles: what is of another version is set aside; what cannot be read stays. Either is logged once.
func TestKeeperOfBadFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history.json")
	await.Must(t, os.WriteFile(path, []byte(`{"version": 2}`), 0o600))
	log := keep(t, path, time.Hour)
	if strings.Count(log, "\n") != 1 || !strings.Contains(log, "the history cannot be read and starts empty") {
		t.Errorf("of a later version is logged: %s", log)
	}
	files, err := filepath.Glob(path + "*")
	if err != nil || len(files) != 2 || watched(t, path) != time.Hour {
		t.Errorf("there are %v, %v", files, err)
	}

	unreadable := filepath.Join(t.TempDir(), "history.json") // a directory
	await.Must(t, os.Mkdir(unreadable, 0o700))
	if log := keep(t, unreadable, time.Hour); strings.Count(log, "\n") != 1 {
		t.Errorf("of a directory is logged: %s", log)
	}
	if info, err := os.Stat(unreadable); err != nil || !info.IsDir() {
		t.Errorf("it was replaced: %v", err)
	}
}
