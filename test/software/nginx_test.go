// SPDX-License-Identifier: Apache-2.0

// Package software runs programs of Debian 12 on the networks that people brought: what they do for a living fails
// without replypath and works with it.
package software

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"

	"replypath/test/await"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

func TestMain(m *testing.M) { product.Main(m) }

// need fails the test unless a program is there.
func need(t *testing.T, program string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		t.Fatalf("%v: run test/install-packages.sh", err)
	}
	return path
}

// publicDir makes a directory that other users can enter, for the test.
func publicDir(t *testing.T) string {
	t.Helper()
	dir := await.Must1[string](t)(os.MkdirTemp("", "replypath-software-"))
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	await.Must(t, os.Chmod(dir, 0o755))
	return dir
}

// crossing watches both ends of a conversation between the servers of S1.
type crossing struct{ a, b *wire.Wires }

func watchBoth(t *testing.T, s *topology.S1) crossing {
	t.Helper()
	return crossing{a: wire.Tap(t, s.A), b: wire.Tap(t, s.B)}
}

// wantEth1 wants all of what both servers sent by eth1.
func (c crossing) wantEth1(what string, match topology.Filter) {
	c.a.WantEth1("A: "+what, match)
	c.b.WantEth1("B: "+what, match)
}

const (
	largeFile  = 100 << 20
	smallFiles = 1000
	curlTime   = 60 * time.Second
)

// site is what nginx serves, below a directory.
type site struct{ root string }

// newSite writes one large file and many small ones of random bytes.
func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{publicDir(t)}
	random := rand.NewChaCha8([32]byte{})
	s.write(t, "large", largeFile, random)
	await.Must(t, os.Mkdir(filepath.Join(s.root, "small"), 0o755))
	for i := range smallFiles {
		s.write(t, fmt.Sprintf("small/%d", i+1), 1+i*13, random)
	}
	return s
}

func (s *site) write(t *testing.T, name string, size int, random io.Reader) {
	t.Helper()
	data := make([]byte, size)
	_, err := io.ReadFull(random, data)
	await.Must(t, err)
	await.Must(t, os.WriteFile(filepath.Join(s.root, name), data, 0o644))
}

// serve runs nginx on a host, at the addresses only.
func (s *site) serve(t *testing.T, host *topology.Host, addresses ...netip.Addr) {
	t.Helper()
	prefix := publicDir(t)
	var listen strings.Builder
	for _, address := range addresses {
		fmt.Fprintf(&listen, "listen %s;\n", netip.AddrPortFrom(address, 80))
	}
	config := fmt.Sprintf(`
user www-data;
worker_processes 2;
daemon off;
pid %[1]s/pid;
error_log stderr;
events {}
http {
  access_log off;
  sendfile on;
  client_body_temp_path %[1]s/body;
  proxy_temp_path %[1]s/proxy;
  fastcgi_temp_path %[1]s/fastcgi;
  uwsgi_temp_path %[1]s/uwsgi;
  scgi_temp_path %[1]s/scgi;
  server {
    %[2]s
    root %[3]s;
  }
}
`, prefix, listen.String(), s.root)
	path := filepath.Join(prefix, "nginx.conf")
	await.Must(t, os.WriteFile(path, []byte(config), 0o644))
	nginx := host.Command(context.Background(), need(t, "nginx"), "-e", "stderr", "-p", prefix, "-c", path)
	product.StartProgram(t, nginx, unix.SIGQUIT)
	for _, address := range addresses {
		await.Eventually(t, "nginx listens", func() error {
			conn, err := host.Dial(t.Context(), "tcp", netip.AddrPortFrom(address, 80).String())
			if err == nil {
				err = conn.Close()
			}
			return err
		})
	}
}

// curl runs curl on a host.
func curl(t *testing.T, host *topology.Host, args ...string) error {
	t.Helper()
	// No .curlrc, no proxy.
	args = append([]string{"--disable", "--noproxy", "*", "--silent", "--show-error", "--fail"}, args...)
	output, err := host.Command(await.Within(t, curlTime), need(t, "curl"), args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("curl: %w: %s", err, strings.TrimSpace(string(output)))
	}
	return nil
}

// check compares what was downloaded, named as it is on the site.
func (s *site) check(t *testing.T, dir, name string) {
	t.Helper()
	if output, err := exec.CommandContext(t.Context(), "diff", "-qr", filepath.Join(s.root, name), filepath.Join(dir, name)).CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, output)
	}
}

// TestNginx serves a large file and many small ones from B's eth1 address to curl on A, by IPv4 and IPv6.
func TestNginx(t *testing.T) {
	s := traffic.NewS1(t, topology.S1Options{Policy: topology.Stateful})
	files := newSite(t)
	files.serve(t, s.B.Host, s.B.Eth1.Address(topology.IPv4), s.B.Eth1.Address(topology.IPv6))
	for _, f := range s.Families() {
		wantNoPage(t, s, f)
	}
	p, _ := product.StartOn(t, s.B.Host)
	for _, f := range s.Families() {
		t.Run(f.String()+"/large", func(t *testing.T) { testLargeFile(t, s, p.In(t), files, f) })
		t.Run(f.String()+"/small", func(t *testing.T) { testSmallFiles(t, s, files, f) })
	}
}

