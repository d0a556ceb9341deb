// SPDX-License-Identifier: Apache-2.0

package detach

import (
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"replypath/loader/pins"
	"replypath/test/await"
)

// TestHistory: what an earlier version kept, and what stands beside it, goes; that of another pin directory stays.
func TestHistory(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history.json")
	other := filepath.Join(filepath.Dir(path), "history-b.json")
	for _, file := range []string{path, path + ".old", path + ".new123", other} {
		await.Must(t, os.WriteFile(file, nil, 0o600))
	}
	d := &detacher{journal: &pins.Journal{History: path}, log: slog.New(slog.DiscardHandler)}
	for range 2 {
		await.Must(t, d.history())
	}
	await.Same(t, "removed", []string{"history " + path + ".new123", "history " + path + ".old", "history " + path}, d.removed)
	left, err := filepath.Glob(filepath.Join(filepath.Dir(path), "*"))
	if err != nil || !slices.Equal(left, []string{other}) {
		t.Errorf("left: %v, %v", left, err)
	}
}
