// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"replypath/test/await"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/wire"
)

// newCorners is a server of which everything that leaves by the wrong NIC is lost, and both hosts may do what is not usual.
func newCorners(t *testing.T) bed {
	t.Helper()
	// With checksums, so that captured frames can be sent again.
	c := newBed(t, topology.TwoNICOptions{Policy: topology.StrictSource, Offloads: topology.Offloads{NoChecksum: true}})
	for _, h := range []*topology.Host{c.Client, c.Server.Host} {
		await.Must(t, h.SetSysctl("net/ipv4/tcp_fastopen", "3"))
	}
	return c
}

// start starts replypath with small tables.
func (c bed) start(t *testing.T) {
	t.Helper()
	c.p.Start("--config", product.WriteConfig(t, product.SmallTables))
}

// dialect is how TCP is spoken.
type dialect struct {
	wildcard       bool // the server listens at all of its addresses
	client, server func(fd int) error
}

// pair is a TCP connection from the client to the server's eth1.
type pair struct {
	client, server *net.TCPConn
	// segments are those that the server sends.
	segments topology.Filter
}

// listen listens at the address of the server's eth1.
func (c bed) listen(t *testing.T, f topology.Family, d dialect) net.Listener {
	t.Helper()
	at := c.Server.Eth1.Address(f).String()
	if d.wildcard {
		at = "::"
	}
	l := await.Must1[net.Listener](t)(c.Server.Listen(t.Context(), "tcp", net.JoinHostPort(at, "0"), topology.Setting(d.server)))
	t.Cleanup(func() { l.Close() })
	return l
}

// dial opens a connection to a listener.
func (c bed) dial(t *testing.T, f topology.Family, l net.Listener, d dialect) *pair {
	t.Helper()
	at := netip.AddrPortFrom(c.Server.Eth1.Address(f), l.Addr().(*net.TCPAddr).AddrPort().Port())
	p := &pair{segments: topology.All(topology.TCP, topology.From(at.Addr()), topology.FromPort(at.Port()))}
	ctx := await.Within(t, await.AnswerTime)
	p.client = await.Must1[net.Conn](t)(c.Client.Dial(ctx, "tcp", at.String(), topology.Setting(d.client))).(*net.TCPConn)
	t.Cleanup(func() { p.client.Close() })
	return p
}

// accept takes the server's end of the connection.
func (p *pair) accept(t *testing.T, l net.Listener) {
	t.Helper()
	await.Must(t, l.(*net.TCPListener).SetDeadline(time.Now().Add(await.AnswerTime)))
	p.server = await.Must1[net.Conn](t)(l.Accept()).(*net.TCPConn)
	t.Cleanup(func() { p.server.Close() })
}

// connect opens a connection and takes both of its ends.
func (c bed) connect(t *testing.T, f topology.Family, d dialect) *pair {
	t.Helper()
	l := c.listen(t, f, d)
	p := c.dial(t, f, l, d)
	p.accept(t, l)
	return p
}

// wantEth1 runs what makes the server send, and wants that by eth1.
func (c bed) wantEth1(t *testing.T, what string, p *pair, run func()) {
	t.Helper()
	exits := wire.TapAll(t, c.eth1.nics...)
	run()
	c.eth1.want(exits, what, p.segments)
}

// port returns the server's port.
func (p *pair) port() uint16 { return netip.MustParseAddrPort(p.client.RemoteAddr().String()).Port() }

// connected opens a connection on which both ends have spoken.
func (c bed) connected(t *testing.T, f topology.Family) *pair {
	t.Helper()
	p := c.connect(t, f, dialect{})
	p.goOn(t)
	return p
}

// push has one end send a lot and the other read it all, and returns when all is acknowledged: what comes after that is
// not of what was sent.
func push(t *testing.T, from, to *net.TCPConn) {
	t.Helper()
	const size = 200_000
	await.Must(t, to.SetDeadline(time.Now().Add(await.AnswerTime)))
	go func() { _, _ = from.Write(make([]byte, size)) }() // who reads notices
	await.Must1[int64](t)(io.CopyN(io.Discard, to, size))
	raw := await.Must1[syscall.RawConn](t)(from.SyscallConn())
	await.Eventually(t, "everything is acknowledged", func() (err error) {
		var left int
		await.Must(t, raw.Control(func(fd uintptr) { left, err = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) }))
		if err == nil && left > 0 {
			err = fmt.Errorf("%d bytes are not", left)
		}
		return err
	})
}

// end closes a connection, and returns when both ends have nothing left.
func (c bed) end(t *testing.T, p *pair, first, second *net.TCPConn) {
	t.Helper()
	await.Must(t, first.Close())
	waitEnd(t, second)
	await.Must(t, second.Close())
	waitQuiet(t, p.port(), c.Client, c.Server.Host)
}

// wait returns when a capture has the frame.
func wait(t *testing.T, at *topology.Capture, frame topology.Filter) *topology.Frame {
	t.Helper()
	return await.Must1[*topology.Frame](t)(at.Wait(await.Within(t, await.AnswerTime), frame))
}

// goOn has both ends speak in turns.
func (p *pair) goOn(t *testing.T) {
	t.Helper()
	talk(t, p.client, p.server)
	talk(t, p.server, p.client)
}
