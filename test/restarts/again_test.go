package restarts

import (
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"replypath/test/harness"
)

// TestKillAndUpgrade ends the daemon by SIGKILL, again and again, and starts in turn
// the same build, one with other programs, that one again, and the first.
func TestKillAndUpgrade(t *testing.T) {
	testAgain(t, "kills", times(t), func(d *harness.Daemon) { d.Kill() })
}

// TestStopAndUpgrade is the same with SIGTERM, as a service manager restarts it, half as
// often, where the programs are attached the other way.
func TestStopAndUpgrade(t *testing.T) {
	stop := func(d *harness.Daemon) { d.Stop(unix.SIGTERM) }
	testAgain(t, "stops", max(1, times(t)/2), stop, "--mechanism", "clsact")
}

// testAgain ends the daemon in some way, and starts the same build again, then another one,
// then the first, under load, so many times each. No connection may break, no reply may
// leave by eth0, no counter may go backwards.
func testAgain(t *testing.T, what string, count int, end func(*harness.Daemon), args ...string) {
	t.Parallel()
	usual, other := harness.Binary(), otherPrograms.binary(t)
	starts := []struct{ binary, version string }{
		{usual, harness.Version},
		{other, harness.Version + "-" + otherPrograms.name},
		{usual, harness.Version},
	}
	n := newServer(t)
	p := harness.On(t, n.Server.Host)
	l := startLoad(t, n)
	l.wantAstray()
	d := startBuild(p, usual, args...)
	l.allGoOn()
	l.forget()
	var slowest time.Duration
	for i := range count * len(starts) {
		before, start := p.Metrics(), starts[i%len(starts)]
		end(d)
		d = startBuild(p, start.binary, args...)
		slowest = max(slowest, d.ReadyAfter)
		after := p.Metrics()
		if after.Sum("replypath_build_info", "version="+start.version) != 1 {
			t.Errorf("start %d: the daemon is not of version %s", i, start.version)
		}
		if went := before.Backwards(after); len(went) > 0 {
			t.Errorf("after start %d, counters went backwards: %q", i, went)
		}
		l.goesOn()
	}
	wantNone(t, l.report("%d %s, %d restarts of the same build, %[3]d upgrades, %[3]d roll-backs, ready within %[4]s",
		count*len(starts), what, count, slowest))
}

// nonsense is refused.
const nonsense = "mode: nonsense\n"

// configurations are read in turn.
var configurations = []string{
	"follow: latest\n", "exclude: [192.0.2.0/24]\n", nonsense,
	"interfaces: [{name: 'eth*'}]\nprotocols: [tcp]\n", "interfaces: [{name: 'eth*', next_hop: auto}]\n", "",
}

// TestReload reads a changed configuration again and again. Those that are refused are
// none of the reloads that are wanted.
func TestReload(t *testing.T) {
	t.Parallel()
	n := newServer(t)
	p := harness.On(t, n.Server.Host)
	config := harness.WriteConfig(t, "")
	d := p.Start("--config", config)
	l := startLoad(t, n)
	l.allGoOn()
	wanted, done, refused := times(t), 0, 0
	for i := 0; done < wanted; i++ {
		before, text, taken := p.Metrics(), configurations[i%len(configurations)], 1.0
		if text == nonsense {
			taken = 0
			refused++
		} else {
			done++
		}
		harness.Must(t, os.WriteFile(config, []byte(text), 0o600))
		d.Reload()
		after := p.Metrics()
		if got := after.Sum("replypath_config_last_reload_successful"); got != taken {
			t.Errorf("reload %d of %q: success %v, not %v", i, text, got, taken)
		}
		if went := before.Backwards(after); len(went) > 0 {
			t.Errorf("after reload %d, counters went backwards: %q", i, went)
		}
		l.goesOn()
	}
	wantNone(t, l.report("%d reloads, and %d that were refused,", done, refused))
}

// TestRestartByHand restarts what was switched to enforce by hand with a configuration that
// enforces: it does so all the time.
func TestRestartByHand(t *testing.T) {
	t.Parallel()
	n := newServer(t)
	p := harness.On(t, n.Server.Host)
	config := harness.WriteConfig(t, "mode: observe\n")
	d := p.Start("--config", config)
	l := startLoad(t, n)
	l.wantAstray()
	const restarts = 10
	for range restarts {
		harness.Must(t, os.WriteFile(config, []byte("mode: observe\n"), 0o600))
		d.Reload()
		p.Expect(0, "mode", "enforce")
		l.allGoOn()
		l.forget()
		harness.Must(t, os.WriteFile(config, []byte("mode: enforce\n"), 0o600))
		d.Stop(unix.SIGTERM)
		d = p.Start("--config", config)
		l.allGoOn()
		wantNone(t, l.strays())
	}
	wantNone(t, l.report("%d restarts out of enforce by hand", restarts))
}
