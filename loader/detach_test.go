// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"replypath/loader/attach"
	"replypath/test/await"
)

// TestDetachWithoutPins: filters outlive their pins; detach finds them all the same.
func TestDetachWithoutPins(t *testing.T) {
	b := newServer(t)
	b.start(byClsact).stop()
	await.Must(t, os.RemoveAll(b.dir))
	removed := b.detach()
	if len(removed) != 6 || !slices.Contains(removed, "device replypath0 with the fallback default routes") || !slices.Contains(removed, "program on eth1 egress (clsact)") {
		t.Errorf("removed %q", removed)
	}
	if b.logged("level=WARN msg=\"nothing was pinned") != 1 {
		t.Error("no warning that the rest cannot be told")
	}
	b.wantNoPrograms()
	await.Same(t, "removed again", nil, b.detach())
}

// TestDetachElsewhere: with a pin directory that holds no datapath, detach does not strip one of this namespace that is
// pinned beside it, with a daemon and without.
func TestDetachElsewhere(t *testing.T) {
	others := map[string]func(*server){
		"absent":       func(*server) {},
		"within it":    func(b *server) { b.dir = strings.TrimSuffix(b.dir, "-typo") + "/deeper" },
		"two absent":   func(b *server) { b.dir += "/deeper" },
		"empty":        func(b *server) { await.Must(b.T, os.Mkdir(b.dir, 0o700)) },
		"doctor's":     func(b *server) { await.Must(b.T, os.MkdirAll(b.dir+"/doctor", 0o700)) }, // of an earlier version
		"one level up": func(b *server) { b.dir = filepath.Dir(b.dir) },
	}
	byEach(t, func(t *testing.T, mechanism attach.Mechanism) {
		b := newServer(t)
		for what, prepare := range others {
			r := b.start(by(mechanism))
			other := *b
			other.dir = b.dir + "-typo"
			prepare(&other)
			for _, daemon := range []bool{true, false} {
				if !daemon {
					r.stop()
				}
				before := b.snapshot()
				removed, err := other.detachOrNot(daemon) // which it would end
				if err == nil || !strings.Contains(err.Error(), "replypath detach --pin-dir "+b.dir) {
					t.Errorf("%s, with a daemon: %t: removed %q, %v", what, daemon, removed, err)
				}
				await.Same(b, what, before, b.snapshot())
			}
			b.detach()
			removed, err := other.detachOrNot(false)
			if await.Must(t, err); len(removed) > 0 && what != "doctor's" && what != "empty" {
				t.Errorf("%s: removed %q where nothing was left", what, removed)
			}
		}
		t.Logf("all of %d refused", 2*len(others))
	})
}

// detachOrNot is detach for one that may be refused.
func (b *server) detachOrNot(stop bool) (removed []string, err error) {
	err = b.host.Do(func() (err error) {
		removed, err = b.tryDetach(stop)
		return err
	})
	return removed, err
}
