// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"errors"
	"io"
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"replypath/test/await"
)

// currentNamespace identifies the namespace of the calling thread.
func currentNamespace() (string, error) {
	return os.Readlink("/proc/thread-self/ns/net")
}

// namespaceOf identifies a host's namespace.
func namespaceOf(t *testing.T, h *Host) string {
	t.Helper()
	var id string
	await.Must(t, h.Do(func() error {
		var err error
		id, err = currentNamespace()
		return err
	}))
	return id
}

func TestDoReturns(t *testing.T) {
	n := newNetwork(t)
	a := await.Must1[*Host](t)(n.Host("a"))
	b := await.Must1[*Host](t)(n.Host("b"))
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	outside := await.Must1[string](t)(currentNamespace())
	stillOutside := func(after string) {
		t.Helper()
		if now := await.Must1[string](t)(currentNamespace()); now != outside {
			t.Fatalf("after %s the thread is in %s, not in %s", after, now, outside)
		}
	}

	failure := errors.New("failure")
	if err := a.Do(func() error { return failure }); !errors.Is(err, failure) {
		t.Errorf("got error %v", err)
	}
	stillOutside("an error")

	func() {
		defer func() { _ = recover() }()
		_ = a.Do(func() error { panic("test") })
	}()
	stillOutside("a panic")

	await.Must(t, a.Do(func() error {
		inA := await.Must1[string](t)(currentNamespace())
		inB := namespaceOf(t, b)
		if inA == outside || inB == outside || inA == inB {
			t.Errorf("namespaces %s, %s and %s are not distinct", outside, inA, inB)
		}
		if now := await.Must1[string](t)(currentNamespace()); now != inA {
			t.Errorf("after a nested call the thread is in %s, not in %s", now, inA)
		}
		return nil
	}))
	stillOutside("a nested call")
}

// TestCommandOutlivesItsThread shows that the kernel does not take the end of the thread that called Start for the end
// of the process.
func TestCommandOutlivesItsThread(t *testing.T) {
	h := await.Must1[*Host](t)(newNetwork(t).Host("a"))
	c := h.Command(t.Context(), "cat")
	stdin := await.Must1[io.WriteCloser](t)(c.StdinPipe())
	stdout := await.Must1[io.ReadCloser](t)(c.StdoutPipe())
	started := make(chan error)
	thread := make(chan int, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends
		thread <- unix.Gettid()
		started <- c.Start()
	}()
	await.Must(t, <-started)
	awaitThreadEnd(t, <-thread)
	_, err := io.WriteString(stdin, "alive")
	await.Must(t, err)
	await.Must(t, stdin.Close())
	echoed, err := io.ReadAll(stdout)
	await.Must(t, err)
	await.Must(t, c.Wait())
	if string(echoed) != "alive" {
		t.Errorf("the program echoed %q", echoed)
	}
}

// awaitThreadEnd waits until a thread of this process is gone. The main thread never goes.
func awaitThreadEnd(t *testing.T, tid int) {
	t.Helper()
	ctx := await.Within(t, await.AnswerTime)
	for tid != os.Getpid() && unix.Tgkill(os.Getpid(), tid, 0) == nil {
		if ctx.Err() != nil {
			t.Fatal("the thread still exists")
		}
		runtime.Gosched()
	}
}
