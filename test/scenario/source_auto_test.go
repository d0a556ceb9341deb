// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"replypath/test/await"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// resolverPort is where the server's queries go.
const resolverPort = 5300

// TestSourceOfBegun has a server begin with a resolver by a socket that is bound to a port and no address. Then
// somebody sends in the resolver's name, by eth1, to the server's other address, so that a flow of these is there.
// What the server goes on to ask leaves as it did: from the address of eth0, by eth0.
func TestSourceOfBegun(t *testing.T) {
	n := traffic.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.AnySource})
	p, _ := product.StartOn(t, n.Server.Host, "--config", product.WriteConfig(t, "repair_udp_source: true\n"))
	p.WaitGrace()
	port := uint16(21_000)
	for _, f := range n.Families() {
		for _, when := range []string{"before the first answer", "afterwards"} {
			t.Run(fmt.Sprintf("%s/%s", f, when), func(t *testing.T) {
				port++
				q := newClientOf(t, n, netip.AddrPortFrom(n.ClientEth0.Address(f), resolverPort), netip.AddrPortFrom(n.Server.Eth0.Address(f), port))
				other := *q
				other.serverAt = netip.AddrPortFrom(n.Server.Eth1.Address(f), port)
				forge := func() {
					other.forge()
					other.waitRecorded(p)
				}
				q.serve(serverSocket{wildcard: true})
				wires := wire.Tap(t, n.Server)
				if when == "afterwards" {
					q.serverSpeaks()
					q.clientSpeaks()
					forge()
				} else {
					q.serverSpeaks()
					forge()
					q.clientSpeaks()
				}
				for range 3 {
					q.serverSpeaks()
					q.clientSpeaks()
					forge()
				}
				all := topology.All(topology.UDP, topology.FromPort(port), topology.ToPort(resolverPort))
				if left := wires.WantEth0("what the server begins", all); len(left) != 4 {
					t.Errorf("%d questions left", len(left))
				}
				left := wires.WantEth0("what the server begins, from the routed address", q.datagrams())
				got := repairs(p, f)
				await.Same(t, "repairs", 0, got)
				t.Logf("%d questions, all by eth0 from its own address, %v repairs", len(left), got)
			})
		}
	}
}

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
		p, d := product.StartOn(t, s.B.Host, "--config", config)
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
	await.Same(t, "what the metric says", 0, p.Metrics().Sum("replypath_kernel_feature", "feature=repair_udp_source"))
	newAsker(t, s.A.Eth1, l.asked).wantFrom(eth1, eth0)
	traffic.Ask(t, traffic.NewConversation(t, traffic.UDP, s.A.Eth1, eth1))
	p.Expect(0, "detach", "--stop")

	launchAfter(t, p, "umount -l /sys && mount -t sysfs sysfs /sys")
	wantSource(t, p, true, "on:")
	newAsker(t, s.A.Eth1, l.asked).wantFrom(eth1, eth1)
}

// detachPinned does what `bpftool link detach pinned` does.
func detachPinned(pin string) error {
	l, err := link.LoadPinnedLink(pin, nil)
	if err != nil {
		return err
	}
	return errors.Join(l.Detach(), l.Close())
}

// TestSourceTaken has others take the programs of the source repair off the control group, three times, while a
// daemon that binds to no address is asked by both families: within a second it answers from the address that was
// asked again. It is logged and counted. All but the first time the programs are those of an earlier process.
func TestSourceTaken(t *testing.T) {
	s := traffic.NewS1(t, topology.S1Options{})
	listening{network: "udp", address: "::"}.serve(t, s.B.Host)
	p := product.On(t, s.B.Host)
	product.Quiet(t)
	for _, theft := range []struct {
		name  string
		steal func(pin string) error
		hooks []string
	}{
		{"both links are detached", detachPinned, []string{"sendmsg4", "sendmsg6"}},
		{"both links of an earlier process are detached", detachPinned, []string{"sendmsg4", "sendmsg6"}},
		{"the link for ipv4 is detached", detachPinned, []string{"sendmsg4"}},
		{"the link for ipv6 is detached", detachPinned, []string{"sendmsg6"}},
		{"the pins of both links are deleted", os.Remove, []string{"sendmsg4", "sendmsg6"}},
	} {
		t.Run(theft.name, func(t *testing.T) {
			const backWithin = time.Second
			repairs := func() float64 { return p.Metrics().Sum("replypath_host_repairs_total", "object=program") }
			d := p.Start() // one process puts back a few at once
			wantRepaired(t, s)
			before := repairs()
			for taken := 1; taken <= 3; taken++ {
				began := time.Now()
				for _, hook := range theft.hooks {
					await.Must(t, theft.steal(filepath.Join(p.PinDir, "links", hook)))
				}
				d.WaitLog(taken, "level=WARN", "programs had been taken off, attached again", "cgroup=")
				took := time.Since(began).Round(time.Millisecond)
				if t.Logf("back after %s", took); took > await.Patient(backWithin) {
					t.Errorf("back after %s", took)
				}
				wantRepaired(t, s)
				await.Same(t, "repairs that are counted", float64(taken), repairs()-before)
			}
			d.Stop(unix.SIGTERM)
		})
	}
}

// wantRepaired asks the daemon at B's eth1, and wants answers from there.
func wantRepaired(t *testing.T, s *topology.S1) {
	t.Helper()
	for _, f := range s.Families() {
		eth1 := s.B.Eth1.Address(f)
		newAsker(t, s.A.Eth1, f).wantFrom(eth1, eth1)
	}
}
