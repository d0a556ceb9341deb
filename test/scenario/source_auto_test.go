// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"replypath/test/harness"
	"replypath/test/topology"
)

// pinned tells whether the programs of the source repair are.
func pinned(t *testing.T, p *harness.Product) bool {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(p.PinDir, "links", "sendmsg*"))
	harness.Must(t, err)
	return len(found) > 0
}

// wantWaiting wants nothing to be attached yet.
func wantWaiting(t *testing.T, p *harness.Product) {
	t.Helper()
	if _, effect := sourceFeature(t, p); !strings.HasPrefix(effect, "waits for") || pinned(t, p) {
		t.Errorf("effect %q, pinned %v", effect, pinned(t, p))
	}
	for _, change := range p.Status().OtherChanges() {
		t.Errorf("changed: %+v", change)
	}
}

// TestAutoWaits attaches nothing while nobody needs it, and does so with the
// first question to a daemon that came later: its answer is lost, as it would
// have been, and the next is right.
func TestAutoWaits(t *testing.T) {
	eachListening(t, func(t *testing.T, s *topology.S1, l listening) {
		p := harness.On(t, s.B.Host)
		d := p.Start()
		// A server at one address needs no repair.
		c := harness.NewConversation(t, harness.UDP, s.A.Eth1, s.B.Eth1.Address(l.asked))
		harness.Ask(t, c)
		wantWaiting(t, p)

		l.serve(t, s.B.Host)
		eth0, eth1 := s.B.Eth0.Address(l.asked), s.B.Eth1.Address(l.asked)
		a := newAsker(t, s.A.Eth1, l.asked)
		a.wantFrom(eth1, eth0)
		d.WaitLog(1, "attached to repair the source")
		harness.Eventually(t, "the repair is on", func() error {
			if _, effect := sourceFeature(t, p); !strings.HasPrefix(effect, "on:") {
				return fmt.Errorf("effect %q", effect)
			}
			return nil
		})
		a.wantFrom(eth1, eth1)
		newAsker(t, s.A.Eth1, l.asked).wantFrom(eth1, eth1)
		if available, effect := sourceFeature(t, p); !available || !strings.HasPrefix(effect, "on:") || !pinned(t, p) {
			t.Errorf("available %v, effect %q, pinned %v", available, effect, pinned(t, p))
		}
		if changes := p.Status().OtherChanges(); len(changes) != 1 || !strings.Contains(changes[0].Object, "cgroup") {
			t.Errorf("host changes %+v", changes)
		}
		// It goes on without the daemon, and the next one takes it over.
		d.Kill()
		a.wantFrom(eth1, eth1)
		p.Start()
		a.wantFrom(eth1, eth1)
	})
}

// TestRepairNever leaves the source alone, whatever is asked, until the
// configuration changes, and again when it changes back.
func TestRepairNever(t *testing.T) {
	eachListening(t, func(t *testing.T, s *topology.S1, l listening) {
		l.serve(t, s.B.Host)
		eth0, eth1 := s.B.Eth0.Address(l.asked), s.B.Eth1.Address(l.asked)
		path := filepath.Join(t.TempDir(), "replypath.yaml")
		configure := func(repair string) {
			harness.Must(t, os.WriteFile(path, fmt.Appendf(nil, "repair_udp_source: %s\n", repair), 0o644))
		}
		configure("false")
		p := harness.On(t, s.B.Host)
		d := p.Start("--config", path)
		a := newAsker(t, s.A.Eth1, l.asked)
		for _, want := range []struct {
			repair  string
			answers string
		}{{"false", "eth0"}, {"auto", "eth1"}, {"false", "eth0"}, {"true", "eth1"}} {
			configure(want.repair)
			d.Reload()
			from := eth0
			if want.answers == "eth1" {
				from = eth1
			}
			newAsker(t, s.A.Eth1, l.asked).wantFrom(eth1, from)
			// A flow that began while nothing was noted is noted once a second.
			harness.Eventually(t, "the older flow follows", func() error {
				if got := a.ask(eth1).Addr(); got != from {
					return fmt.Errorf("%s answers", got)
				}
				return nil
			})
			if pinned(t, p) != (from == eth1) {
				t.Errorf("repair_udp_source %s: pinned %v", want.repair, pinned(t, p))
			}
		}
	})
}

// launchAfter runs the daemon behind a shell command in a mount namespace of its
// own.
func launchAfter(t *testing.T, p *harness.Product, command string) *harness.Daemon {
	t.Helper()
	shell := harness.Must1[string](t)(exec.LookPath("unshare"))
	d := p.LaunchAs(func(c *topology.Cmd) {
		c.Args = append([]string{"unshare", "--mount", "--propagation", "private", "sh", "-e", "-c",
			command + "\nexec \"$0\" \"$@\"", c.Path}, c.Args[1:]...)
		c.Path = shell
	})
	d.WaitReady()
	return d
}

// TestWithoutCgroup2 names what is missing, and does everything else.
func TestWithoutCgroup2(t *testing.T) {
	s := harness.NewS1(t, topology.S1Options{})
	l := listenings[0]
	l.serve(t, s.B.Host)
	p := harness.On(t, s.B.Host)
	d := launchAfter(t, p, `awk '/ - cgroup2 / { print $5 }' /proc/self/mountinfo | xargs -r umount -l`)
	d.WaitLog(1, "WARN", "no cgroup2 file system is mounted")
	available, effect := sourceFeature(t, p)
	if available || !strings.Contains(effect, "no cgroup2") {
		t.Errorf("available %v, effect %q", available, effect)
	}
	if got := p.Metrics().Sum("replypath_kernel_feature", "feature=repair_udp_source"); got != 0 {
		t.Errorf("the metric says %v", got)
	}
	eth0, eth1 := s.B.Eth0.Address(l.asked), s.B.Eth1.Address(l.asked)
	newAsker(t, s.A.Eth1, l.asked).wantFrom(eth1, eth0)
	c := harness.NewConversation(t, harness.UDP, s.A.Eth1, eth1)
	harness.Ask(t, c)
}

// TestHiddenCgroup2 has a new /sys above that of the caller, as `ip netns exec`
// leaves it.
func TestHiddenCgroup2(t *testing.T) {
	s := harness.NewS1(t, topology.S1Options{})
	l := listenings[0]
	l.serve(t, s.B.Host)
	p := harness.On(t, s.B.Host)
	launchAfter(t, p, "umount -l /sys && mount -t sysfs sysfs /sys")
	if available, effect := sourceFeature(t, p); !available || !strings.HasPrefix(effect, "on:") {
		t.Errorf("available %v, effect %q", available, effect)
	}
	eth1 := s.B.Eth1.Address(l.asked)
	newAsker(t, s.A.Eth1, l.asked).wantFrom(eth1, eth1)
}
