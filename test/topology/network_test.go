// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"replypath/test/await"
)

// observerLink is the end of a veth pair that tells whether the namespace with its other end still exists.
const observerLink = "observed"

// observe ties a host to the observer by a veth pair.
func observe(h *Host, observer netns.NsHandle) error {
	pair := netlink.NewVeth(netlink.LinkAttrs{Name: "observer", TxQLen: -1})
	pair.PeerName, pair.PeerNamespace = observerLink, netlink.NsFd(observer)
	return h.Netlink().LinkAdd(pair)
}

// awaitNoLink waits until the kernel has taken the observed namespace apart.
func awaitNoLink(t *testing.T, observer *Host) {
	t.Helper()
	ctx := await.Within(t, await.AnswerTime)
	for {
		_, err := observer.Netlink().LinkByName(observerLink)
		var notFound netlink.LinkNotFoundError
		switch {
		case errors.As(err, &notFound):
			return
		case err != nil:
			t.Fatal(err)
		case ctx.Err() != nil:
			t.Fatal("the namespace still exists")
		}
		runtime.Gosched()
	}
}

func openFiles(t *testing.T) map[string]string {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	await.Must(t, err)
	files := make(map[string]string)
	for _, e := range entries {
		// The directory itself is gone again.
		if target, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil {
			files[e.Name()] = target
		}
	}
	return files
}

func TestCloseLeavesNothing(t *testing.T) {
	observer := await.Must1[*Host](t)(newNetwork(t).Host("observer"))
	// The first use of a file opens the runtime's own poller.
	await.Must(t, useEverything(t, observer))
	awaitNoLink(t, observer)

	before, goroutines := openFiles(t), runtime.NumGoroutine()
	await.Must(t, useEverything(t, observer))
	awaitNoLink(t, observer)
	for fd, target := range openFiles(t) {
		if before[fd] != target {
			t.Errorf("descriptor %s was left open: %s", fd, target)
		}
	}
	ctx := await.Within(t, await.AnswerTime)
	for runtime.NumGoroutine() > goroutines && ctx.Err() == nil {
		runtime.Gosched()
	}
	if n := runtime.NumGoroutine(); n > goroutines {
		t.Errorf("%d goroutines, %d before", n, goroutines)
	}
}

// useEverything builds a network with all there is in use, and closes it.
func useEverything(t *testing.T, observer *Host) error {
	s, err := NewS1(await.Within(t, await.AnswerTime), S1Options{Policy: Stateful})
	if err != nil {
		return err
	}
	lan := await.Must1[*Switch](t)(s.Switch("lan"))
	await.Must1[*Interface](t)(lan.Connect(NIC{Host: s.A.Host, Name: "eth2"}))
	await.Must(t, observe(s.B.Host, observer.Namespace()))
	await.Must1[time.Duration](t)(s.A.Ping(await.Within(t, await.AnswerTime), Echo{To: s.B.Eth0.Address(IPv6)}))
	running := s.B.Command(t.Context(), "sleep", "1000")
	await.Must(t, running.Start())
	await.Must(t, s.A.Command(t.Context(), "true").Run())
	await.Must(t, capture(t, s.A.Eth0).Stop())
	capture(t, s.B.Eth0)
	err = s.Close()
	if running.ProcessState == nil {
		t.Error("a process was not waited for")
	}
	return err
}

const (
	childVariable = "TOPOLOGY_TEST_CHILD"
	// observerFD is where the child finds the observer's namespace.
	observerFD = 3
)

// runChild is the process that TestKilledProcessLeavesNothing kills. It prints the number of a process that it started,
// and waits.
func runChild() error {
	n := New(Options{})
	h, err := n.Host("child")
	if err != nil {
		return err
	}
	if err := observe(h, observerFD); err != nil {
		return err
	}
	c := h.Command(context.Background(), "sleep", "1000")
	if err := c.Start(); err != nil {
		return err
	}
	fmt.Println(c.Process.Pid)
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

func TestKilledProcessLeavesNothing(t *testing.T) {
	observer := await.Must1[*Host](t)(newNetwork(t).Host("observer"))
	child := exec.CommandContext(t.Context(), "/proc/self/exe")
	child.Env = append(os.Environ(), childVariable+"=1")
	child.Stderr = os.Stderr
	namespace := os.NewFile(uintptr(await.Must1[int](t)(unix.Dup(int(observer.Namespace())))), "observer")
	child.ExtraFiles = []*os.File{namespace}
	_ = await.Must1[io.WriteCloser](t)(child.StdinPipe())
	stdout := await.Must1[io.ReadCloser](t)(child.StdoutPipe())
	await.Must(t, child.Start())
	await.Must(t, namespace.Close())
	line, err := bufio.NewReader(stdout).ReadString('\n')
	await.Must(t, err)
	pid := await.Must1[int](t)(strconv.Atoi(strings.TrimSpace(line)))
	pidfd := await.Must1[int](t)(unix.PidfdOpen(pid, 0))
	defer unix.Close(pidfd)
	if _, err := observer.Netlink().LinkByName(observerLink); err != nil {
		t.Fatalf("before the kill: %v", err)
	}

	await.Must(t, child.Process.Kill())
	_ = child.Wait()
	awaitEnd(t, pidfd)
	awaitNoLink(t, observer)
}

// awaitEnd waits until a process has ended.
func awaitEnd(t *testing.T, pidfd int) {
	t.Helper()
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, int(await.AnswerTime/time.Millisecond))
	await.Must(t, err)
	if n == 0 {
		t.Error("the process still runs")
	}
}
