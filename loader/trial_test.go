package loader

import (
	"errors"
	"fmt"
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
	for hasJournal, begin := range map[bool]func(*pins.Dir) error{
		false: func(*pins.Dir) error { return nil },
		true: func(d *pins.Dir) error { // without a word
			journal, _, err := pins.CreateJournal(d)
			return errors.Join(err, journal.Close())
		},
	} {
		t.Run(fmt.Sprintf("journal: %t", hasJournal), func(t *testing.T) {
			b := newBed(t, s.B.Host)
			dir, err := pins.Own(b.dir)
			must(t, err)
			must(t, begin(dir))
			must(t, dir.Close())
			b.inside(func() error {
				done, err := TakeBack(b.dir, os.Getpid(), slog.Default())
				if done != hasJournal {
					t.Errorf("taken back: %t", done)
				}
				return err
			})
			if _, err := os.Stat(b.dir); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the pin directory: %v", err)
			}
		})
	}
}
