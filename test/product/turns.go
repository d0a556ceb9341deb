// SPDX-License-Identifier: Apache-2.0

package product

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"replypath/test/await"
)

// Starts of the product load the processors for most of a second, which what is timed beside them would show. All test
// processes of the machine share two locks (flock(2)), which go with a process however it ends: whoever starts holds
// the first one together with others, whoever measures holds it alone. The second is passed on the way to the first, so
// that whoever waits to measure is not overtaken for ever.
const (
	startsLock = "replypath-tests.lock"
	gateLock   = "replypath-tests.gate"
)

// lockDir is the same for all processes, whatever their directory for temporary files is.
var lockDir = "/run"

// quiet are the names of tests of this process that have the machine to themselves, one at most that is not within
// another one.
var (
	quietMutex sync.Mutex
	quiet      = make(map[string]bool)
)

// Quiet has the machine to the test from when the starts of others are over, for what it measures: no other test starts
// the product until the test ends or calls what is returned. It may start the product itself. Subtests that run in
// parallel are not to be begun meanwhile: they wait for tests that wait for this one.
func Quiet(t testing.TB) (release func()) {
	t.Helper()
	if isQuietFor(t) {
		return func() {}
	}
	unlock := takeTurn(t, unix.LOCK_EX)
	setQuiet(t, true)
	release = sync.OnceFunc(func() {
		setQuiet(t, false)
		unlock()
	})
	t.Cleanup(release)
	return release
}

// Starting is called before the product starts, or its programs are loaded in this process, and what it returns when
// that is done: it waits for whoever measures.
func Starting(t testing.TB) (done func()) {
	t.Helper()
	if isQuietFor(t) {
		return func() {}
	}
	done = sync.OnceFunc(takeTurn(t, unix.LOCK_SH))
	// A start that waits for something else is not what loads the processors.
	time.AfterFunc(await.AnswerTime, done)
	return done
}

// isQuietFor says whether the test, one around it or one within it has the machine to itself.
func isQuietFor(t testing.TB) bool {
	quietMutex.Lock()
	defer quietMutex.Unlock()
	for name := range quiet {
		if strings.HasPrefix(name+"/", t.Name()+"/") || strings.HasPrefix(t.Name()+"/", name+"/") {
			return true
		}
	}
	return false
}

func setQuiet(t testing.TB, is bool) {
	quietMutex.Lock()
	defer quietMutex.Unlock()
	if is {
		quiet[t.Name()] = true
	} else {
		delete(quiet, t.Name())
	}
}

// takeTurn waits for the lock and returns what gives it back.
func takeTurn(t testing.TB, how int) (unlock func()) {
	t.Helper()
	gate := lock(t, gateLock, unix.LOCK_EX)
	defer gate.Close()
	held := lock(t, startsLock, how)
	return func() { held.Close() }
}

func lock(t testing.TB, name string, how int) *os.File {
	t.Helper()
	path := filepath.Join(lockDir, name)
	file := await.Must1[*os.File](t)(os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600))
	for {
		err := unix.Flock(int(file.Fd()), how)
		if err == nil {
			return file
		}
		if !errors.Is(err, unix.EINTR) {
			t.Fatalf("lock %s: %v", path, err)
		}
	}
}
