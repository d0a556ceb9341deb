// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"bufio"
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"replypath/loader/datapath"
	"replypath/loader/detach"
	"replypath/test/harness"
	"replypath/test/topology"
)

// startDaemon runs a daemon in a process of its own and waits until it is ready.
func (b *bed) startDaemon() *topology.Cmd {
	b.Helper()
	c := b.host.Command(b.Context(), "/proc/self/exe")
	c.Env = append(os.Environ(), daemonVariable+"="+b.dir)
	c.Stderr = b.log
	out, err := c.StdoutPipe()
	harness.Must(b.T, err)
	harness.Must(b.T, c.Start())
	b.Cleanup(func() {
		_ = c.Process.Kill() // it may have ended
		_ = c.Wait()
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		b.Fatalf("the daemon did not get ready: %q, %v", line, err)
	}
	return c
}

func TestDetachStopsTheDaemon(t *testing.T) {
	s := newS1(t, topology.S1Options{})
	b := newBed(t, s.B.Host)
	before := b.trace()
	daemon := b.startDaemon()
	if status := b.status(); *status.Daemon.PID != daemon.Process.Pid {
		t.Errorf("status says pid %d, it is %d", *status.Daemon.PID, daemon.Process.Pid)
	}
	b.inside(func() error {
		_, err := detach.Run(within(t), detach.Options{PinDir: b.dir, Log: b.logger()})
		if !errors.Is(err, ErrOwned) {
			t.Errorf("detach beside a daemon: %v", err)
		}
		removed, err := detach.Run(within(t), detach.Options{PinDir: b.dir, Stop: true, Log: b.logger()})
		if len(removed) == 0 {
			t.Error("detach tells nothing")
		}
		return err
	})
	if err := daemon.Wait(); err != nil {
		t.Errorf("the daemon ended with %v", err)
	}
	if diff := cmp.Diff(before, b.trace()); diff != "" {
		t.Errorf("after detach (-want +got):\n%s", diff)
	}
}

// A daemon that does not end is left alone, and so is what it owns.
func TestDetachGivesUpOnAStoppedDaemon(t *testing.T) {
	s := newS1(t, topology.S1Options{})
	b := newBed(t, s.B.Host)
	daemon := b.startDaemon()
	harness.Must(t, daemon.Process.Signal(syscall.SIGSTOP))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	b.inside(func() error {
		_, err := detach.Run(ctx, detach.Options{PinDir: b.dir, Stop: true, Log: b.logger()})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("detach: %v", err)
		}
		return nil
	})
	if !b.status().of("eth1").Attached {
		t.Error("not attached any more")
	}
	harness.Must(t, daemon.Process.Signal(syscall.SIGCONT))
	harness.Must(t, daemon.Wait())
}

func TestKilledDaemonLeavesTheDatapath(t *testing.T) {
	s := newS1(t, topology.S1Options{})
	b := newBed(t, s.B.Host)
	b.setRPFilter("eth1", 1)
	before := b.trace()
	daemon := b.startDaemon()
	pingB(t, s)
	harness.Must(t, daemon.Process.Kill())
	_ = daemon.Wait() // killed
	pingB(t, s)
	if status := b.status(); status.Daemon.Running || status.Daemon.PID != nil || !status.of("eth1").Attached {
		t.Errorf("status %+v", status)
	}
	b.start(nil).stop()
	pingB(t, s)
	b.detach()
	if diff := cmp.Diff(before, b.trace()); diff != "" {
		t.Errorf("after detach (-want +got):\n%s", diff)
	}
}

// TestDetachNamesNobody: while a datapath is taken away nobody takes who does it for the daemon that
// was killed, also not who knows both by the journal alone.
func TestDetachNamesNobody(t *testing.T) {
	b := newBed(t, newS1(t, topology.S1Options{}).B.Host)
	daemon := b.startDaemon()
	harness.Must(t, daemon.Process.Kill())
	_ = daemon.Wait() // it was killed
	// A file system in the way lasts as a detach that is under way does not.
	inTheWay := filepath.Join(b.dir, datapath.LinksDir+"-gone")
	harness.Must(t, os.Mkdir(inTheWay, 0o700))
	harness.Must(t, unix.Mount("tmpfs", inTheWay, "tmpfs", 0, ""))
	b.inside(func() error {
		if _, err := detach.Run(within(t), detach.Options{PinDir: b.dir, Log: b.logger()}); !errors.Is(err, unix.EBUSY) {
			t.Errorf("detach with a file system in the way: %v", err)
		}
		return nil
	})
	if journal := b.journal(); journal.PID != 0 {
		t.Errorf("the journal names process %d", journal.PID)
	}
	harness.Must(t, unix.Unmount(inTheWay, 0))
}
