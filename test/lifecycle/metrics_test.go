// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"net"
	"testing"
	"time"

	"replypath/test/harness"
	"replypath/test/topology"
)

// TestStartWhileAddressInUse starts while another program has the metrics' address:
// that must not cost the reply path, and the metrics come as soon as they can.
func TestStartWhileAddressInUse(t *testing.T) {
	n := newServer(t)
	p := harness.On(t, n.Server.Host)
	other := harness.Must1[net.Listener](t)(n.Server.Listen(t.Context(), "tcp", harness.MetricsAddress))
	var d *harness.Daemon
	wantFast(t, "ready", func() time.Duration {
		p.Expect(0, "detach", "--stop")
		d = p.Start()
		return d.ReadyAfter
	})
	for _, f := range n.Families() {
		harness.WantBy(t, n.Server, conversation(t, n, harness.TCP, f), true)
	}
	wantMetricsError(t, p, d)
	harness.Must(t, other.Close())
	wantMetricsBack(t, p)
	if lines := d.Log.Lines("level=ERROR"); len(lines) != 1 {
		t.Errorf("%d errors in the log, not one: %q", len(lines), lines)
	}
	harness.WantBy(t, n.Server, conversation(t, n, harness.TCP, topology.IPv4), true)
}

// TestMetricsAddressNotThereYet is the same with an address that the host gets
// later.
func TestMetricsAddressNotThereYet(t *testing.T) {
	n := newServer(t)
	p := harness.On(t, n.Server.Host)
	harness.Must(t, n.Server.SetSysctl("net/ipv4/ip_nonlocal_bind", "0"))
	lo := harness.Must1[*topology.Interface](t)(n.Server.Interface("lo"))
	harness.Must(t, lo.RemoveAddress(lo.Addresses[0]))
	d := p.Start()
	harness.WantBy(t, n.Server, conversation(t, n, harness.TCP, topology.IPv4), true)
	wantMetricsError(t, p, d)
	harness.Must(t, lo.AddAddress(lo.Addresses[0]))
	wantMetricsBack(t, p)
}

// TestMetricsOff serves none.
func TestMetricsOff(t *testing.T) {
	n := newServer(t)
	p := harness.On(t, n.Server.Host)
	p.Start("--listen", "")
	if _, err := p.Scrape(); err == nil {
		t.Error("metrics are served")
	}
	if s := p.Status(); len(s.Errors) > 0 {
		t.Errorf("errors in the status: %q", s.Errors)
	}
	harness.WantBy(t, n.Server, conversation(t, n, harness.TCP, topology.IPv4), true)
}

func wantMetricsError(t *testing.T, p *harness.Product, d *harness.Daemon) {
	t.Helper()
	d.WaitLog(1, "level=ERROR", harness.MetricsAddress)
	if s := p.Status(); len(s.Errors) != 1 {
		t.Errorf("errors in the status: %q, want one", s.Errors)
	}
}

func wantMetricsBack(t *testing.T, p *harness.Product) {
	t.Helper()
	harness.Eventually(t, "metrics are served", func() error {
		_, err := p.Scrape()
		return err
	})
	if s := p.Status(); len(s.Errors) > 0 {
		t.Errorf("errors in the status: %q", s.Errors)
	}
}
