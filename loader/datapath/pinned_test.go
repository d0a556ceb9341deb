package datapath

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// A reader that is slow, as on a busy machine, and meanwhile loses what it reads to another
// datapath, reads that one.
func TestSlowReaderBesideASwap(t *testing.T) {
	dir := t.TempDir()
	rename := func(from, to string) error { return os.Rename(filepath.Join(dir, from), filepath.Join(dir, to)) }
	for _, name := range []string{MapsDir, newMapsDir} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	reads := 0
	err := withPinned(dir, func(string) error {
		if reads++; reads > 1 {
			return nil
		}
		time.Sleep(swapPatience + swapPoll) // it has not been let run
		return errors.Join(rename(MapsDir, oldMapsDir), rename(newMapsDir, MapsDir), errors.New("a map is missing"))
	})
	if err != nil || reads != 2 {
		t.Errorf("read %d times: %v", reads, err)
	}
}
