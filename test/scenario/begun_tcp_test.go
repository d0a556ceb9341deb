// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// endings are how a connection ends before its tuple is used again. Who closes first keeps the tuple in TIME_WAIT.
var endings = map[string]func(t *testing.T, opener, other net.Conn){
	"reset": func(t *testing.T, opener, other net.Conn) {
		await.Must(t, opener.(*net.TCPConn).SetLinger(0))
		closeBoth(t, opener, other)
	},
	"opener closes": closeBoth,
	"other closes":  func(t *testing.T, opener, other net.Conn) { closeBoth(t, other, opener) },
}

func closeBoth(t *testing.T, first, second net.Conn) {
	await.Must(t, first.Close())
	waitEnd(t, second)
	await.Must(t, second.Close())
}

// waitEnd returns when the other end has closed or reset a connection.
func waitEnd(t *testing.T, conn net.Conn) {
	t.Helper()
	await.Must(t, conn.SetReadDeadline(time.Now().Add(await.AnswerTime)))
	if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("the connection has not ended: %v", err)
	}
}

// waitQuiet returns when no connection with a port waits for another segment on
// any of the hosts: the last one has been sent, then.
func waitQuiet(t *testing.T, port uint16, hosts ...*topology.Host) {
	t.Helper()
	await.Eventually(t, "the connection has ended", func() error {
		for _, h := range hosts {
			left := host.Shell(t, h, fmt.Sprintf("ss -Htan state connected exclude time-wait '( sport = %[1]d or dport = %[1]d )'", port))
			if left != "" {
				return fmt.Errorf("on %s there is %s", h.Name, left)
			}
		}
		return nil
	})
}

// open opens a connection between two addresses and returns both of its ends.
func open(t *testing.T, opener, other *topology.Host, from, to netip.AddrPort) (a, b net.Conn) {
	t.Helper()
	ctx := await.Within(t, await.AnswerTime)
	l := await.Must1[net.Listener](t)(other.Listen(ctx, "tcp", to.String()))
	defer l.Close()
	await.Eventually(t, "the tuple can be opened", func() (err error) {
		a, err = opener.Dial(ctx, "tcp", to.String(), topology.FromAddress(from), topology.ReuseAddress())
		if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) && !errors.Is(err, unix.EADDRINUSE) {
			t.Fatal(err)
		}
		return err
	})
	b = await.Must1[net.Conn](t)(l.Accept())
	t.Cleanup(func() {
		a.Close()
		b.Close()
	})
	return a, b
}

// testClosedDoors has the server knock at closed doors, from either of its addresses: it learns of them as ever, and all
// that it sends goes where the routing table says.
func testClosedDoors(t *testing.T, s *begunServer) {
	promptErrors(t, s.Client)
	before := countedBy(s.p)
	for _, f := range traffic.Families {
		for _, from := range s.Server.NICs() {
			for _, network := range []string{"tcp", "udp"} {
				wires := wire.Tap(t, s.Server)
				to := netip.AddrPortFrom(s.ClientEth0.Address(f), closedPort)
				for range 3 {
					source := topology.FromAddress(netip.AddrPortFrom(from.Address(f), 0))
					conn, err := s.Server.Dial(await.Within(t, await.AnswerTime), network, to.String(), source)
					if err == nil {
						await.Must1[int](t)(conn.Write([]byte("question")))
						err = read(t, conn, await.AnswerTime)
						await.Must(t, conn.Close())
					}
					if !errors.Is(err, unix.ECONNREFUSED) {
						t.Errorf("%s from %s: %v", network, from.Address(f), err)
					}
				}
				sent := topology.All(topology.From(from.Address(f)), topology.To(to.Addr()))
				wires.WantEth0(network+" from "+from.Address(f).String(), sent)
			}
		}
	}
	wantCounted(t, s.p, before, nil, true)
	wantNoFlows(t, s.p)
}

// testTupleReused opens connections with one and the same tuple in turns: from the server, from the client, and so on.
// What the server opens goes where the routing table says, what the client opens is answered by eth1, each time, whoever
// was left in TIME_WAIT.
func testTupleReused(t *testing.T, s *begunServer) {
	for _, h := range []*topology.Host{s.Client, s.Server.Host} {
		await.Must(t, h.SetSysctl("net/ipv4/tcp_tw_reuse", "1")) // a tuple in TIME_WAIT may be opened again after a second
	}
	for i, outward := range []bool{true, false, true, false, false, true, true} {
		port := uint16(9000)
		for _, end := range []string{"reset", "opener closes", "other closes"} {
			for _, f := range traffic.Families {
				port++ // each ending has a tuple of its own
				from, to := netip.AddrPortFrom(s.ClientEth0.Address(f), port+100), netip.AddrPortFrom(s.Server.Eth1.Address(f), port)
				opener, other := s.Client, s.Server.Host
				if outward {
					opener, other, from, to = other, opener, to, from
				}
				wires := wire.Tap(t, s.Server)
				a, b := open(t, opener, other, from, to)
				for range 3 {
					talk(t, a, b)
					talk(t, b, a)
				}
				endings[end](t, a, b)
				waitQuiet(t, port, s.Client, s.Server.Host)
				what := fmt.Sprintf("%s, %s, connection %d, outward %t", end, f, i+1, outward)
				wires.Want(!outward, what, topology.All(topology.TCP, topology.FromPort(port), topology.ToPort(port+100)))
			}
		}
	}
}
