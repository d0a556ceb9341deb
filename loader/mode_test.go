// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"testing"
)

func (b *server) wantMode(when, want string) {
	b.Helper()
	if got := b.mode(); got != want {
		b.Errorf("%s the mode is %s, want %s", when, got, want)
	}
}

// TestModeByHandStays: who switched to observe had a reason that another layout of the maps does not change.
func TestModeByHandStays(t *testing.T) {
	for _, upgrade := range upgrades {
		t.Run(upgrade.what, func(t *testing.T) {
			b := newServer(t)
			r := b.start()
			b.setMode("observe")
			r.stop()
			upgrade.prepare(b)
			b.start(upgrade.options)
			b.wantMode("after the start", "observe")
			t.Logf("%s: by hand observe, after the start %s", upgrade.what, b.mode())
		})
	}
}
