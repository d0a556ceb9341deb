// SPDX-License-Identifier: Apache-2.0

package software

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"replypath/test/await"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// The only name that the DNS servers know.
const (
	knownName    = "replica.example."
	knownAddress = "192.0.2.7"
)

// lookUp asks a DNS server by UDP from A's eth1, with a socket that is connected to it as resolvers' are.
func lookUp(ctx context.Context, s *topology.S1, server netip.Addr) error {
	resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		from := topology.FromAddress(netip.AddrPortFrom(s.A.Eth1.Address(topology.FamilyOf(server)), 0))
		return s.A.Dial(ctx, "udp", netip.AddrPortFrom(server, 53).String(), from)
	}}
	found, err := resolver.LookupHost(ctx, knownName)
	if err == nil && !slices.Equal(found, []string{knownAddress}) {
		err = fmt.Errorf("%s has the addresses %q", knownName, found)
	}
	return err
}

// dnsAnswers matches what the server sends from an address.
func dnsAnswers(from netip.Addr) topology.Filter {
	return topology.All(topology.UDP, topology.From(from), topology.FromPort(53))
}

// awaitDNS waits until a server on B answers B itself.
func awaitDNS(t *testing.T, s *topology.S1) {
	t.Helper()
	await.Eventually(t, "the DNS server answers", func() error {
		resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return s.B.Dial(ctx, "udp", "127.0.0.1:53")
		}}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := resolver.LookupHost(ctx, knownName)
		return err
	})
}

// unboundConf has unbound leave its source address to the kernel. %[1]q is its directory.
const unboundConf = `
server:
  interface: 0.0.0.0
  interface: ::0
  access-control: 0.0.0.0/0 allow
  access-control: ::/0 allow
  do-daemonize: no
  use-syslog: no
  chroot: ""
  username: ""
  directory: %[1]q
  pidfile: ""
  module-config: iterator
  local-zone: "example." static
  local-data: "%[2]s A %[3]s"
remote-control:
  control-enable: no
`

// TestUnbound asks a DNS server that listens on the wildcard address and leaves its source address to the kernel: the
// answer comes from the address of eth0, and the resolver discards it.
func TestUnbound(t *testing.T) {
	dir := publicDir(t)
	path := filepath.Join(dir, "unbound.conf")
	await.Must(t, os.WriteFile(path, fmt.Appendf(nil, unboundConf, dir, knownName, knownAddress), 0o644))
	testDNS(t, true, "unbound", "-d", "-c", path)
}

// TestDnsmasq asks a DNS server that listens on the wildcard address and chooses its source by IP_PKTINFO: that is
// right by itself, only by the wrong NIC, and stays what it is with the source repair beside it.
func TestDnsmasq(t *testing.T) {
	testDNS(t, false, "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null",
		"--no-resolv", "--no-hosts", "--user=root", "--pid-file=", "--log-facility=-",
		"--host-record="+strings.TrimSuffix(knownName, ".")+","+knownAddress)
}

// testDNS asks a server on B at the address of eth1, of which it tells whether the source of its answers is repaired.
func testDNS(t *testing.T, repaired bool, program string, args ...string) {
	t.Helper()
	s := traffic.NewS1(t, topology.S1Options{Policy: topology.Stateful})
	product.StartProgram(t, s.B.Command(context.Background(), need(t, program), args...), unix.SIGTERM)
	awaitDNS(t, s)
	source := s.B.Eth1
	if repaired {
		source = s.B.Eth0
	}
	for _, f := range s.Families() {
		wires := wire.Tap(t, s.B)
		if err := lookUp(await.Within(t, 300*time.Millisecond), s, s.B.Eth1.Address(f)); err == nil {
			t.Errorf("%s: answered without replypath", f)
		}
		wires.WantEth0(program+" without replypath", dnsAnswers(source.Address(f)))
	}
	p, _ := product.StartOn(t, s.B.Host)
	for _, f := range s.Families() {
		wires := wire.Tap(t, s.B)
		await.Must(t, lookUp(await.Within(t, await.AnswerTime), s, s.B.Eth1.Address(f)))
		wires.WantEth1(program, dnsAnswers(s.B.Eth1.Address(f)))
		if got := p.Metrics().Sum("replypath_source_repairs_total", "family="+f.String()); (got > 0) != repaired {
			t.Errorf("%s: %v repairs are counted", f, got)
		}
	}
}
