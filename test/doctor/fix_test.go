// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"os"
	"path/filepath"
	"testing"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/product"
	"replypath/test/server"
	"replypath/test/topology"
)

const (
	eth1RPFilter = "net/ipv4/conf/eth1/rp_filter"
	strictKey    = "sysctl net.ipv4.conf.eth1.rp_filter"
)

// strict makes eth1 drop the question, and has doctor say so and mend it. Before the first start it is a warning.
func strict(t *testing.T, n *topology.TwoNIC, p *product.Product, severity string) {
	t.Helper()
	await.Must(t, n.Server.SetSysctl(eth1RPFilter, "1"))
	found := onlyOne(t, p.Examine(), "rp-filter", "eth1", severity, "rp_filter of eth1 is strict (all 0, device 1)")
	if found.Fix == nil || *found.Fix != "sysctl -w net.ipv4.conf.eth1.rp_filter=2" {
		t.Errorf("fix %v", found.Fix)
	}
	wantSysctl(t, n.Server.Host, eth1RPFilter, "1")
	fixed := onlyOne(t, p.Doctor(0, "--fix"), "rp-filter", "eth1", "ok", "device 2", "effective 2")
	if !fixed.Fixed || fixed.Fix != nil {
		t.Errorf("after --fix: %+v", fixed)
	}
	wantSysctl(t, n.Server.Host, eth1RPFilter, "2")
	if again := onlyOne(t, p.Doctor(0, "--fix"), "rp-filter", "eth1", "ok"); again.Fixed {
		t.Error("mended twice")
	}
}

// wantChange wants the repair in a status.
func wantChange(t *testing.T, s *product.Status) {
	t.Helper()
	want := product.HostChange{
		Object: strictKey, Before: "1", After: "2", Undo: "sysctl -w net.ipv4.conf.eth1.rp_filter=1",
	}
	await.Same(t, "host changes", []product.HostChange{want}, s.OtherChanges())
}

// wantGone wants the pin directory gone.
func wantGone(t *testing.T, p *product.Product) {
	t.Helper()
	if _, err := os.Stat(p.PinDir); !os.IsNotExist(err) {
		t.Errorf("%s is still there: %v", p.PinDir, err)
	}
}

// TestFixWithoutADaemon: detach takes a repair back where nothing was ever attached, before and after a first run, and where
// the daemon was killed. The first value counts, whoever mends again, and only while the repair holds.
func TestFixWithoutADaemon(t *testing.T) {
	n, p := server.New(t)
	wantBack := func(want string) {
		t.Helper()
		p.Detach()
		wantGone(t, p)
		wantSysctl(t, n.Server.Host, eth1RPFilter, want)
	}
	strict(t, n, p, "warning")
	strict(t, n, p, "warning") // somebody has taken it back in between
	wantChange(t, p.StatusOf(3))
	wantBack("1")
	p.Detach() // finds nothing to take back

	strict(t, n, p, "warning")
	await.Must(t, n.Server.SetSysctl(eth1RPFilter, "0"))
	wantBack("0")

	before := host.TakeSnapshot(t, n.Server.Host, "eth0", "eth1")
	strict(t, n, p, "warning")
	d := p.Start()
	wantChange(t, p.Status())
	d.Kill()
	wantBack("1")
	await.Must(t, n.Server.SetSysctl(eth1RPFilter, "0"))
	await.Same(t, "host after detach", before, host.TakeSnapshot(t, n.Server.Host, "eth0", "eth1"))

	p.Start().Kill()
	strict(t, n, p, "error")
	wantChange(t, p.Status())
	wantBack("1")
}

// TestFixBesideADaemon mends what the daemon was told to leave alone, and what it writes into its own journal
// afterwards does not make that forgotten.
func TestFixBesideADaemon(t *testing.T) {
	n, p := server.New(t)
	config := filepath.Join(t.TempDir(), "replypath.yaml")
	await.Must(t, os.WriteFile(config, []byte("manage_rp_filter: false\n"), 0o644))
	d := p.Start("--config", config)
	strict(t, n, p, "error")
	d.Reload()
	wantChange(t, p.Status())
	p.Expect(0, "detach", "--stop")
	wantGone(t, p)
	wantSysctl(t, n.Server.Host, eth1RPFilter, "1")
}
