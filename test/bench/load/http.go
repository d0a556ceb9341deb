// SPDX-License-Identifier: Apache-2.0

package load

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"replypath/test/bench/contender"
)

// statusAddress is where nginx tells how many requests it has had.
const statusAddress = "127.0.0.1:81"

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
  keepalive_timeout 1d;
  client_header_timeout 1d;
  client_body_temp_path %[1]s/body;
  proxy_temp_path %[1]s/proxy;
  fastcgi_temp_path %[1]s/fastcgi;
  uwsgi_temp_path %[1]s/uwsgi;
  scgi_temp_path %[1]s/scgi;
  server {
    listen %[2]s:80 backlog=4096;
    location / { return 200 "%[3]s"; }
  }
  server {
    listen %[4]s;
    location / { stub_status; }
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
		text := fmt.Sprintf(nginxConfig, dir, contender.IPv4.Self, strings.Repeat("x", 1024), statusAddress)
		if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
			return nil, errors.Join(err, os.RemoveAll(dir))
		}
		program := onCPU(context.Background(), s.Server, CPU(), "nginx", "-e", "stderr", "-p", dir, "-c", config)
		server, err := startServer(ctx, program, "start worker process ")
		if err != nil {
			return nil, errors.Join(err, os.RemoveAll(dir))
		}
		p := &pages{server: server, site: s, dir: dir, keep: keep, status: statusClient(s)}
		if err := p.ask(ctx); err != nil {
			return nil, errors.Join(err, p.closeServer())
		}
		return p, nil
	}
}

// pages is nginx at work, asked by wrk.
type pages struct {
	server, client *server
	status         *http.Client
	site           *contender.Site
	dir            string
	keep           bool
	asked          uint64 // how often nginx was asked for its status, which it counts too
}

// statusClient asks on the server itself, by a connection that is kept.
func statusClient(s *contender.Site) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return s.Server.Dial(ctx, network, address)
		},
	}}
}

// wrkPatience is longer than it is halted while others have their turns. wrk keeps a number for each millisecond of it.
const wrkPatience = time.Minute

// ask starts wrk and has it halt.
func (p *pages) ask(ctx context.Context) (err error) {
	args := []string{
		"--threads", "1", "--connections", "64", "--duration", wholeSeconds(longest),
		"--timeout", wholeSeconds(wrkPatience),
	}
	if !p.keep {
		args = append(args, "--header", "Connection: close")
	}
	// wrk looks up "http" where no port is named: a virtual machine has no /etc/services.
	url := "http://" + net.JoinHostPort(contender.IPv4.Self.String(), "80") + "/"
	program := onCPU(context.Background(), p.site.Client, CPU(), "wrk", append(args, url)...)
	if p.client, err = startServer(ctx, program, ""); err != nil {
		return err
	}
	if err := p.client.halt(); err != nil {
		return errors.Join(err, p.client.Close())
	}
	return nil
}

// Run lets wrk go on, and returns the requests that nginx has in a second.
func (p *pages) Run(ctx context.Context, d time.Duration) (rate float64, err error) {
	if err := p.client.resume(); err != nil {
		return 0, err
	}
	defer func() { err = firstOf(p.client.rest(ctx, p.site), err) }()
	return rateOf(ctx, d, nil, func() (uint64, error) { return p.requests(ctx) })
}

// counted are the connections and requests that nginx's status page counts.
var counted = regexp.MustCompile(`server accepts handled requests\s+\d+ \d+ (\d+)`)

func (p *pages) requests(ctx context.Context) (uint64, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+statusAddress+"/", nil)
	if err != nil {
		return 0, err
	}
	response, err := p.status.Do(request)
	if err != nil {
		return 0, fmt.Errorf("ask nginx for its status: %w", err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, fmt.Errorf("ask nginx for its status: %w", err)
	}
	match := counted.FindSubmatch(text)
	if match == nil {
		return 0, fmt.Errorf("nginx counts no requests: %s", text)
	}
	p.asked++
	all, err := strconv.ParseUint(string(match[1]), 10, 64)
	return all - p.asked, err
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

// Close ends wrk and nginx. It is an error if wrk has met any.
func (p *pages) Close() error {
	err := p.client.Close()
	if text := p.client.output.String(); err == nil && (p.failed(text) || !strings.Contains(text, "Requests/sec:")) {
		err = fmt.Errorf("wrk met errors: %s", text)
	}
	return errors.Join(err, p.closeServer())
}

func (p *pages) closeServer() error {
	p.status.CloseIdleConnections()
	return errors.Join(p.server.Close(), os.RemoveAll(p.dir))
}
