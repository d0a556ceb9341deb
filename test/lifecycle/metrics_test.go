// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

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

// TestNoSecretsInLogs runs with a password for the metrics, wrong and right ones, and with web configurations that hold
// it in the wrong place: neither log nor status nor check show the password or its hash. TestSecretsAreNotShown of
// package metrics has more such files.
func TestNoSecretsInLogs(t *testing.T) {
	_, p := server.NewExact(t)
	const password = "c0rrect-h0rse"
	hash := string(await.Must1[[]byte](t)(bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)))
	web := filepath.Join(t.TempDir(), "web.yaml")
	write := func(text string) { await.Must(t, os.WriteFile(web, []byte(text), 0o600)) }
	write("basic_auth_users: {prometheus: " + hash + "}\n")
	file := product.WriteConfig(t, "metrics: {web_config_file: "+web+"}\nlog: {level: debug}\n")
	d := p.Start("--config", file)
	if got := scrapeAs(t, p, "guess"); got != http.StatusUnauthorized {
		t.Errorf("with a wrong password: %d", got)
	}
	if got := scrapeAs(t, p, password); got != http.StatusOK {
		t.Errorf("with the password: %d", got)
	}
	var shown strings.Builder
	wrong := []string{password, hash, "{prometheus: " + password + "}"}
	for _, users := range wrong {
		write("basic_auth_users: " + users)
		scrapeAs(t, p, password)
		d.Reload()
		shown.WriteString(p.Expect(2, "check", "--config", file).String())
		shown.WriteString(p.Expect(2, "check", "--config", file, "-o", "json").String())
		shown.WriteString(p.Expect(0, "status", "--verbose").String() + p.Expect(0, "status", "-o", "json").String())
	}
	shown.WriteString(d.Log.String())
	found := 0
	for _, secret := range []string{password, password[:7], hash, hash[7:]} {
		if strings.Contains(shown.String(), secret) {
			t.Errorf("%q is shown:\n%s", secret, shown.String())
			found++
		}
	}
	t.Logf("%d bytes of log, status and messages, %d wrong files: %d secrets", shown.Len(), len(wrong), found)
}

// scrapeAs asks for the metrics with a password and returns the status.
func scrapeAs(t *testing.T, p *product.Product, password string) int {
	t.Helper()
	c := p.Host.Command(await.Within(t, await.AnswerTime), "curl", "--silent", "--output", "/dev/null",
		"--write-out", "%{http_code}", "--user", "prometheus:"+password, "http://"+product.MetricsAddress+"/metrics")
	output, err := c.Output()
	await.Must(t, err)
	code := 0
	_, err = fmt.Sscan(string(output), &code)
	await.Must(t, err)
	return code
}
