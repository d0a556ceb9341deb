// SPDX-License-Identifier: Apache-2.0

package product

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"replypath/test/await"
)

// TestQuiet: whoever measures has the machine alone, but for starts of its own, and whoever starts shares it.
func TestQuiet(t *testing.T) {
	t.Cleanup(func() { lockDir = "/run" })
	lockDir = t.TempDir()
	want := func(when string, how int, free bool) {
		t.Helper()
		file := await.Must1[*os.File](t)(os.OpenFile(filepath.Join(lockDir, startsLock), os.O_RDWR|os.O_CREATE, 0o600))
		defer file.Close()
		if err := unix.Flock(int(file.Fd()), how|unix.LOCK_NB); (err == nil) != free {
			t.Errorf("%s: another process locks by %d: %v", when, how, err)
		}
	}
	done := Starting(t)
	want("while one starts", unix.LOCK_SH, true)
	want("while one starts", unix.LOCK_EX, false)
	done()
	want("when it has started", unix.LOCK_EX, true)
	t.Run("measure", func(t *testing.T) {
		Quiet(t)
		Quiet(t)()
		Starting(t)()
		want("while one measures", unix.LOCK_SH, false)
	})
	want("when it has measured", unix.LOCK_EX, true)
	release := Quiet(t)
	release()
	want("when it has released", unix.LOCK_EX, true)
}
