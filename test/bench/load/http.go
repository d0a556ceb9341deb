package load

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"replypath/test/bench/contender"
)

// nginxConfig has no access log and no file to send.
const nginxConfig = `
worker_processes 1;
daemon off;
pid %[1]s/pid;
error_log stderr notice;
events { worker_connections 4096; }
http {
  access_log off;
  keepalive_requests 1000000000;
  client_body_temp_path %[1]s/body;
  proxy_temp_path %[1]s/proxy;
  fastcgi_temp_path %[1]s/fastcgi;
  uwsgi_temp_path %[1]s/uwsgi;
  scgi_temp_path %[1]s/scgi;
  server {
    listen %[2]s:80 backlog=4096;
    location / { return 200 "%[3]s"; }
  }
}
`

// nginx serves pages of 1 KiB on connections that are kept or not.
func nginx(keep bool) func(context.Context, *contender.Site, *Shared) (Work, error) {
	return func(ctx context.Context, s *contender.Site, _ *Shared) (Work, error) {
		dir, err := os.MkdirTemp("", "nginx-")
		if err != nil {
			return nil, err
		}
		config := filepath.Join(dir, "nginx.conf")
		text := fmt.Sprintf(nginxConfig, dir, contender.IPv4.Self, strings.Repeat("x", 1024))
		if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
			return nil, errors.Join(err, os.RemoveAll(dir))
		}
		program := onCPU(context.Background(), s.Server, CPU(), "nginx", "-e", "stderr", "-p", dir, "-c", config)
		server, err := startServer(ctx, program, "start worker process ")
		if err != nil {
			return nil, errors.Join(err, os.RemoveAll(dir))
		}
		return &pages{server: server, site: s, dir: dir, keep: keep}, nil
	}
}

// pages is nginx at work, asked by wrk.
type pages struct {
	*server
	site *contender.Site
	dir  string
	keep bool
}

var requestsPerSecond = regexp.MustCompile(`Requests/sec:\s+([0-9.]+)`)

// Run returns the requests that were answered in a second.
func (p *pages) Run(ctx context.Context, d time.Duration) (float64, error) {
	args := []string{"--threads", "1", "--connections", "64", "--duration", wholeSeconds(d)}
	if !p.keep {
		args = append(args, "--header", "Connection: close")
	}
	program := onCPU(ctx, p.site.Client, CPU(), "wrk", append(args, "http://"+contender.IPv4.Self.String()+"/")...)
	text, err := outputOf(program)
	if err != nil {
		return 0, err
	}
	if p.failed(text) {
		return 0, fmt.Errorf("wrk met errors: %s", text)
	}
	match := requestsPerSecond.FindStringSubmatch(text)
	if match == nil {
		return 0, fmt.Errorf("wrk printed no rate: %s", text)
	}
	return strconv.ParseFloat(match[1], 64)
}

var socketErrors = regexp.MustCompile(`Socket errors: connect (\d+), read \d+, write (\d+), timeout (\d+)`)

// failed tells whether wrk met errors. What it counts as those of reading are the ends of
// connections that were not kept.
func (p *pages) failed(text string) bool {
	if strings.Contains(text, "Non-2xx") || p.keep && strings.Contains(text, "Socket errors") {
		return true
	}
	counts := socketErrors.FindStringSubmatch(text)
	return counts != nil && slices.ContainsFunc(counts[1:], func(count string) bool { return count != "0" })
}

// Close ends nginx.
func (p *pages) Close() error { return errors.Join(p.server.Close(), os.RemoveAll(p.dir)) }
