package managers

import (
	"testing"
	"time"

	"replypath/test/harness"
)

// backWithin is how soon what others take away is back.
const backWithin = time.Second

// TestSettingsTaken sets a strict rp_filter again and again, as `sysctl --system`
// does when a package is installed: it is loose again within a second, which is
// logged and counted, and questions to eth1 go on being answered.
func TestSettingsTaken(t *testing.T) {
	const times = 3
	n, _ := newServer(t)
	const key = "net/ipv4/conf/eth1/rp_filter"
	harness.Must(t, n.Server.SetSysctl(key, "1"))
	p := harness.On(t, n.Server.Host)
	d := p.Start()
	var took []time.Duration
	for i := range times {
		harness.Must(t, n.Server.SetSysctl(key, "1"))
		began := time.Now()
		d.WaitLog(i+1, "level=WARN", "rp_filter had been made strict again", "interface=eth1")
		took = append(took, time.Since(began).Round(time.Millisecond))
		if got := harness.Must1[string](t)(n.Server.Sysctl(key)); got != "2" {
			t.Errorf("rp_filter is %s", got)
		}
		eachKind(t, n, "then", func(t *testing.T, c *harness.Conversation) { wantByEth1(t, n, c) })
	}
	t.Logf("strict rp_filter set %d times: loose again after %v", times, took)
	for _, one := range took {
		if one > harness.Patient(backWithin) {
			t.Errorf("loose again after %s", one)
		}
	}
	if repairs := p.Metrics().Sum("replypath_host_repairs_total", "object=sysctl"); repairs != times {
		t.Errorf("%v repairs are counted", repairs)
	}
	p.Expect(0, "detach", "--stop")
	if got := harness.Must1[string](t)(n.Server.Sysctl(key)); got != "1" {
		t.Errorf("rp_filter is %s after detach", got)
	}
}
