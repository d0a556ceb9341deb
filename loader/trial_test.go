package loader

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"testing"

	"replypath/loader/pins"
	"replypath/test/topology"
)

// TestTakeBackOfNothing: a process that tries may be killed before it has written what
// it is about to do. What it left is taken away all the same.
func TestTakeBackOfNothing(t *testing.T) {
	s := newS1(t, topology.S1Options{})
	for name, begin := range map[string]func(*pins.Dir) error{
		"no journal": func(*pins.Dir) error { return nil },
		"a journal without a word": func(d *pins.Dir) error {
			journal, _, err := pins.CreateJournal(d)
			return errors.Join(err, journal.Close())
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t, s.B.Host)
			dir, err := pins.Own(b.dir)
			must(t, err)
			must(t, begin(dir))
			must(t, dir.Close())
			b.inside(func() error {
				done, err := TakeBack(b.dir, os.Getpid(), slog.Default())
				if !done {
					t.Error("nothing was taken back")
				}
				return err
			})
			if _, err := os.Stat(b.dir); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the pin directory: %v", err)
			}
		})
	}
}
