// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"io"
	"net"
	"net/netip"
	"testing"

	"replypath/test/await"
	"replypath/test/topology"
)

// Push is a connection in which the server speaks and the client listens.
type Push struct {
	Client, Server net.Conn
	// Segments are all that the server sends.
	Segments topology.Filter

	t *testing.T
}

// NewPush connects the client to an address that is, or is translated into, the server's own.
func NewPush(t *testing.T, client, server *topology.Host, asked, own netip.Addr) *Push {
	t.Helper()
	ctx := await.Within(t, await.AnswerTime)
	l := await.Must1[net.Listener](t)(server.Listen(ctx, "tcp", netip.AddrPortFrom(own, 0).String()))
	t.Cleanup(func() { l.Close() })
	port := netip.MustParseAddrPort(l.Addr().String()).Port()
	p := &Push{t: t, Segments: topology.All(topology.TCP, topology.From(own), topology.FromPort(port))}
	p.Client = await.Must1[net.Conn](t)(client.Dial(ctx, "tcp", netip.AddrPortFrom(asked, port).String()))
	p.Server = await.Must1[net.Conn](t)(l.Accept())
	t.Cleanup(func() {
		p.Client.Close()
		p.Server.Close()
	})
	return p
}

// Send has the server send so many bytes, which have to fit its buffer.
func (p *Push) Send(size int) {
	p.t.Helper()
	_, err := p.Server.Write(make([]byte, size))
	await.Must(p.t, err)
}

// Speak sends a short message and returns when the client has it.
func (p *Push) Speak() {
	p.t.Helper()
	const size = 4
	p.Send(size)
	_, err := io.CopyN(io.Discard, p.Client, size)
	await.Must(p.t, err)
}
