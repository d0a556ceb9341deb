// SPDX-License-Identifier: Apache-2.0

package problems

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
)

func TestProblemsAreLoggedOnce(t *testing.T) {
	var text bytes.Buffer
	p := New(slog.New(slog.NewTextHandler(&text, nil)))
	for range 3 {
		p.Replace("a", slog.LevelError, []string{"one", "two"})
	}
	p.Replace("a", slog.LevelError, []string{"two", "three"})
	p.Keep("b", []string{"four"})
	if got := p.All(); !slices.Equal(got, []string{"two", "three", "four"}) {
		t.Errorf("all: %v", got)
	}
	p.Replace("a", slog.LevelError, nil)
	p.Keep("b", nil)
	if got := p.All(); len(got) != 0 {
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
	got := Messages(nil, a, errors.Join(b, a), fmt.Errorf("c: %w", errors.Join(b, nil)))
	if want := []string{"a", "b", "c: b"}; !slices.Equal(got, want) {
		t.Errorf("messages %q, want %q", got, want)
	}
	if got := Messages(nil, nil); got != nil {
		t.Errorf("messages %q of no error", got)
	}
}
