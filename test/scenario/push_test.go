package scenario

import (
	"io"
	"net"
	"net/netip"
	"testing"

	"replypath/test/harness"
	"replypath/test/topology"
)

// push is a connection in which the server speaks and the client listens.
type push struct {
	t              *testing.T
	client, server net.Conn
	// segments are all that the server sends.
	segments topology.Filter
}

// newPush connects the client to an address that is, or is translated into, the
// server's own.
func newPush(t *testing.T, client, server *topology.Host, asked, own netip.Addr) *push {
	t.Helper()
	ctx := harness.Within(t, harness.AnswerTime)
	l := harness.Must1[net.Listener](t)(server.Listen(ctx, "tcp", netip.AddrPortFrom(own, 0).String()))
	t.Cleanup(func() { l.Close() })
	port := netip.MustParseAddrPort(l.Addr().String()).Port()
	p := &push{t: t, segments: topology.All(topology.TCP, topology.From(own), topology.FromPort(port))}
	p.client = harness.Must1[net.Conn](t)(client.Dial(ctx, "tcp", netip.AddrPortFrom(asked, port).String()))
	p.server = harness.Must1[net.Conn](t)(l.Accept())
	t.Cleanup(func() {
		p.client.Close()
		p.server.Close()
	})
	return p
}

// push sends a short message and returns when the client has it.
func (p *push) push() {
	p.t.Helper()
	message := []byte("push")
	_, err := p.server.Write(message)
	harness.Must(p.t, err)
	_, err = io.ReadFull(p.client, message)
	harness.Must(p.t, err)
}
