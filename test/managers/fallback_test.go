// SPDX-License-Identifier: Apache-2.0

package managers

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"replypath/test/harness"
	"replypath/test/topology"
)

// TestFallbackTaken has each network daemon restarted and eth0 configured anew, which
// may delete routes that it did not make, and somebody flush the routes and
// delete the device: what was taken is back within a second, logged and counted, and
// the host answers without its default route then.
func TestFallbackTaken(t *testing.T) {
	for name, start := range networkDaemons {
		t.Run(name, func(t *testing.T) {
			n, _ := newServer(t)
			testFallbackTaken(t, n, start(t, n))
		})
	}
}

func testFallbackTaken(t *testing.T, n *topology.TwoNIC, daemon networkDaemon) {
	t.Helper()
	p := harness.On(t, n.Server.Host)
	d := p.Start()
	shell := func(commands string) func() {
		return func() { harness.Shell(t, n.Server.Host, commands) }
	}
	for _, theft := range []struct {
		name  string
		steal func()
		taken bool // for sure
	}{
		{"it is restarted", daemon.restart, false},
		{"it configures eth0 anew", func() { daemon.reconfigure("eth0") }, false},
		{"the routes are flushed", shell("ip route flush proto 114; ip -6 route flush proto 114"), true},
		{"the device is deleted", shell("ip link del replypath0"), true},
	} {
		lines := len(d.Log.Lines("level=WARN", "had been deleted"))
		repairs := p.Metrics().Sum("replypath_host_repairs_total", "object=route")
		theft.steal()
		began := time.Now()
		harness.Eventually(t, "both routes are there after "+theft.name, func() error {
			routes := harness.Shell(t, n.Server.Host, "ip -4 route show proto 114; ip -6 route show proto 114")
			if strings.Count(routes, "dev replypath0") != 2 {
				return fmt.Errorf("routes %q", routes)
			}
			return nil
		})
		took := time.Since(began)
		// They are counted and logged when they are there.
		var logged, counted float64
		harness.Eventually(t, "it is logged and counted", func() error {
			logged = float64(len(d.Log.Lines("level=WARN", "had been deleted")) - lines)
			counted = p.Metrics().Sum("replypath_host_repairs_total", "object=route") - repairs
			if logged != counted || theft.taken && logged == 0 {
				return fmt.Errorf("%v repairs are logged, %v counted", logged, counted)
			}
			return nil
		})
		t.Logf("%s: there after %s, %v repairs", theft.name, took.Round(time.Millisecond), counted)
		if took > harness.Patient(backWithin) {
			t.Error("that is too late")
		}
	}
	harness.Shell(t, n.Server.Host, "ip route del default dev eth0; ip -6 route del default dev eth0")
	eachQuestion(t, n, "without a default route", harness.WantByEth1)
}
