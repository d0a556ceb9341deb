// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/product"
	"replypath/test/server"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// secondTo returns the product on the same host with other pins, which are none of p's neighbours: they lie deeper.
func secondTo(t *testing.T, p *product.Product) *product.Product {
	t.Helper()
	second := p.WithPinDir(filepath.Join(p.PinDir+"-second", "deep", "down"))
	t.Cleanup(func() { os.RemoveAll(p.PinDir + "-second") })
	return second
}

// TestSecondDatapath has a second `run`, and `try`, with other pins refused beside a live daemon, beside a dead one, and
// beside one that has ended in order. Before, both attached, and each deleted the other's replypath0 ten times a second.
func TestSecondDatapath(t *testing.T) {
	server.EachMechanism(t, func(t *testing.T, mechanism string) {
		t.Parallel()
		n, p := server.NewExact(t)
		second := secondTo(t, p)
		d := start(p, mechanism)
		r := keepAsking(t, n, traffic.TCP, topology.IPv4)
		refuse := func(words ...string) {
			t.Helper()
			before := snapshot(t, n)
			for _, command := range [][]string{{"run"}, {"run", "--observe"}, {"run", "--mechanism", "clsact"}, {"try"}} {
				result := second.Expect(1, command...)
				wantOneLine(t, result, append(words, p.PinDir)...)
				if strings.Contains(result.Stderr, "choose another") {
					t.Errorf("it advises to do the same once more: %s", result)
				}
			}
			await.Same(t, "the host after refusals", before, snapshot(t, n))
			if _, err := os.Stat(second.PinDir); !os.IsNotExist(err) {
				t.Errorf("the second pin directory is left: %v", err)
			}
		}
		pid := fmt.Sprint("pid ", d.PID())
		refuse(pid, "replypath detach --stop --pin-dir "+p.PinDir)
		d.Kill()
		refuse(pid, "dead", "replypath detach --pin-dir "+p.PinDir)
		start(p, mechanism).Stop(unix.SIGTERM)
		refuse("without a daemon", "replypath detach --pin-dir "+p.PinDir)
		r.GoesOn()
		r.End()
	})
}

// TestDeletedAgainAndAgain has somebody who does not give in take away what a daemon has made or set: after five times in a
// row there is the pause that is promised. Before, two datapaths did so to each other, ten times a second and for ever.
func TestDeletedAgainAndAgain(t *testing.T) {
	const inARow = 5
	for name, what := range map[string]struct{ command, logged, object, problem string }{
		"device": {"ip link del replypath0", "the device of the fallback route had been deleted", "route", "replypath0 is deleted again and again"},
		"route": {"ip -4 route del default dev replypath0 table 114114", "a fallback route had been deleted", "route",
			"a fallback route is deleted again and again"},
		"program": {"rm PINS/links/INDEX-ingress PINS/links/INDEX-egress", attachedAgain, "program", ""},
		"sysctl":  {"sysctl -qw net.ipv4.conf.eth1.rp_filter=1", "a sysctl had been set back", "sysctl", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // it waits for seconds
			if name == "program" {
				host.NeedTCX(t) // it takes links
			}
			n, p := server.NewExact(t)
			await.Must(t, n.Server.SetSysctl(eth1RPFilter, "1"))
			command := strings.NewReplacer("PINS", p.PinDir, "INDEX", fmt.Sprint(n.Server.Eth1.Index)).Replace(what.command)
			d := p.Start()
			for i := range inARow {
				host.Shell(t, n.Server.Host, command)
				d.WaitLog(i+1, what.logged)
			}
			host.Shell(t, n.Server.Host, command)
			// Whatever else happens has everything looked at, and is no reason to begin again.
			host.Shell(t, n.Server.Host, "ip addr add 10.2.0.55/24 dev eth1")
			if d.Log.Wait(await.Within(t, 3*time.Second), inARow+1, what.logged) == nil {
				t.Errorf("made again more than %d times in a row", inARow)
			}
			if errs := fmt.Sprint(p.Status().Errors); (errs == "[]") != (what.problem == "") || !strings.Contains(errs, what.problem) {
				t.Errorf("errors of the status: %q", errs)
			}
			await.Same(t, "repairs that are counted", inARow, p.Metrics().Sum("replypath_host_repairs_total", "object="+what.object))
			_, err := p.Get("/healthz")
			if unhealthy := err != nil && strings.Contains(err.Error(), "eth1"); unhealthy != (what.object == "program") {
				t.Errorf("/healthz: %v", err)
			}
			if what.problem != "" {
				wire.WantBy(t, n.Server, conversation(t, n, traffic.TCP, topology.IPv4), true)
			}
			t.Logf("put back %d times in a row, then left alone for 3 s and more", inARow)
		})
	}
}

