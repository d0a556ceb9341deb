// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"replypath/test/harness"
	"replypath/test/topology"
)

// closedPort is one that nobody listens on.
const closedPort = 9

// enforced builds S1 with routers that check sources and replypath on B.
func enforced(t *testing.T) *topology.S1 {
	t.Helper()
	s := harness.NewS1(t, topology.S1Options{Policy: topology.StrictSource})
	harness.On(t, s.B.Host).Start()
	return s
}

// eachFamily runs a subtest for each family on S1 with replypath.
func eachFamily(t *testing.T, run func(*testing.T, *topology.S1, topology.Family)) {
	s := enforced(t)
	for _, f := range s.Families() {
		t.Run(f.String(), func(t *testing.T) { run(t, s, f) })
	}
}

// TestReset asks by TCP where nobody listens: the refusal is an answer as well.
func TestReset(t *testing.T) {
	eachFamily(t, func(t *testing.T, s *topology.S1, f topology.Family) {
		closed := netip.AddrPortFrom(s.B.Eth1.Address(f), closedPort).String()
		wires := harness.Tap(t, s.B)
		_, err := s.A.Dial(harness.Within(t, harness.AnswerTime), "tcp", closed)
		if !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("got %v, not a refusal", err)
		}
		wires.WantEth1("the reset", topology.All(
			topology.From(s.B.Eth1.Address(f)), topology.Flags(topology.RST, topology.RST)))
	})
}

// TestSYNCookies has B answer without keeping anything of the handshake, as
// under a flood.
func TestSYNCookies(t *testing.T) {
	eachFamily(t, func(t *testing.T, s *topology.S1, f topology.Family) {
		harness.Must(t, s.B.SetSysctl("net/ipv4/tcp_syncookies", "2"))
		before := cookiesOf(t, s.B.Host)
		wantAnswers(t, s.B, harness.NewConversation(t, harness.TCP, s.A.Eth1, s.B.Eth1.Address(f)), true)
		before.wantMore(t, s.B.Host, 1)
	})
}

// cookies count the SYN cookies of a host, whatever the family.
type cookies struct{ sent, accepted int }

func cookiesOf(t *testing.T, host *topology.Host) (c cookies) {
	t.Helper()
	for line := range strings.Lines(harness.Shell(t, host, "nstat -asz TcpExtSyncookiesSent TcpExtSyncookiesRecv")) {
		// What does not fit the one fits the other, or is a heading.
		_, _ = fmt.Sscanf(line, "TcpExtSyncookiesSent %d", &c.sent)
		_, _ = fmt.Sscanf(line, "TcpExtSyncookiesRecv %d", &c.accepted)
	}
	return c
}

// wantMore wants so many connections to have been opened since then, by a cookie each. One
// may have been sent twice.
func (c cookies) wantMore(t *testing.T, host *topology.Host, connections int) {
	t.Helper()
	now := cookiesOf(t, host)
	if sent, accepted := now.sent-c.sent, now.accepted-c.accepted; sent < connections || accepted != connections {
		t.Errorf("of %d connections, %d cookies were sent and %d came back", connections, sent, accepted)
	}
}

// TestServerEnds has B end the connection first, so that what is left of it is
// no socket any more that could know anything, and A repeat it from the same
// port.
func TestServerEnds(t *testing.T) {
	eachFamily(t, func(t *testing.T, s *topology.S1, f topology.Family) {
		ctx := harness.Within(t, harness.AnswerTime)
		at := netip.AddrPortFrom(s.B.Eth1.Address(f), 0).String()
		l := harness.Must1[net.Listener](t)(s.B.Listen(ctx, "tcp", at))
		defer l.Close()
		go greet(l)
		wires := harness.Tap(t, s.B)
		from := topology.FromAddress(netip.AddrPortFrom(s.A.Eth1.Address(f), 19999))
		for range 3 {
			var conn net.Conn
			harness.Eventually(t, "the tuple can be opened", func() (err error) {
				conn, err = s.A.Dial(ctx, "tcp", l.Addr().String(), from, topology.ReuseAddress())
				if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) && !errors.Is(err, unix.EADDRINUSE) {
					t.Fatal(err)
				}
				return err
			})
			text, err := io.ReadAll(conn)
			if err != nil || string(text) != greeting {
				t.Errorf("read %q, %v", text, err)
			}
			harness.Must(t, conn.Close())
		}
		port := uint16(l.Addr().(*net.TCPAddr).Port)
		wires.WantEth1("all of the connections", topology.All(topology.TCP, topology.FromPort(port)))
	})
}

const greeting = "hello and goodbye"

// greet writes a greeting to everybody and closes the connection.
func greet(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		_, _ = io.WriteString(conn, greeting)
		conn.Close()
	}
}

// TestWildcardTCP asks a server that listens on no address of its own, by IPv4
// and IPv6, as most do.
func TestWildcardTCP(t *testing.T) {
	eachFamily(t, func(t *testing.T, s *topology.S1, f topology.Family) {
		ctx := harness.Within(t, harness.AnswerTime)
		l := harness.Must1[net.Listener](t)(s.B.Listen(ctx, "tcp", "[::]:0"))
		defer l.Close()
		go greet(l)
		port := uint16(l.Addr().(*net.TCPAddr).Port)
		wires := harness.Tap(t, s.B)
		conn := harness.Must1[net.Conn](t)(s.A.Dial(ctx, "tcp", netip.AddrPortFrom(s.B.Eth1.Address(f), port).String()))
		defer conn.Close()
		text, err := io.ReadAll(conn)
		if err != nil || string(text) != greeting {
			t.Errorf("read %q, %v", text, err)
		}
		wires.WantEth1("the connection", topology.All(topology.TCP, topology.FromPort(port)))
	})
}
