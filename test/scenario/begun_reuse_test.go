// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"replypath/test/harness"
	"replypath/test/topology"
)

// endings are how a connection ends before its tuple is used again.
var endings = map[string]func(t *testing.T, opener, other net.Conn){
	"reset": func(t *testing.T, opener, other net.Conn) {
		harness.Must(t, opener.(*net.TCPConn).SetLinger(0))
		harness.Must(t, opener.Close())
		waitEnd(t, other)
		harness.Must(t, other.Close())
	},
	// Who closes first keeps the tuple in TIME_WAIT.
	"opener closes": func(t *testing.T, opener, other net.Conn) {
		harness.Must(t, opener.Close())
		waitEnd(t, other)
		harness.Must(t, other.Close())
	},
	"other closes": func(t *testing.T, opener, other net.Conn) {
		harness.Must(t, other.Close())
		waitEnd(t, opener)
		harness.Must(t, opener.Close())
	},
}

// waitEnd returns when the other end has closed or reset a connection.
func waitEnd(t *testing.T, conn net.Conn) {
	t.Helper()
	harness.Must(t, conn.SetReadDeadline(time.Now().Add(harness.AnswerTime)))
	if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("the connection has not ended: %v", err)
	}
}

// TestTupleReused opens connections with one and the same tuple in turns: from the
// server, from the client, from the server again, and so on. What the server opens
// goes where the routing table says, what the client opens is answered by eth1,
// each time, whoever was left in TIME_WAIT.
func TestTupleReused(t *testing.T) {
	for name, end := range endings {
		for _, f := range harness.Families {
			t.Run(name+"/"+f.String(), func(t *testing.T) {
				t.Parallel() // the kernel makes them wait for a second each time
				testTupleReused(t, f, end)
			})
		}
	}
}

func testTupleReused(t *testing.T, f topology.Family, end func(t *testing.T, opener, other net.Conn)) {
	n := harness.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.AnySource})
	// A tuple in TIME_WAIT may be opened again after a second.
	for _, h := range []*topology.Host{n.Client, n.Server.Host} {
		harness.Must(t, h.SetSysctl("net/ipv4/tcp_tw_reuse", "1"))
	}
	harness.On(t, n.Server.Host).Start()
	server := netip.AddrPortFrom(n.Server.Eth1.Address(f), 9001)
	client := netip.AddrPortFrom(n.ClientEth0.Address(f), 9002)
	fromServer := topology.All(topology.TCP, topology.FromPort(server.Port()), topology.ToPort(client.Port()))
	for i, outward := range []bool{true, false, true, false, false, true, true} {
		exits := harness.TapAll(t, n.Server.Eth0, n.Server.Eth1)
		by, opener, other := n.Server.Eth1, n.Client, n.Server.Host
		from, to := client, server
		if outward {
			by, opener, other = n.Server.Eth0, n.Server.Host, n.Client
			from, to = server, client
		}
		a, b := open(t, opener, other, from, to)
		for range 3 {
			talk(t, a, b)
			talk(t, b, a)
		}
		end(t, a, b)
		waitQuiet(t, server.Port(), n.Client, n.Server.Host)
		exits.Want(fmt.Sprintf("connection %d, outward %t", i+1, outward), fromServer, by, by.Peer().MAC)
	}
}

// waitQuiet returns when no connection with a port waits for another segment on
// any of the hosts: the last one has been sent, then.
func waitQuiet(t *testing.T, port uint16, hosts ...*topology.Host) {
	t.Helper()
	harness.Eventually(t, "the connection has ended", func() error {
		for _, h := range hosts {
			left := harness.Shell(t, h, fmt.Sprintf("ss -Htan state connected exclude time-wait '( sport = %[1]d or dport = %[1]d )'", port))
			if left != "" {
				return fmt.Errorf("on %s there is %s", h.Name, left)
			}
		}
		return nil
	})
}

// TestTupleReusedUDP is TestTupleReused for datagrams, with a long silence in
// between: who spoke first after it decides.
func TestTupleReusedUDP(t *testing.T) {
	n := harness.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.AnySource})
	p := harness.On(t, n.Server.Host)
	p.Start("--config", harness.WriteConfig(t, harness.SmallTables))
	p.WaitGrace()
	for _, f := range harness.Families {
		t.Run(f.String(), func(t *testing.T) { testTupleReusedUDP(t, n, p, f) })
	}
}

// silence is longer than anything is known of who spoke first.
const silence = 2 * time.Hour

func testTupleReusedUDP(t *testing.T, n *topology.TwoNIC, p *harness.Product, f topology.Family) {
	server := netip.AddrPortFrom(n.Server.Eth1.Address(f), 9001)
	client := netip.AddrPortFrom(n.ClientEth0.Address(f), 9002)
	a := unconnected{harness.Must1[net.PacketConn](t)(n.Server.ListenPacket(t.Context(), "udp", server.String())), client}
	defer a.Close()
	b := harness.Must1[net.Conn](t)(n.Client.Dial(t.Context(), "udp", server.String(), topology.FromAddress(client)))
	defer b.Close()
	fromServer := topology.All(topology.UDP, topology.FromPort(server.Port()), topology.ToPort(client.Port()))
	for i, outward := range []bool{true, false, true, true, false, false, true} {
		p.In(t).Age(silence)
		exits := harness.TapAll(t, n.Server.Eth0, n.Server.Eth1)
		by := n.Server.Eth1
		if outward {
			by = n.Server.Eth0
			talk(t, a, b)
		}
		for range 3 {
			talk(t, b, a)
			talk(t, a, b)
		}
		exits.Want(fmt.Sprintf("conversation %d, outward %t", i+1, outward), fromServer, by, by.Peer().MAC)
	}
}

// open opens a connection between two addresses and returns both of its ends.
func open(t *testing.T, opener, other *topology.Host, from, to netip.AddrPort) (a, b net.Conn) {
	t.Helper()
	ctx := harness.Within(t, harness.AnswerTime)
	l := harness.Must1[net.Listener](t)(other.Listen(ctx, "tcp", to.String()))
	defer l.Close()
	harness.Eventually(t, "the tuple can be opened", func() (err error) {
		a, err = opener.Dial(ctx, "tcp", to.String(), topology.FromAddress(from), topology.ReuseAddress())
		if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) && !errors.Is(err, unix.EADDRINUSE) {
			t.Fatal(err)
		}
		return err
	})
	b = harness.Must1[net.Conn](t)(l.Accept())
	t.Cleanup(func() {
		a.Close()
		b.Close()
	})
	return a, b
}

// talker is an end of a conversation.
type talker interface {
	io.ReadWriter
	SetDeadline(time.Time) error
}

// unconnected talks to one peer by a socket that is not connected to it, of which
// the kernel does not tell who spoke first.
type unconnected struct {
	net.PacketConn
	peer netip.AddrPort
}

// Write sends a datagram.
func (u unconnected) Write(p []byte) (int, error) {
	return u.WriteTo(p, net.UDPAddrFromAddrPort(u.peer))
}

// Read receives a datagram.
func (u unconnected) Read(p []byte) (int, error) {
	n, _, err := u.ReadFrom(p)
	return n, err
}

// talk sends something and wants it to arrive.
func talk(t *testing.T, from, to talker) {
	t.Helper()
	deadline := time.Now().Add(harness.AnswerTime)
	harness.Must(t, errors.Join(from.SetDeadline(deadline), to.SetDeadline(deadline)))
	message := []byte("something")
	_, err := from.Write(message)
	harness.Must(t, err)
	_, err = to.Read(message)
	harness.Must(t, err)
}
