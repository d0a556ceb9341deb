package lifecycle

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
	capture        *topology.Capture
	// segments are all that the server sends.
	segments topology.Filter
}

// newPush connects the client with the server's eth1.
func newPush(t *testing.T, n *topology.TwoNIC, f topology.Family) *push {
	t.Helper()
	ctx := harness.Within(t, harness.AnswerTime)
	address := n.Server.Eth1.Address(f)
	l := harness.Must1[net.Listener](t)(n.Server.Listen(ctx, "tcp", netip.AddrPortFrom(address, 0).String()))
	t.Cleanup(func() { l.Close() })
	p := &push{t: t, capture: harness.Capture(t, n.Server.Eth1.Peer())}
	p.client = harness.Must1[net.Conn](t)(n.Client.Dial(ctx, "tcp", l.Addr().String()))
	p.server = harness.Must1[net.Conn](t)(l.Accept())
	t.Cleanup(func() {
		p.client.Close()
		p.server.Close()
	})
	port := netip.MustParseAddrPort(l.Addr().String()).Port()
	p.segments = topology.All(topology.TCP, topology.From(address), topology.FromPort(port))
	return p
}

// send has the server send so many bytes, which have to fit its buffer.
func (p *push) send(size int) {
	p.t.Helper()
	_, err := p.server.Write(make([]byte, size))
	harness.Must(p.t, err)
}

// pushBytes sends and returns when the client has everything.
func (p *push) pushBytes(size int) {
	p.t.Helper()
	p.send(size)
	_, err := io.CopyN(io.Discard, p.client, int64(size))
	harness.Must(p.t, err)
}

// push sends a short message and returns when the client has it.
func (p *push) push() {
	p.t.Helper()
	p.pushBytes(4)
}

// lastMAC returns where the last message was sent.
func (p *push) lastMAC() net.HardwareAddr {
	p.t.Helper()
	// With data: an acknowledgement may be older than what is looked at.
	frames := p.capture.Frames(topology.All(p.segments, topology.Flags(topology.PSH, topology.PSH)))
	if len(frames) == 0 {
		p.t.Fatal("nothing was sent by eth1")
	}
	return frames[len(frames)-1].DestinationMAC
}
