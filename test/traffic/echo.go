// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"
	"time"

	"replypath/test/await"
	"replypath/test/topology"
)

// EchoPort is where Serve listens.
const EchoPort = 7

// Serve echoes TCP and UDP on a host, at one address or at the unspecified one, until the test ends. The kernel itself
// answers pings.
func Serve(t testing.TB, host *topology.Host, address netip.Addr) {
	t.Helper()
	ServeAt(t, host, netip.AddrPortFrom(address, EchoPort))
}

// ServeNICs is Serve at the first address of each family of interfaces.
func ServeNICs(t testing.TB, nics ...*topology.Interface) {
	t.Helper()
	for _, nic := range nics {
		for _, f := range Families {
			if address := nic.Address(f); address.IsValid() {
				Serve(t, nic.Host, address)
			}
		}
	}
}

// ServeAt is Serve with a port, and with options of the sockets.
func ServeAt(t testing.TB, host *topology.Host, address netip.AddrPort, options ...topology.SocketOption) {
	t.Helper()
	at := address.String()
	listener := await.Must1[net.Listener](t)(host.Listen(t.Context(), "tcp", at, options...))
	serveUntilClosed(t, listener, func() error { return ServeStreams(listener) })
	conn := await.Must1[net.PacketConn](t)(host.ListenPacket(t.Context(), "udp", at, options...))
	serveUntilClosed(t, conn, func() error { return serveDatagrams(conn) })
}

// serveUntilClosed serves by a socket until the test ends, and reports why it ended before.
func serveUntilClosed(t testing.TB, socket io.Closer, serve func() error) {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := serve(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("an echo server has ended: %v", err)
		}
	}()
	t.Cleanup(func() {
		socket.Close()
		<-ended
	})
}

// ServeStreams echoes what connections bring, until the listener is closed.
func ServeStreams(listener net.Listener) error {
	return Accept(listener, func(conn net.Conn) {
		defer conn.Close()
		// Who asked notices what goes wrong.
		_, _ = io.Copy(struct{ io.Writer }{conn}, struct{ io.Reader }{conn})
	})
}

// Accept has each connection served by itself, until the listener is closed.
func Accept(listener net.Listener, serve func(net.Conn)) error {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		go serve(conn)
	}
}

func serveDatagrams(conn net.PacketConn) error {
	buffer := make([]byte, 1<<16)
	for {
		n, from, err := conn.ReadFrom(buffer)
		if err != nil {
			return err
		}
		_, _ = conn.WriteTo(buffer[:n], from)
	}
}

// transferTime is enough for any transfer.
const transferTime = 60 * time.Second

// content is what is transferred, a stream that repeats nothing.
func content() io.Reader { return rand.NewChaCha8([32]byte{1}) }

// TransferBlock is in bytes what a transfer server sends at once: what it sends first is several segments, of any MTU.
const TransferBlock = 50_000

// ServeTransfers echoes TCP in blocks at an address of a host, at a port that the kernel chooses, until the test ends.
func ServeTransfers(t testing.TB, host *topology.Host, address netip.Addr) net.Listener {
	t.Helper()
	l := await.Must1[net.Listener](t)(host.Listen(t.Context(), "tcp", netip.AddrPortFrom(address, 0).String()))
	serveUntilClosed(t, l, func() error { return Accept(l, echoBlocks) })
	return l
}

// echoBlocks echoes what a connection brings. Who asked notices what goes wrong.
func echoBlocks(conn net.Conn) {
	defer conn.Close()
	block := make([]byte, TransferBlock)
	for {
		if _, err := io.ReadFull(conn, block); err != nil {
			return
		}
		if _, err := conn.Write(block); err != nil {
			return
		}
	}
}

// DialTransfer connects to a transfer server.
func DialTransfer(t testing.TB, client *topology.Host, to net.Listener) net.Conn {
	t.Helper()
	return await.Must1[net.Conn](t)(client.Dial(await.Within(t, await.AnswerTime), "tcp", to.Addr().String()))
}

// TransferBothWays has so many bytes, a multiple of TransferBlock, go to a transfer server and come back, and holds them against
// what they have to be.
func TransferBothWays(t testing.TB, conn net.Conn, size int64) {
	t.Helper()
	await.Must(t, conn.SetDeadline(time.Now().Add(transferTime)))
	sent, came := sha256.New(), sha256.New()
	uploaded := make(chan error, 1)
	go func() {
		_, err := io.CopyN(io.MultiWriter(conn, sent), content(), size)
		uploaded <- err
	}()
	n, err := io.CopyN(came, conn, size)
	if err = errors.Join(err, <-uploaded); err == nil && !bytes.Equal(sent.Sum(nil), came.Sum(nil)) {
		err = errors.New("the bytes were altered")
	}
	if err != nil {
		t.Errorf("after %d bytes of %d: %v", n, size, err)
	}
}
