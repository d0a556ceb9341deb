package restarts

import (
	"testing"

	"golang.org/x/sys/unix"

	"replypath/test/harness"
)

// TestKillAndUpgrade ends the daemon by SIGKILL, again and again, and starts in turn a
// build with other programs and the usual one.
func TestKillAndUpgrade(t *testing.T) {
	testAgain(t, "kills", func(d *harness.Daemon) { d.Kill() })
}

// TestStopAndUpgrade is the same with SIGTERM, as a service manager restarts it.
func TestStopAndUpgrade(t *testing.T) {
	testAgain(t, "stops", func(d *harness.Daemon) { d.Stop(unix.SIGTERM) })
}

// testAgain ends the daemon in some way, and starts the other build, under load. No
// connection may break, no reply may leave by eth0, no counter may go backwards.
func testAgain(t *testing.T, what string, end func(*harness.Daemon)) {
	t.Parallel()
	builds := []string{harness.Binary(), otherPrograms.binary(t)}
	n := newServer(t)
	p := harness.On(t, n.Server.Host)
	l := startLoad(t, n)
	l.wantAstray()
	d := startBuild(p, builds[0])
	l.allGoOn()
	strays, count := len(l.strays()), times(t)
	for i := range count {
		before := p.Metrics()
		end(d)
		d = startBuild(p, builds[(i+1)%2])
		if went := before.Backwards(p.Metrics()); len(went) > 0 {
			t.Errorf("after start %d, counters went backwards: %q", i, went)
		}
		l.goesOn()
	}
	wantVersion(t, p, count)
	l.report(strays, "%d %s, %d upgrades, %d roll-backs", count, what, (count+1)/2, count/2)
}

// wantVersion wants the daemon to be of the build that was started last.
func wantVersion(t *testing.T, p *harness.Product, starts int) {
	t.Helper()
	want := harness.Version
	if starts%2 == 1 {
		want += "-" + otherPrograms.name
	}
	if got := p.Status().Daemon.Version; got == nil || *got != want {
		t.Errorf("the daemon is of version %v, not %s", got, want)
	}
}