// TestStrangerLocks has processes that could put no datapath in place lock the network namespace, as anybody can: the daemon
// starts all the same, and is detached.
func TestStrangerLocks(t *testing.T) {
	const withoutCapabilities = "setpriv --bounding-set=-all --inh-caps=-all "
	n, p := server.NewExact(t)
	for name, as := range map[string]string{
		"a user":                                          "setpriv --reuid=65534 --regid=65534 --clear-groups ",
		"root without capabilities":                       withoutCapabilities,
		"root of a user namespace of its own":             withoutCapabilities + "unshare --user --keep-caps ",
		"a user, by a program that is root for everybody": "setpriv --ruid=65534 ",
	} {
		t.Run(name, func(t *testing.T) {
			p := p.In(t)
			words := strings.Fields(as + "flock --no-fork /proc/self/ns/net sleep 1000")
			stranger := product.StartProgram(t, n.Server.Command(t.Context(), words[0], words[1:]...), unix.SIGKILL)
			await.Eventually(t, "the stranger has the lock", func() error {
				text, err := os.ReadFile("/proc/locks")
				if err == nil && !strings.Contains(string(text), fmt.Sprintf(" WRITE %d ", stranger.PID())) {
					err = errors.New("it has none")
				}
				return err
			})
			d := p.Start()
			d.WaitLog(1, "level=WARN", "locked the network namespace", fmt.Sprint("pid=", stranger.PID()))
			wire.WantBy(t, n.Server, conversation(t, n, traffic.TCP, topology.IPv4), true)
			p.Expect(0, "detach", "--stop")
		})
	}
}

// servesAnywhere are the commands that have nothing to do with pins.
var servesAnywhere = []string{"check", "completion", "help", "version"}

// flagsFor are the flags without which a command does not get to the pins.
var flagsFor = map[string][]string{
	"explain": {"--peer", "10.1.0.100", "--self", "10.4.0.100"},
}

// otherUses are other uses of commands.
var otherUses = [][]string{
	{"detach", "--stop"},
	{"flows", "--follow"},
	{"flows", "-o", "json"},
	{"run", "--observe"},
	{"status", "-o", "json"},
	{"top", "-o", "json"},
}

// completions are the words that may follow others, each with what it does.
func completions(p *product.Product, words ...string) []string {
	var found []string
	for line := range strings.Lines(p.Expect(0, append(append([]string{"__complete"}, words...), "")...).Stdout) {
		word, _, _ := strings.Cut(strings.TrimSpace(line), "\t")
		if !strings.HasPrefix(word, ":") {
			found = append(found, word)
		}
	}
	return found
}

// everyUse lists all commands that work on pins, with their subcommands and arguments.
func everyUse(t *testing.T, p *product.Product, self string) [][]string {
	t.Helper()
	uses := append(slices.Clone(otherUses), []string{"trace", "--self", self, "--peer", self, "--send"})
	for _, name := range completions(p) {
		if slices.Contains(servesAnywhere, name) {
			continue
		}
		uses = append(uses, append([]string{name}, flagsFor[name]...))
		for _, below := range completions(p, name) {
			uses = append(uses, []string{name, below})
		}
	}
	if len(uses) < len(otherUses)+12 {
		t.Fatalf("these are not all commands: %q", uses)
	}
	return uses
}

// TestForeignPinsAreRefused: every command refuses the pins of another network namespace, says
// which they are and what to do, and leaves them alone. One that is new is among them.
func TestForeignPinsAreRefused(t *testing.T) {
	n, p := server.NewExact(t)
	d := p.Start()
	wire.WantBy(t, n.Server, conversation(t, n, traffic.TCP, topology.IPv4), true)
	foreign := p.At(n.Client)
	pins := host.Pins(t)
	for _, daemon := range []string{"alive", "dead"} {
		if daemon == "dead" {
			d.Kill()
		}
		refused := 0
		for _, use := range everyUse(t, p, n.ClientEth0.Address(topology.IPv4).String()) {
			result := foreign.Run(use...)
			if result.Code != 1 || result.Stdout != "" {
				t.Errorf("daemon %s: not refused: %s", daemon, result)
				continue
			}
			wantOneLine(t, result, p.PinDir+": pins belong to another network namespace", "run it there")
			refused++
		}
		t.Logf("daemon %s: %d uses of commands refused", daemon, refused)
	}
	await.Same(t, "pins", pins, host.Pins(t))
	if flows := p.Flows(); len(flows) == 0 {
		t.Error("the flows are gone")
	}
	await.Same(t, "mode", "enforce", p.Status().Mode)
	wire.WantBy(t, n.Server, conversation(t, n, traffic.TCP, topology.IPv4), true)
	for _, use := range [][]string{{"check"}, {"version"}, {"completion", "bash"}} {
		foreign.Expect(0, use...)
	}
}
