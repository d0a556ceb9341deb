// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"context"
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

func TestHostDefaults(t *testing.T) {
	h := await.Must1[*Host](t)(newNetwork(t).Host("a"))
	lo, err := h.Netlink().LinkByName("lo")
	await.Must(t, err)
	if lo.Attrs().RawFlags&unix.IFF_UP == 0 {
		t.Error("lo is down")
	}
	for key, want := range map[string]string{
		"net/ipv4/ip_forward":              "0",
		"net/ipv4/conf/all/rp_filter":      "0",
		"net/ipv6/conf/all/forwarding":     "0",
		"net/ipv6/conf/default/accept_dad": "0",
	} {
		if got := await.Must1[string](t)(h.Sysctl(key)); got != want {
			t.Errorf("%s is %s, not %s", key, got, want)
		}
	}
	await.Must(t, h.SetSysctl("net/ipv4/conf/lo/rp_filter", "2"))
	if got := await.Must1[string](t)(h.Sysctl("net/ipv4/conf/lo/rp_filter")); got != "2" {
		t.Errorf("rp_filter of lo is %s", got)
	}
	if err := h.SetSysctl("net/no/such", "1"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a sysctl that there is not: %v", err)
	}
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

func TestCommandEndsWithContext(t *testing.T) {
	h := await.Must1[*Host](t)(newNetwork(t).Host("a"))
	ctx, cancel := context.WithCancel(t.Context())
	// The child of the shell holds the pipe: only its end lets Wait return.
	c := h.Command(ctx, "sh", "-c", "sleep 1000 & echo started; wait")
	c.WaitDelay = 0
	stdout := await.Must1[io.ReadCloser](t)(c.StdoutPipe())
	await.Must(t, c.Start())
	_, err := io.ReadFull(stdout, make([]byte, len("started")))
	await.Must(t, err)
	cancel()
	_, err = io.ReadAll(stdout)
	await.Must(t, err)
	if err := c.Wait(); err == nil {
		t.Error("the program ended well")
	}
}
