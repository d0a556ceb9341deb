package loader

import (
	"bufio"
	"context"
	"errors"
	"os"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"replypath/test/topology"
)

// startDaemon runs a daemon in a process of its own and waits until it is ready.
func (b *bed) startDaemon() *topology.Cmd {
	b.Helper()
	c := b.host.Command(b.Context(), "/proc/self/exe")
	c.Env = append(os.Environ(), daemonVariable+"="+b.dir)
	c.Stderr = b.log
	out, err := c.StdoutPipe()
	must(b.T, err)
	must(b.T, c.Start())
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
		_, err := Detach(within(t), DetachOptions{PinDir: b.dir, Log: b.logger()})
		if !errors.Is(err, ErrOwned) {
			t.Errorf("detach beside a daemon: %v", err)
		}
		removed, err := Detach(within(t), DetachOptions{PinDir: b.dir, Stop: true, Log: b.logger()})
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
	must(t, daemon.Process.Signal(syscall.SIGSTOP))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	b.inside(func() error {
		_, err := Detach(ctx, DetachOptions{PinDir: b.dir, Stop: true, Log: b.logger()})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("detach: %v", err)
		}
		return nil
	})
	if !b.status().of("eth1").Attached {
		t.Error("not attached any more")
	}
	must(t, daemon.Process.Signal(syscall.SIGCONT))
	must(t, daemon.Wait())
}

func TestKilledDaemonLeavesTheDatapath(t *testing.T) {
	s := newS1(t, topology.S1Options{})
	b := newBed(t, s.B.Host)
	b.setRPFilter("eth1", 1)
	before := b.trace()
	daemon := b.startDaemon()
	pingB(t, s)
	must(t, daemon.Process.Kill())
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
