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
	testAgain(t, "kills", func(d *harness.Daemon) { d.Kill() })
}

// TestStopAndUpgrade is the same with SIGTERM, as a service manager restarts it.
func TestStopAndUpgrade(t *testing.T) {
	testAgain(t, "stops", func(d *harness.Daemon) { d.Stop(unix.SIGTERM) }, "--mechanism", "clsact")
}

// testAgain ends the daemon in some way, and starts it again, every other time as
// another build, under load. No connection may break, no reply may leave by eth0, no
// counter may go backwards.
func testAgain(t *testing.T, what string, end func(*harness.Daemon), args ...string) {
	t.Parallel()
	usual, other := harness.Binary(), otherPrograms.binary(t)
	builds := []string{usual, other, other, usual} // of the starts after the first
	n := newServer(t)
	p := harness.On(t, n.Server.Host)
	l := startLoad(t, n)
	l.wantAstray()
	d := startBuild(p, usual, args...)
	l.allGoOn()
	l.forget()
	count := times(t)
	var slowest time.Duration
	for i := range 2 * count {
		before := p.Metrics()
		end(d)
		d = startBuild(p, builds[i%len(builds)], args...)
		slowest = max(slowest, d.ReadyAfter)
		if went := before.Backwards(p.Metrics()); len(went) > 0 {
			t.Errorf("after start %d, counters went backwards: %q", i, went)
		}
		l.goesOn()
	}
	wantVersion(t, p, count)
	wantNone(t, l.report("%d %s, %d restarts of the same build, %d upgrades, %d roll-backs, ready within %s",
		2*count, what, count, (count+1)/2, count/2, slowest))
}

// TestReload reads a changed configuration again and again.
func TestReload(t *testing.T) {
	t.Parallel()
	n := newServer(t)
	p := harness.On(t, n.Server.Host)
	config := harness.WriteConfig(t, "")
	d := p.Start("--config", config)
	l := startLoad(t, n)
	l.allGoOn()
	count := times(t)
	for i := range count {
		before := p.Metrics()
		text := []string{
			"follow: latest\n", "exclude: [192.0.2.0/24]\n", "mode: nonsense\n",
			"interfaces: [{name: 'eth*'}]\nprotocols: [tcp]\n", "next_hop: auto\n", "",
		}[i%6]
		harness.Must(t, os.WriteFile(config, []byte(text), 0o600))
		d.Reload()
		if went := before.Backwards(p.Metrics()); len(went) > 0 {
			t.Errorf("after reload %d, counters went backwards: %q", i, went)
		}
		l.goesOn()
	}
	wantNone(t, l.report("%d reloads", count))
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

// wantVersion wants the daemon to be of the build that was started last, after so many
// changes of the build.
func wantVersion(t *testing.T, p *harness.Product, changes int) {
	t.Helper()
	want := harness.Version
	if changes%2 == 1 {
		want += "-" + otherPrograms.name
	}
	if got := p.Status().Daemon.Version; got == nil || *got != want {
		t.Errorf("the daemon is of version %v, not %s", got, want)
	}
}
