// SPDX-License-Identifier: Apache-2.0

package managers

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"replypath/loader/pins"
	"replypath/test/await"
	testhost "replypath/test/host"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// unitFile is what is installed.
const unitFile = "../../packaging/replypath.service"

// cloudInit orders itself as the one of Ubuntu does, which needs the network before sysinit.target: whoever is before
// network-pre.target must not be after that.
const cloudInit = `[Unit]
DefaultDependencies=no
Wants=networking.service
After=networking.service systemd-networkd.service
Before=sysinit.target
[Service]
Type=oneshot
ExecStart=true
`

// TestUnit has systemd check the packaged unit, together with those that bring the network up.
func TestUnit(t *testing.T) {
	text := string(await.Must1[[]byte](t)(os.ReadFile(unitFile)))
	dir := t.TempDir()
	unit, first := filepath.Join(dir, "replypath.service"), filepath.Join(dir, "cloud-init.service")
	text = strings.ReplaceAll(text, "/usr/local/bin/replypath", product.Binary())
	await.Must(t, os.WriteFile(unit, []byte(text), 0o644))
	await.Must(t, os.WriteFile(first, []byte(cloudInit), 0o644))
	host := traffic.NewHost(t)
	verify := []string{"verify", "--man=no", unit, first, "systemd-networkd.service", "networking.service", "multi-user.target"}
	output, err := host.Command(await.Within(t, await.AnswerTime), "systemd-analyze", verify...).CombinedOutput()
	t.Logf("systemd-analyze %s: %d bytes of complaints", strings.Join(verify[2:], " "), len(output))
	if err != nil || len(output) > 0 {
		t.Errorf("%v\n%s", err, output)
	}
}

// askedUnit asks for the status as soon as the network may be used.
const askedUnit = `[Unit]
After=network.target
[Service]
Type=oneshot
ExecStart=sh -c '/usr/local/bin/replypath status -o json >/run/test/asked.part; mv /run/test/asked.part /run/test/asked'
`

// newBootable prepares a machine with the packaged service and networkd.
func newBootable(t *testing.T, n *topology.TwoNIC) *testhost.Machine {
	t.Helper()
	m := testhost.NewMachine(t, n.Server.Host)
	m.Install()
	m.Write("/etc/systemd/network/10-eth0.network", eth0File(n))
	m.Write("/etc/systemd/network/10-eth1.network", eth1File(n))
	m.Write("/etc/systemd/system/asked.service", askedUnit)
	m.Enable("systemd-networkd.service", "/usr/lib/systemd/system/systemd-networkd.service")
	m.Enable("asked.service", "/etc/systemd/system/asked.service")
	return m
}

// waitAsked returns the status at the time when the network could be used.
func waitAsked(t *testing.T, m *testhost.Machine) (status string) {
	t.Helper()
	await.Eventually(t, "the network may be used", func() error {
		text, err := os.ReadFile(m.Shared("asked"))
		status = string(text)
		return err
	})
	await.Must(t, os.Remove(m.Shared("asked")))
	return status
}

// microseconds reads a time of a unit's, counted from the start of the machine.
func microseconds(t *testing.T, m *testhost.Machine, unit, property string) uint64 {
	t.Helper()
	return await.Must1[uint64](t)(strconv.ParseUint(m.Property(unit, property), 10, 64))
}

// TestBootBySystemd boots the packaged service, and boots it again (scenario S8): it is there before networkd touches
// an interface, and questions are answered right as soon as there are addresses.
func TestBootBySystemd(t *testing.T) {
	n, _ := newServer(t)
	p := product.On(t, n.Server.Host).WithPinDir(pins.DefaultDir)
	m := newBootable(t, n)
	for _, name := range []string{"after boot", "after another one"} {
		forgetAddresses(t, n)
		m.Boot()
		await.Says(t, name+", when the network may be used", waitAsked(t, m), `"running": true`)
		waitManaged(t, p)
		awaitOwn(t, n, p)
		eachQuestion(t, n, name, wire.WantByEth1)
		wantManaged(t, p)
		ready := microseconds(t, m, "replypath.service", "ActiveEnterTimestampMonotonic")
		configures := microseconds(t, m, "systemd-networkd.service", "ExecMainStartTimestampMonotonic")
		t.Logf("%s: ready %d ms before networkd is started", name, (int64(configures)-int64(ready))/1000)
		if ready == 0 || ready > configures {
			t.Errorf("%s: ready at %d us, networkd is started at %d us", name, ready, configures)
		}
		m.PowerOff()
	}
}

