// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"replypath/test/await"
	"replypath/test/topology"
	"replypath/test/traffic"
)

// TestSilentRouterWithoutDaemon has the production NIC's IPv6 router fall silent while no daemon runs, on a host and
// on one that forwards: nothing is answered until the router is back.
func TestSilentRouterWithoutDaemon(t *testing.T) {
	t.Parallel()
	for _, forwards := range []bool{false, true} {
		t.Run(fmt.Sprintf("forwards %t", forwards), func(t *testing.T) {
			t.Parallel()
			testSilentRouter(t, forwards)
		})
	}
}

func testSilentRouter(t *testing.T, forwards bool) {
	b := newBed(t, topology.IPv6, anySource)
	if forwards {
		await.Must(t, b.net.Server.SetSysctl("net/ipv6/conf/all/forwarding", "1"))
		b.quicken("neigh/eth0")
	}
	d := b.start()
	open := b.conversation(traffic.TCP)
	b.ask(open)
	client, server := b.connectBoth()
	b.say(client, server)
	b.say(server, client)
	b.wantFlow(traffic.UDP, "eth1")
	d.Kill()
	b.silenceGateway()

	began, asked := time.Now(), make(chan error, 1)
	go func() { asked <- open.Ask(await.Within(t, await.AnswerTime)) }()
	fresh := make(map[traffic.Kind]int)
	for range 3 {
		for _, kind := range traffic.Kinds {
			if b.conversation(kind).Ask(await.Within(t, promptly)) == nil {
				fresh[kind]++
			}
		}
	}
	said, heard := b.sayAll(server, client)
	openErr := <-asked
	t.Logf("of 3 new ones each answered: %v; open connection: %v after %s; connected UDP: %d of %d",
		fresh, openErr, since(began), heard, said)
	for _, kind := range traffic.Kinds {
		if fresh[kind] > 0 {
			t.Errorf("new, by %s: %d of 3 answered", kind, fresh[kind])
		}
	}
	if openErr == nil {
		t.Errorf("open connection: %v", openErr)
	}
	if heard > 0 {
		t.Errorf("a connected socket was heard %d times", heard)
	}
	b.wakeGateway()
	for _, kind := range traffic.Kinds {
		b.eventually(b.conversation(kind))
	}
	b.Eventually("the connected socket is heard", func() error {
		if _, heard := b.sayAll(server, client); heard == 0 {
			return errors.New("it is not")
		}
		return nil
	})
}

// sayAll sends some datagrams, and counts those that arrive.
func (b *bed) sayAll(from, to net.Conn) (said, heard int) {
	b.Helper()
	for said = range 10 {
		_, err := from.Write([]byte("message"))
		if err != nil && !errors.Is(err, unix.EHOSTUNREACH) && !errors.Is(err, unix.ECONNREFUSED) {
			b.Fatal(err)
		}
		await.Must(b, to.SetReadDeadline(time.Now().Add(inVain/3)))
		if _, err := to.Read(make([]byte, 7)); err == nil {
			heard++
		}
	}
	return said + 1, heard
}

// connectBoth returns a client's socket, and a server's that took the client's first datagram and was connected then, as
// servers of DTLS do.
func (b *bed) connectBoth() (client, server net.Conn) {
	b.Helper()
	client, listening := b.connect(traffic.UDP)
	b.say(client, listening)
	bound := listening.(answering).UDPConn
	peer := client.LocalAddr().(*net.UDPAddr).AddrPort()
	raw, err := bound.SyscallConn()
	await.Must(b, err)
	var connectErr error
	await.Must(b, raw.Control(func(fd uintptr) { connectErr = unix.Connect(int(fd), sockaddr(peer)) }))
	await.Must(b, connectErr)
	return client, connected{bound}
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Unmap().Is4() {
		return &unix.SockaddrInet4{Addr: a.Addr().Unmap().As4(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}

// connected is the socket of a UDP server that has been connected.
type connected struct{ *net.UDPConn }

func (c connected) Write(message []byte) (n int, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	controlErr := raw.Write(func(fd uintptr) bool {
		n, err = unix.Write(int(fd), message)
		return !errors.Is(err, unix.EAGAIN)
	})
	return n, errors.Join(err, controlErr)
}
