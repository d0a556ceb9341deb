// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"replypath/test/await"
)

// Whatever is asked gets an answer of HTTP, or silence, and nothing is logged.
func TestStrangeRequests(t *testing.T) {
	var log await.Log
	o := options(t)
	o.Log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))
	address := start(t, o)
	long := strings.Repeat("a", 1<<20)
	for name, test := range map[string]struct{ request, status string }{
		"huge header":  {"GET /metrics HTTP/1.1\r\nHost: h\r\nX: " + long + "\r\n\r\n", "431"},
		"long path":    {"GET /" + long + " HTTP/1.1\r\nHost: h\r\n\r\n", "431"},
		"method":       {"DELETE /metrics HTTP/1.1\r\nHost: h\r\n\r\n", "405"},
		"HEAD":         {"HEAD /metrics HTTP/1.1\r\nHost: h\r\n\r\n", "200"},
		"profiles":     {"GET /debug/pprof/ HTTP/1.1\r\nHost: h\r\n\r\n", "404"},
		"path upwards": {"GET /../../etc/passwd HTTP/1.1\r\nHost: h\r\n\r\n", "307"},
		"strange host": {"GET /metrics HTTP/1.1\r\nHost: <script>\r\n\r\n", "400"},
		"endless body": {"GET /healthz HTTP/1.1\r\nHost: h\r\nContent-Length: 9223372036854775807\r\n\r\n" + long, "200"},
		"bad chunk":    {"POST /metrics HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "405"},
		"no http":      {"SSH-2.0-client\r\n\r\n", "400"},
	} {
		t.Run(name, func(t *testing.T) {
			await.Same(t, "status", test.status, ask(t, address, test.request))
		})
	}
	await.Same(t, "logged", "", log.String())
}

// ask sends raw bytes and returns the status of the answer.
func ask(t *testing.T, address, request string) string {
	t.Helper()
	conn := dial(t, address)
	go io.WriteString(conn, request) // the server may not read all of it
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		t.Fatalf("no answer: %v", err)
	}
	_, status, _ := strings.Cut(line, " ")
	status, _, _ = strings.Cut(status, " ")
	return strings.TrimSpace(status)
}

func dial(t *testing.T, address string) net.Conn {
	t.Helper()
	conn := await.Must1[net.Conn](t)(net.Dial("tcp", address))
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(3 * deadline))
	return conn
}

// Who sends a request byte by byte, or none, is cut off, however many do. Who asks meanwhile gets an answer.
func TestSlowRequests(t *testing.T) {
	address := start(t, options(t))
	slow, clients := dial(t, address), make([]net.Conn, 500)
	for i := range clients {
		clients[i] = dial(t, address)
	}
	status, _ := fetch(t, newClient(nil), newRequest(t, "http://"+address+"/metrics"))
	await.Same(t, "status", http.StatusOK, status)
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		for ticker := time.NewTicker(100 * time.Millisecond); ; {
			select {
			case <-ticker.C:
				io.WriteString(slow, "G")
			case <-stop:
				return
			}
		}
	}()
	for _, conn := range append(clients, slow) {
		if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("%s, who connected as %s, is still there", conn.RemoteAddr(), conn.LocalAddr())
		}
	}
}

// Failed handshakes do not fill the log.
func TestHandshakesAreNotLoggedForEver(t *testing.T) {
	var log await.Log
	quiet := newSparing(slog.NewTextHandler(&log, nil))
	logger := slog.NewLogLogger(quiet, slog.LevelWarn)
	for i := range 1000 {
		logger.Printf("http: TLS handshake error from 192.0.2.1:%d: EOF", i)
	}
	if lines := strings.Count(log.String(), "\n"); lines == 0 || lines > 20 {
		t.Errorf("%d lines are logged", lines)
	}
}

// What never ends, or never begins, is no web configuration.
func TestStrangeWebConfig(t *testing.T) {
	dir := t.TempDir()
	pipe, large := filepath.Join(dir, "pipe"), filepath.Join(dir, "large")
	await.Must(t, unix.Mkfifo(pipe, 0o600))
	await.Must(t, os.WriteFile(large, bytes.Repeat([]byte("#"), maxWebConfig+1), 0o600))
	for path, want := range map[string]string{
		pipe: "is not a regular file", "/dev/zero": "is not a regular file", large: fmt.Sprintf("is larger than %d bytes", maxWebConfig),
	} {
		result := make(chan error, 1)
		go func() { result <- CheckWebConfig(path) }()
		if err := await.Receive(t, result); !errors.Is(err, ErrWebConfig) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", path, err)
		}
	}
}
