// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/bcrypt"

	"replypath/test/harness"
)

// TestNoSecretsInLogs runs with a password for the metrics, wrong and right ones,
// and with web configurations that hold it in the wrong place: neither log nor
// status nor check show the password or its hash. TestSecretsAreNotShown of package
// metrics has more such files.
func TestNoSecretsInLogs(t *testing.T) {
	n := newServer(t)
	p := harness.On(t, n.Server.Host)
	const password = "c0rrect-h0rse"
	hash := string(harness.Must1[[]byte](t)(bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)))
	web := filepath.Join(t.TempDir(), "web.yaml")
	write := func(text string) { harness.Must(t, os.WriteFile(web, []byte(text), 0o600)) }
	write("basic_auth_users: {prometheus: " + hash + "}\n")
	file := harness.WriteConfig(t, "metrics: {web_config_file: "+web+"}\nlog: {level: debug}\n")
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
func scrapeAs(t *testing.T, p *harness.Product, password string) int {
	t.Helper()
	c := p.Host.Command(harness.Within(t, harness.AnswerTime), "curl", "--silent", "--output", "/dev/null",
		"--write-out", "%{http_code}", "--user", "prometheus:"+password, "http://"+harness.MetricsAddress+"/metrics")
	output, err := c.Output()
	harness.Must(t, err)
	code := 0
	_, err = fmt.Sscan(string(output), &code)
	harness.Must(t, err)
	return code
}
