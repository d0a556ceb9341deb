package loader

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"replypath/loader/status"
	"replypath/test/topology"
)

func TestProblemsAreLoggedOnce(t *testing.T) {
	var text bytes.Buffer
	p := problems{log: slog.New(slog.NewTextHandler(&text, nil)), standing: make(map[string][]string)}
	for range 3 {
		p.replace("a", slog.LevelError, []string{"one", "two"})
	}
	p.replace("a", slog.LevelError, []string{"two", "three"})
	p.keep("b", []string{"four"})
	if got := p.all(); !slices.Equal(got, []string{"two", "three", "four"}) {
		t.Errorf("all: %v", got)
	}
	p.replace("a", slog.LevelError, nil)
	p.keep("b", nil)
	if got := p.all(); len(got) != 0 {
		t.Errorf("all: %v", got)
	}
	for line, want := range map[string]int{"ERROR msg=one": 1, "ERROR msg=two": 1, "longer: one": 1, "longer: two": 1, "four": 0} {
		if got := strings.Count(text.String(), line); got != want {
			t.Errorf("%q was logged %d times:\n%s", line, got, text.String())
		}
	}
}

func TestMessages(t *testing.T) {
	a, b := errors.New("a"), errors.New("b")
	got := messages([]error{nil, a, errors.Join(b, a), fmt.Errorf("c: %w", errors.Join(b, nil))})
	if want := []string{"a", "b", "c: b"}; !slices.Equal(got, want) {
		t.Errorf("messages %q, want %q", got, want)
	}
	if got := messages([]error{nil, nil}); got != nil {
		t.Errorf("messages %q of no error", got)
	}
}

func TestCoalescer(t *testing.T) {
	c := newCoalescer()
	begin := time.Now()
	for _, test := range []struct{ at, due time.Duration }{
		{0, quiet},
		{10 * time.Millisecond, 10*time.Millisecond + quiet},
		{190 * time.Millisecond, patience},
		{400 * time.Millisecond, patience},
	} {
		if got := c.note(begin.Add(test.at)).Sub(begin); got != test.due {
			t.Errorf("a change after %v: due after %v, want %v", test.at, got, test.due)
		}
	}
	c.done(begin.Add(time.Second), 100*time.Millisecond)
	if got := c.note(begin.Add(time.Second)).Sub(begin); got != time.Second+restFactor*100*time.Millisecond {
		t.Errorf("after a long reconciliation: due after %v", got)
	}
	c.done(begin.Add(2*time.Second), time.Millisecond)
	if got := c.note(begin.Add(3 * time.Second)).Sub(begin); got != 3*time.Second+quiet {
		t.Errorf("after a rest: due after %v", got)
	}
}

// Maps of an earlier version, which lack one, are not taken for none: its programs
// are attached.
func TestMapsOfAnotherVersion(t *testing.T) {
	s := newS1(t, topology.S1Options{})
	b := newBed(t, s.B.Host)
	b.start(nil).stop()
	must(t, os.Remove(filepath.Join(b.dir, "maps", "sender")))
	b.inside(func() error {
		_, err := status.Read(b.dir)
		if err == nil || errors.Is(err, ErrNotAttached) || !strings.Contains(err.Error(), "restart the daemon") {
			t.Errorf("status: %v", err)
		}
		return nil
	})
}