// hanging is a start that hangs for as long as a file says so.
const hanging = `[Service]
TimeoutStartSec=5
RestartSec=100ms
ExecStart=
ExecStart=sh -c 'if grep yes /etc/hang; then echo it hangs; sleep infinity; fi; exec /usr/local/bin/replypath run'
`

// obstacles keep the service from starting: a change of the unit, a file before and after, and what is said of it.
var obstacles = map[string]struct{ unit, file, bad, good, said string }{
	"bad configuration":  {"", "/etc/replypath/replypath.yaml", "mode: sideways\n", "mode: enforce\n", "sideways"},
	"a start that hangs": {hanging, "/etc/hang", "yes\n", "no\n", "it hangs"},
}

// TestBootWithout comes up with the network but without replypath, which is there by itself once the obstacle has gone.
func TestBootWithout(t *testing.T) {
	for name, obstacle := range obstacles {
		t.Run(name, func(t *testing.T) {
			n, _ := newServer(t)
			p := product.On(t, n.Server.Host).WithPinDir(pins.DefaultDir)
			m := newBootable(t, n)
			m.Write("/etc/systemd/system/"+service+".d/test.conf", obstacle.unit)
			m.Write(obstacle.file, obstacle.bad)
			forgetAddresses(t, n)
			m.Boot()
			waitAsked(t, m)
			for _, i := range []*topology.Interface{n.Server.Eth0, n.Server.Eth1} {
				await.Must(t, i.WaitReady(await.Within(t, await.AnswerTime)))
			}
			await.Becomes(t, "it is tried again", true, func() bool { return strings.Count(m.Log(), obstacle.said) > 1 })
			m.Write(obstacle.file, obstacle.good)
			tries := m.Property(service, "NRestarts")
			await.Becomes(t, "what was tried has ended", true, func() bool { return m.Property(service, "NRestarts") != tries })
			began := time.Now()
			waitManaged(t, p)
			t.Logf("%s: the network is up without it, %s tries before the obstacle went; managed %s after the next one began",
				name, tries, time.Since(began).Round(time.Millisecond))
			awaitOwn(t, n, p)
			eachQuestion(t, n, "then", wire.WantByEth1)
			p.Expect(0, "detach", "--stop")
		})
	}
}

// impatient is a unit whose daemon is taken for hung sooner, and ended sooner: what is stopped takes no signal but the last.
const impatient = "[Service]\nWatchdogSec=3\nTimeoutAbortSec=1\nRestartSec=100ms\n"

// TestHungDaemonIsStartedAgain: systemd ends a daemon that does nothing any more, and starts another, which takes over.
func TestHungDaemonIsStartedAgain(t *testing.T) {
	n, _ := newServer(t)
	p := product.On(t, n.Server.Host).WithPinDir(pins.DefaultDir)
	m := newBootable(t, n)
	await.Says(t, "the packaged unit", string(await.Must1[[]byte](t)(os.ReadFile(unitFile))), "\nWatchdogSec=90\n")
	m.Write("/etc/systemd/system/"+service+".d/test.conf", impatient)
	m.Boot()
	waitManaged(t, p)
	awaitOwn(t, n, p)
	first := microseconds(t, m, service, "WatchdogTimestampMonotonic")
	await.Eventually(t, "it tells of its passes for longer than it might be silent", func() error {
		if last := microseconds(t, m, service, "WatchdogTimestampMonotonic"); last < first+4e6 {
			return fmt.Errorf("%d us, at first %d us", last, first)
		}
		return nil
	})
	if again := m.Property(service, "NRestarts"); again != "0" {
		t.Fatalf("%s restarts of a daemon that does not hang:\n%s", again, m.Log())
	}
	m.Run("systemctl", "kill", "--signal=STOP", service)
	began := time.Now()
	await.Eventually(t, "another daemon", func() error {
		if m.Property(service, "NRestarts") == "0" || m.Property(service, "ActiveState") != "active" {
			return errors.New(m.Log())
		}
		return nil
	})
	t.Logf("stopped, and another one is ready after %s, with a watchdog of 3 s", time.Since(began).Round(100*time.Millisecond))
	eachQuestion(t, n, "then", wire.WantByEth1)
	p.Expect(0, "detach", "--stop")
}
