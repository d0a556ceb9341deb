// SPDX-License-Identifier: Apache-2.0

package managers

import (
	"strings"
	"testing"
	"time"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/product"
	"replypath/test/wire"
)

// backWithin is how soon what others take away is back.
const backWithin = time.Second

// TestSettingsTaken sets every sysctl back that replypath has changed, as `sysctl --system` does when a package is
// installed: it is changed again within a second, which is logged and counted, and questions to eth1 go on being
// answered.
func TestSettingsTaken(t *testing.T) {
	n, _ := newServer(t)
	await.Must(t, n.Server.SetSysctl("net/ipv4/conf/eth1/rp_filter", "1"))
	p := product.On(t, n.Server.Host)
	d := p.Start()
	repairs := func() float64 { return p.Metrics().Sum("replypath_host_repairs_total", "object=sysctl") }
	seen := 0
	quiet := product.Quiet(t)
	for _, change := range p.Status().HostChanges {
		key, isSysctl := strings.CutPrefix(change.Object, "sysctl ")
		if !isSysctl {
			continue
		}
		seen++
		var took []time.Duration
		for range 2 {
			before, lines := repairs(), len(d.Log.Lines("level=WARN", "a sysctl had been set back"))
			host.Shell(t, n.Server.Host, change.Undo)
			began := time.Now()
			d.WaitLog(lines+1, "level=WARN", "a sysctl had been set back")
			took = append(took, time.Since(began).Round(time.Millisecond))
			if got := strings.TrimSpace(host.Shell(t, n.Server.Host, "sysctl -n "+key)); got != change.After {
				t.Errorf("%s is %s, not %s", key, got, change.After)
			}
			if got := repairs() - before; got != 1 {
				t.Errorf("%s: %v repairs are counted", key, got)
			}
		}
		t.Logf("%s, twice: back after %v", change.Undo, took)
		for _, one := range took {
			if one > await.Patient(backWithin) {
				t.Errorf("%s is back after %s", key, one)
			}
		}
	}
	quiet()
	if seen < 4 {
		t.Errorf("only %d sysctls are changed", seen)
	}
	eachQuestion(t, n, "then", wire.WantByEth1)
	p.Expect(0, "detach", "--stop")
	if got := await.Must1[string](t)(n.Server.Sysctl("net/ipv4/conf/eth1/rp_filter")); got != "1" {
		t.Errorf("rp_filter is %s after detach", got)
	}
}
