// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"net"
	"testing"
	"time"

	"replypath/test/await"
	"replypath/test/product"
	"replypath/test/server"
	"replypath/test/topology"
)

// TestStartWhileAddressInUse starts while another program has the metrics' address:
// that must not cost the reply path, and the metrics come as soon as they can.
func TestStartWhileAddressInUse(t *testing.T) {
	n, p := server.NewExact(t)
	other := await.Must1[net.Listener](t)(n.Server.Listen(t.Context(), "tcp", product.MetricsAddress))
	var d *product.Daemon
	wantFast(t, "ready", func() time.Duration {
		p.Expect(0, "detach", "--stop")
		d = p.Start()
		return d.ReadyAfter
	})
	wantMetricsLater(t, n, p, d, other.Close)
}

// TestMetricsAddressNotThereYet is the same with an address that the host gets later.
func TestMetricsAddressNotThereYet(t *testing.T) {
	n, p := server.NewExact(t)
	await.Must(t, n.Server.SetSysctl("net/ipv4/ip_nonlocal_bind", "0"))
	lo := await.Must1[*topology.Interface](t)(n.Server.Interface("lo"))
	await.Must(t, lo.RemoveAddress(lo.Addresses[0]))
	wantMetricsLater(t, n, p, p.Start(), func() error { return lo.AddAddress(lo.Addresses[0]) })
}

// wantMetricsLater wants right answers and an error, until what is in the way goes.
func wantMetricsLater(t *testing.T, n *topology.TwoNIC, p *product.Product, d *product.Daemon, clear func() error) {
	t.Helper()
	wantTCP(t, n, true)
	d.WaitLog(1, "level=ERROR", product.MetricsAddress)
	if s := p.Status(); len(s.Errors) != 1 {
		t.Errorf("errors in the status: %q, want one", s.Errors)
	}
	await.Must(t, clear())
	await.Eventually(t, "metrics are served", func() error {
		_, err := p.Scrape()
		return err
	})
	if s := p.Status(); len(s.Errors) > 0 {
		t.Errorf("errors in the status: %q", s.Errors)
	}
	if lines := d.Log.Lines("level=ERROR"); len(lines) != 1 {
		t.Errorf("%d errors in the log, not one: %q", len(lines), lines)
	}
	wantTCP(t, n, true)
}
