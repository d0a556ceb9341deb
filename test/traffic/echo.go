// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"

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
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			// Who asked notices what goes wrong.
			_, _ = io.Copy(struct{ io.Writer }{conn}, struct{ io.Reader }{conn})
		}()
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
