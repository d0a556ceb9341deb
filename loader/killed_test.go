// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"replypath/loader/attach"
	"replypath/loader/datapath"
	"replypath/loader/detach"
	"replypath/test/await"
	"replypath/test/short"
	"replypath/test/topology"
)

// startDaemon runs a daemon in a process of its own and waits until it is ready.
func (b *server) startDaemon() *topology.Cmd {
	b.Helper()
	c := b.child("daemon", "", attach.Auto)
	out, err := c.StdoutPipe()
	await.Must(b.T, err)
	await.Must(b.T, c.Start())
	b.Cleanup(func() {
		_ = c.Process.Kill() // it may have ended
		_ = c.Wait()
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		b.Fatalf("the daemon did not get ready: %q, %v", line, err)
	}
	return c
}

// TestDetachGivesUpOnAStoppedDaemon: a daemon that does not end is left alone, and so is what it owns. It is the one of the
// status.
func TestDetachGivesUpOnAStoppedDaemon(t *testing.T) {
	b := newServer(t)
	daemon := b.startDaemon()
	await.Same(t, "pid of the status", daemon.Process.Pid, *b.status().Daemon.PID)
	await.Must(t, daemon.Process.Signal(syscall.SIGSTOP))
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
	await.Must(t, daemon.Process.Signal(syscall.SIGCONT))
	await.Must(t, daemon.Wait())
}

// TestDetachNamesNobody: while a datapath is taken away nobody takes who does it for the daemon that was killed, also not
// who knows both by the journal alone.
func TestDetachNamesNobody(t *testing.T) {
	b := newServer(t)
	daemon := b.startDaemon()
	await.Must(t, daemon.Process.Kill())
	_ = daemon.Wait() // it was killed
	if status := b.status(); status.Daemon.Running || status.Daemon.PID != nil || !status.of("eth1").Attached {
		t.Errorf("status %+v", status)
	}
	// A file system in the way lasts as a detach that is under way does not.
	inTheWay := filepath.Join(b.dir, datapath.LinksDir+"-gone")
	await.Must(t, os.Mkdir(inTheWay, 0o700))
	await.Must(t, unix.Mount("tmpfs", inTheWay, "tmpfs", 0, ""))
	b.inside(func() error {
		if _, err := b.tryDetach(false); !errors.Is(err, unix.EBUSY) {
			t.Errorf("detach with a file system in the way: %v", err)
		}
		return nil
	})
	await.Same(t, "process that the journal names", 0, b.journal().PID)
	await.Must(t, unix.Unmount(inTheWay, 0))
}

// killed runs a child that is killed in its start, and tells whether it got that far.
func (b *server) killed(kind string, moment int, by attach.Mechanism) bool {
	b.Helper()
	c := b.child(kind, strconv.Itoa(moment), by)
	err := c.Run()
	if err == nil {
		return false
	}
	if c.ProcessState.Exited() {
		b.Fatalf("a child that %s in moment %d was not killed: %v", kind, moment, err)
	}
	return true
}

// found are what a process may find that is killed in its start. It is told how to attach what was there before.
var found = []struct {
	what    string
	prepare func(b *server, by func(*Options))
}{
	{"nothing there", func(*server, func(*Options)) {}},
	{"another size", func(b *server, by func(*Options)) { b.start(by, larger).stop() }},
	{"another layout", func(b *server, by func(*Options)) { b.start(by).stop(); b.setForeignLayout() }},
	{"another's trial", func(b *server, by func(*Options)) { b.start(by).stop(); b.start(by, larger, onTrial).stop() }},
}

// TestKilledStartIsDetached: a process that is killed after any step of its start leaves nothing that detach does not take
// away: on a host without anything, in the place of an earlier datapath with tables of another size, and of one with another
// layout. In short each moment is tried with one of them, which take turns with the mechanisms.
func TestKilledStartIsDetached(t *testing.T) {
	for i, f := range found {
		byEach(t, func(t *testing.T, mechanism attach.Mechanism) {
			if short.Run(t) && mechanism != mechanisms[i%len(mechanisms)] {
				return
			}
			t.Run(f.what, func(t *testing.T) {
				b := newServer(t)
				b.setRPFilter("eth1", 1)
				before := b.snapshot()
				first, step := 0, 1
				if short.Run(t) {
					first, step = (i+1)%len(found), len(found) // programs are attached in the last three of sixteen
				}
				kills, attached := 0, 0
				for moment := first; ; moment += step {
					f.prepare(b, by(mechanism))
					if !b.killed("dies in its start", moment, mechanism) {
						break
					}
					kills++
					if b.hasAttached(mechanism) {
						attached++
					}
					b.detach()
					after := fmt.Sprintf("killed after step %d, then detached", moment)
					await.Same(b, after, before, b.snapshot())
					b.wantNoPins(after)
				}
				if attached == 0 {
					t.Errorf("nothing is ever attached by %s", mechanism)
				}
				t.Logf("%s: %d kills, %d of them with programs attached by %s, 0 differences", f.what, kills, attached, mechanism)
			})
		})
	}
}

// hasAttached tells whether eth1 has what a mechanism puts there: the qdisc is looked at rather than its filters.
func (b *server) hasAttached(mechanism attach.Mechanism) bool {
	b.Helper()
	trace := b.trace()
	if mechanism == attach.Clsact {
		return slices.Contains(trace, "eth1 qdisc clsact")
	}
	return slices.Contains(trace, "eth1 tcx programs 2")
}

// TestKilledAttachingIsDetached has a process killed while it attaches, also where an interface has only a part of what
// belongs to it: what it was about to put on the host was written down before.
func TestKilledAttachingIsDetached(t *testing.T) {
	byEach(t, func(t *testing.T, mechanism attach.Mechanism) {
		b := newServer(t)
		b.setRPFilter("eth1", 1)
		before, kills := b.snapshot(), 0
		var partly []string
		for ; b.killed("dies attaching", kills, mechanism); kills++ {
			partly = append(partly, b.partlyAttached(mechanism)...)
			b.detach()
			after := fmt.Sprintf("killed in moment %d, then detached", kills)
			await.Same(b, after, before, b.snapshot())
			b.wantNoPins(after)
		}
		slices.Sort(partly)
		await.Same(b, "what a part was attached of", parts[mechanism], partly)
		t.Logf("%d kills by %s, %d of them inside one interface's attachment (%s), 0 differences",
			kills, mechanism, len(partly), strings.Join(partly, "; "))
	})
}

// parts are what is attached of two programs, and of a qdisc, where a process is killed inside the attachment of an
// interface.
var parts = map[attach.Mechanism][]string{
	attach.TCX: {"eth0 1 of 2", "eth1 1 of 2"},
	attach.Clsact: {
		"eth0 qdisc clsact with 0 of 2", "eth0 qdisc clsact with 1 of 2",
		"eth1 qdisc clsact with 0 of 2", "eth1 qdisc clsact with 1 of 2",
	},
}

// partlyAttached returns which interfaces have a part of what a mechanism puts there, and what.
func (b *server) partlyAttached(by attach.Mechanism) (partly []string) {
	b.Helper()
	trace := b.trace()
	for _, name := range []string{"eth0", "eth1"} {
		filters := 0
		for _, line := range trace {
			if strings.HasPrefix(line, name+" filter ") {
				filters++
			}
		}
		qdisc := name + " qdisc clsact"
		switch {
		case by == attach.TCX && slices.Contains(trace, name+" tcx programs 1"):
			partly = append(partly, name+" 1 of 2")
		case by == attach.Clsact && slices.Contains(trace, qdisc) && filters < 2:
			partly = append(partly, fmt.Sprintf("%s with %d of 2", qdisc, filters))
		}
	}
	return partly
}

// TestStartAfterAKilledUpgrade: whoever starts after a process that was killed in the middle of an upgrade finds all maps of
// one layout. Until then programs of two kinds may be attached, and what begins by them goes as routed. In short the two
// mechanisms take turns.
func TestStartAfterAKilledUpgrade(t *testing.T) {
	byEach(t, func(t *testing.T, mechanism attach.Mechanism) {
		b := newServer(t)
		before, kills := b.trace(), 0
		first, step := 0, 1
		if short.Run(t) {
			first, step = slices.Index(mechanisms, mechanism), len(mechanisms)
		}
		for moment := first; ; moment += step {
			b.start(by(mechanism)).stop()
			b.setForeignLayout()
			if !b.killed("dies in its start", moment, mechanism) {
				break
			}
			kills++
			b.start(by(mechanism)).stop()
			b.wantNoErrors()
			if !b.status().of("eth1").Attached {
				t.Errorf("killed after step %d, eth1 is not attached", moment)
			}
			if left, err := filepath.Glob(filepath.Join(b.dir, "maps-*")); err != nil || len(left) > 0 {
				t.Errorf("killed after step %d, left: %v, %v", moment, left, err)
			}
		}
		t.Logf("%d kills by %s", kills, mechanism)
		b.detach()
		await.Same(b, "after detach", before, b.trace())
	})
}
