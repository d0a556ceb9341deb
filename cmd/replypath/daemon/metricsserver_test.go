// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"replypath/loader/config"
	"replypath/test/await"
)

// badWebConfig is what is said of a web configuration that is not there, by its line.
func badWebConfig(path string, line int, web string) string {
	return fmt.Sprintf(`%s:%d: metrics.web_config_file: web configuration %s: no such file or directory: `+
		`name a valid web configuration, or "" for none`, path, line, web)
}

// A web configuration that is not there costs the metrics, not the reply path: it is told once, and they are served as
// soon as it is there.
func TestRunWithBadWebConfig(t *testing.T) {
	web := filepath.Join(t.TempDir(), "web.yaml")
	path := writeConfig(t, "mode: enforce\nmetrics:\n  listen: \"127.0.0.1:0\"\n  web_config_file: "+web+"\n")
	r := startDaemon(t, "--config", path)
	if err := await.Receive(t, r.path.errSet); err != nil {
		t.Errorf("an error at the start: %v", err)
	}
	if err := await.Receive(t, r.path.errSet); err == nil || err.Error() != badWebConfig(path, 4, web) {
		t.Errorf("told of %v", err)
	}
	rewriteConfig(t, web, "")
	if err := await.Receive(t, r.path.errSet); err != nil {
		t.Errorf("still failing: %v", err)
	}
	r.end()
	if n := strings.Count(r.stderr.String(), "level=ERROR"); n != 1 {
		t.Errorf("%d errors in the log:\n%s", n, r.stderr.String())
	}
}

// A reload that names a bad web configuration is refused before anything of the one in force is given up: its metrics
// go on.
func TestReloadBadWebConfig(t *testing.T) {
	path := writeConfig(t, "metrics: {listen: \"127.0.0.1:0\"}\n")
	r := startDaemon(t, "--config", path)
	address := r.metricsAddress()
	web := filepath.Join(t.TempDir(), "web.yaml")
	rewriteConfig(t, path, "scope: all\nmetrics: {listen: \"127.0.0.1:0\", web_config_file: "+web+"}\n")
	r.reload()
	r.wantLog("configuration refused, the one in force stays")

	want := badWebConfig(path, 2, web)
	if len(r.path.reported) != 1 || r.path.reported[0].Error() != want || !errors.Is(r.path.reported[0], config.ErrInvalid) {
		t.Errorf("reported %v, not %s", r.path.reported, want)
	}
	await.Same(t, "reloaded", nil, r.path.reloaded)
	wantHealthy(t, address)
	if log := r.stderr.String(); strings.Contains(log, "configuration reloaded") || strings.Count(log, "serving metrics") != 1 {
		t.Errorf("log:\n%s", log)
	}

	rewriteConfig(t, web, "")
	r.reload()
	r.wantLog("configuration reloaded")
	if len(r.path.reloaded) != 1 || len(r.path.reported) != 1 {
		t.Errorf("once it is there: reloaded %+v, reported %v", r.path.reloaded, r.path.reported)
	}
	r.end()
}

// metricsAddress returns where the log says that the metrics are served.
func (r *daemonRun) metricsAddress() string {
	r.t.Helper()
	r.wantLog("serving metrics")
	_, rest, _ := strings.Cut(r.stderr.String(), "address=")
	address, _, _ := strings.Cut(rest, " ")
	return address
}

func wantHealthy(t *testing.T, address string) {
	t.Helper()
	client := http.Client{Timeout: patience}
	response, err := client.Get("http://" + address + "/healthz")
	await.Must(t, err)
	defer response.Body.Close()
	await.Same(t, "status of the health check", http.StatusOK, response.StatusCode)
}

// A reload moves the server to another address.
func TestMetricsMove(t *testing.T) {
	path := writeConfig(t, "metrics: {listen: \"\"}\n")
	r := startDaemon(t, "--config", path)
	if log := r.stderr.String(); strings.Contains(log, "serving metrics") {
		t.Errorf("metrics are served:\n%s", log)
	}
	rewriteConfig(t, path, "metrics: {listen: \"127.0.0.1:0\"}\n")
	r.reload()
	r.wantLog("serving metrics")
	r.end()
}
