// SPDX-License-Identifier: Apache-2.0

package problems

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"replypath/test/await"
)

func TestProblemsAreLoggedOnce(t *testing.T) {
	var text bytes.Buffer
	p := New(slog.New(slog.NewTextHandler(&text, nil)))
	for range 3 {
		p.Replace("a", slog.LevelError, []string{"one", "two"})
	}
	p.Replace("a", slog.LevelError, []string{"two", "three"})
	p.Keep("b", []string{"four"})
	await.Same(t, "all", []string{"two", "three", "four"}, p.All())
	p.Replace("a", slog.LevelError, nil)
	p.Keep("b", nil)
	await.Same(t, "all", []string{}, p.All())
	for line, want := range map[string]int{"ERROR msg=one": 1, "ERROR msg=two": 1, "longer: one": 1, "longer: two": 1, "four": 0} {
		await.Same(t, fmt.Sprintf("times that %q was logged", line), want, strings.Count(text.String(), line))
	}
}

func TestMessages(t *testing.T) {
	a, b := errors.New("a"), errors.New("b")
	got := Messages(nil, a, errors.Join(b, a), fmt.Errorf("c: %w", errors.Join(b, nil)))
	await.Same(t, "messages", []string{"a", "b", "c: b"}, got)
	await.Same(t, "messages of no error", nil, Messages(nil, nil))
}
