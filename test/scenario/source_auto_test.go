// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"replypath/test/await"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
)

// pinned tells whether the programs of the source repair are.
func pinned(t *testing.T, p *product.Product) bool {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(p.PinDir, "links", "sendmsg*"))
	await.Must(t, err)
	return len(found) > 0
}

// TestAutoWaits attaches nothing while nobody needs it, and does so with the first question to a daemon that came
// later: its answer is lost, as it would have been, and the next is right. It goes on without the daemon, and the
// next one takes it over.
func TestAutoWaits(t *testing.T) {
	s, config := traffic.NewS1(t, topology.S1Options{}), product.WriteConfig(t, "")
	eachListening(t, "auto", func(t *testing.T, l listening) {
		p := product.On(t, s.B.Host)
		d := p.Start("--config", config)
		eth0, eth1 := s.B.Eth0.Address(l.asked), s.B.Eth1.Address(l.asked)
		// A server at one address needs no repair.
		traffic.Ask(t, traffic.NewConversation(t, traffic.UDP, s.A.Eth1, eth1))
		wantSource(t, p, true, "waits for")
		if changes := p.Status().OtherChanges(); pinned(t, p) || len(changes) > 0 {
			t.Errorf("pinned %v, changed: %+v", pinned(t, p), changes)
		}

		l.serve(t, s.B.Host)
		a := newAsker(t, s.A.Eth1, l.asked)
		a.wantFrom(eth1, eth0)
		await.Eventually(t, "the repair is on", func() error {
			if _, effect := sourceFeature(t, p); !strings.HasPrefix(effect, "on:") {
				return fmt.Errorf("effect %q", effect)
			}
			return nil
		})
		d.WaitLog(1, "attached to repair the source")
		a.wantFrom(eth1, eth1)
		newAsker(t, s.A.Eth1, l.asked).wantFrom(eth1, eth1)
		if changes := p.Status().OtherChanges(); !pinned(t, p) || len(changes) != 1 || !strings.Contains(changes[0].Object, "cgroup") {
			t.Errorf("pinned %v, host changes %+v", pinned(t, p), changes)
		}
		d.Kill()
		a.wantFrom(eth1, eth1)
		p.Start("--config", config)
		a.wantFrom(eth1, eth1)
	})
}

// launchAfter runs the daemon behind a shell command in a mount namespace of its own.
func launchAfter(t *testing.T, p *product.Product, command string) *product.Daemon {
	t.Helper()
	shell := await.Must1[string](t)(exec.LookPath("unshare"))
	d := p.LaunchAs(func(c *topology.Cmd) {
		c.Args = append([]string{"unshare", "--mount", "--propagation", "private", "sh", "-e", "-c",
			command + "\nexec \"$0\" \"$@\"", c.Path}, c.Args[1:]...)
		c.Path = shell
	})
	d.WaitReady()
	return d
}

// TestCgroup2 starts where no cgroup2 is mounted: that is named, and everything else is done. Where a new /sys lies
// above that of the caller, as `ip netns exec` leaves it, it is found.
func TestCgroup2(t *testing.T) {
	s, l := traffic.NewS1(t, topology.S1Options{}), listenings[0]
	l.serve(t, s.B.Host)
	eth0, eth1 := s.B.Eth0.Address(l.asked), s.B.Eth1.Address(l.asked)
	p := product.On(t, s.B.Host)
	d := launchAfter(t, p, `awk '/ - cgroup2 / { print $5 }' /proc/self/mountinfo | xargs -r umount -l`)
	d.WaitLog(1, "WARN", "no cgroup2 file system is mounted")
	wantSource(t, p, false, "no cgroup2")
	if got := p.Metrics().Sum("replypath_kernel_feature", "feature=repair_udp_source"); got != 0 {
		t.Errorf("the metric says %v", got)
	}
	newAsker(t, s.A.Eth1, l.asked).wantFrom(eth1, eth0)
	traffic.Ask(t, traffic.NewConversation(t, traffic.UDP, s.A.Eth1, eth1))
	p.Expect(0, "detach", "--stop")

	launchAfter(t, p, "umount -l /sys && mount -t sysfs sysfs /sys")
	wantSource(t, p, true, "on:")
	newAsker(t, s.A.Eth1, l.asked).wantFrom(eth1, eth1)
}