// web matches the segments between A and nginx, either way.
func web(s *topology.S1, f topology.Family) topology.Filter {
	port := topology.OneOf(topology.FromPort(80), topology.ToPort(80))
	return topology.All(topology.TCP, port, topology.Between(s.A.Eth1.Address(f), s.B.Eth1.Address(f)))
}

func page(s *topology.S1, f topology.Family, path string) string {
	return fmt.Sprintf("http://%s/%s", netip.AddrPortFrom(s.B.Eth1.Address(f), 80), path)
}

// wantNoPage shows that nginx answers by eth0 and is not heard.
func wantNoPage(t *testing.T, s *topology.S1, f topology.Family) {
	t.Helper()
	wires := wire.Tap(t, s.B)
	err := curl(t, s.A.Host, "--connect-timeout", "0.5", "--output", "/dev/null", page(s, f, "small/1"))
	if err == nil || !strings.Contains(err.Error(), "exit status 28") { // it timed out
		t.Errorf("without replypath: %v", err)
	}
	wires.WantEth0("nginx without replypath", topology.All(web(s, f), topology.From(s.B.Eth1.Address(f))))
}

func testLargeFile(t *testing.T, s *topology.S1, p *product.Product, files *site, f topology.Family) {
	wires, before, dir := watchBoth(t, s), p.Metrics(), t.TempDir()
	await.Must(t, curl(t, s.A.Host, "--output", filepath.Join(dir, "large"), "--local-port", ownPorts, page(s, f, "large")))
	files.check(t, dir, "large")
	mine := topology.All(web(s, f), ownPort)
	fin := topology.All(mine, topology.From(s.B.Eth1.Address(f)), topology.Flags(topology.FIN, topology.FIN))
	_, err := wires.b.Eth1.Wait(await.Within(t, await.AnswerTime), fin)
	await.Must(t, err)
	wires.wantEth1("the large file", mine)
	checkSegments(t, before, p.Metrics(), f, wires.b.WantEth1("nginx", topology.All(mine, topology.From(s.B.Eth1.Address(f)))))
}

// Downloads with replypath come from ports that none without it had: what the kernel repeats to those still goes by
// eth0.
const ownPorts = "10000-19999"

func ownPort(f *topology.Frame) bool {
	is := func(port uint16) bool { return port >= 10000 && port <= 19999 }
	return is(f.SourcePort) || is(f.DestinationPort)
}

// checkSegments compares the counters with frames that stand for several segments each, because the interfaces cut
// them.
func checkSegments(t *testing.T, before, after product.Metrics, f topology.Family, frames []*topology.Frame) {
	t.Helper()
	var packets, bytes int
	for _, frame := range frames {
		n, b := segments(frame)
		packets, bytes = packets+n, bytes+b
	}
	if packets == len(frames) {
		t.Error("no frame stands for several segments: nothing is tested")
	}
	labels := []string{"from_interface=eth0", "to_interface=eth1", "protocol=tcp", "family=" + f.String()}
	for name, want := range map[string]int{
		"replypath_corrected_packets_total": packets, "replypath_corrected_bytes_total": bytes,
	} {
		await.Same(t, name, float64(want), after.Sum(name, labels...)-before.Sum(name, labels...))
	}
}

// segments returns how many packets and bytes a captured TCP frame is on a wire whose packets have at most 1500 bytes.
func segments(f *topology.Frame) (packets, bytes int) {
	const ethernet, mtu = 14, 1500
	ip := 20
	if f.Source.Is6() {
		ip = 40
	}
	header := ip + 4*int(f.Packet().Layer(layers.LayerTypeTCP).(*layers.TCP).DataOffset)
	payload := f.Length - ethernet - header
	packets = max(1, (payload+mtu-header-1)/(mtu-header))
	return packets, payload + packets*(ethernet+header)
}

func testSmallFiles(t *testing.T, s *topology.S1, files *site, f topology.Family) {
	wires, dir := watchBoth(t, s), t.TempDir()
	// Each by a connection of its own, some at a time.
	await.Must(t, curl(t, s.A.Host, "--parallel", "--parallel-max", "20", "--header", "Connection: close",
		"--create-dirs", "--output", filepath.Join(dir, "small/#1"), "--local-port", ownPorts,
		page(s, f, fmt.Sprintf("small/[1-%d]", smallFiles))))
	files.check(t, dir, "small")
	wires.wantEth1("small files", topology.All(web(s, f), ownPort))
	first := topology.All(web(s, f), ownPort, topology.Flags(topology.SYN|topology.ACK, topology.SYN))
	if n := wires.a.Eth1.Count(first); n < smallFiles {
		t.Errorf("%d connections for %d files", n, smallFiles)
	}
}
