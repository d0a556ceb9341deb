// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"replypath/test/harness"
	"replypath/test/topology"
)

// halfSize is what crosses in the direction that is still open.
const halfSize = 200_000

// halfOpen is a connection that one of its ends has closed, which the other has heard.
type halfOpen struct {
	*pair
	// fin is the one that has been sent, as it came to the server or left it.
	fin *topology.Frame
}

// closeHalf has one end close, and waits until the server's socket is in the state of
// that.
func (c corners) closeHalf(t *testing.T, p *pair, quiet, speaks *net.TCPConn, state string) *halfOpen {
	t.Helper()
	exits := harness.TapAll(t, c.Server.Eth1)
	harness.Must(t, quiet.CloseWrite())
	waitEnd(t, speaks)
	harness.Eventually(t, "the server's socket is in "+state, func() error {
		found := harness.Shell(t, c.Server.Host, fmt.Sprintf("ss -Htan state %s 'sport = %d'", state, p.port()))
		if strings.TrimSpace(found) == "" {
			return fmt.Errorf("there is none")
		}
		return nil
	})
	port := topology.OneOf(topology.FromPort(p.port()), topology.ToPort(p.port()))
	return &halfOpen{p, wait(t, exits.At(c.Server.Eth1), topology.All(port, topology.Flags(topology.FIN, topology.FIN)))}
}

// push has one end send and the other read it all.
func (h *halfOpen) push(t *testing.T, from, to *net.TCPConn) {
	t.Helper()
	harness.Must(t, to.SetReadDeadline(time.Now().Add(harness.AnswerTime)))
	go func() { _, _ = from.Write(make([]byte, halfSize)) }() // who reads notices
	harness.Must1[int64](t)(io.CopyN(io.Discard, to, halfSize))
}

// end closes the end that still speaks, and waits until both have nothing left.
func (c corners) end(t *testing.T, h *halfOpen, speaks, quiet *net.TCPConn) {
	t.Helper()
	harness.Must(t, speaks.Close())
	waitEnd(t, quiet)
	harness.Must(t, quiet.Close())
	waitQuiet(t, h.port(), c.Client, c.Server.Host)
}

// wantRouted runs what makes the server send and wants that to leave by eth0, where it is
// lost.
func (c corners) wantRouted(t *testing.T, what string, h *halfOpen, run func()) {
	t.Helper()
	exits := harness.TapAll(t, c.eth1.nics...)
	run()
	wait(t, exits.At(c.Server.Eth0), topology.All(h.segments, topology.Going(topology.Received)))
	exit{c.eth1.nics, c.Server.Eth0, c.Server.Eth0.Peer().MAC}.want(exits, what, h.segments)
}

// TestHalfClosedBefore takes over connections that one end had closed before the first
// start.
func TestHalfClosedBefore(t *testing.T) {
	c := newCorners(t)
	closedByServer, closedByClient := make(map[topology.Family]*halfOpen), make(map[topology.Family]*halfOpen)
	for _, f := range harness.Families {
		p := c.connect(t, f, dialect{})
		p.goOn(t)
		closedByServer[f] = c.closeHalf(t, p, p.server, p.client, "fin-wait-2")
		p = c.connect(t, f, dialect{})
		p.goOn(t)
		closedByClient[f] = c.closeHalf(t, p, p.client, p.server, "close-wait")
	}
	c.p.Expect(0, "detach", "--stop")
	again := harness.NewInjector(t, c.Server.Eth1.Peer())
	for _, f := range harness.Families {
		h := closedByServer[f]
		c.wantRouted(t, "an acknowledgement without replypath", h, func() { talk(t, h.client, h.server) })
		h = closedByClient[f]
		c.wantRouted(t, "the answer to a repeated FIN without replypath", h, func() { again.SendAgain(h.fin) })
	}
	c.p.Start()
	for _, f := range harness.Families {
		t.Run("closed by the server/"+f.String(), func(t *testing.T) { c.testFinWait(t, closedByServer[f]) })
		t.Run("closed by the client/"+f.String(), func(t *testing.T) { c.testCloseWait(t, closedByClient[f], again) })
	}
}

// testFinWait has the client go on sending to a server that has closed (FIN_WAIT2): all of
// its acknowledgements leave by eth1, that of the client's FIN as well.
func (c corners) testFinWait(t *testing.T, h *halfOpen) {
	exits := harness.TapAll(t, c.eth1.nics...)
	h.push(t, h.client, h.server)
	c.end(t, h, h.client, h.server)
	c.eth1.want(exits, "what acknowledges the client's data and FIN", h.segments)
	t.Logf("%d bytes and the FIN: %d frames of the server left by eth1, none by eth0",
		halfSize, len(exits.Left(c.Server.Eth1, h.segments)))
}

// testCloseWait has a server go on sending to a client that has closed (CLOSE_WAIT). Nothing
// tells that the server's segments are answers before one of the client's comes in, which
// has nothing to say by itself: they go as routed until then, which is what the kernel would
// do. As soon as it repeats its FIN, everything leaves by eth1.
func (c corners) testCloseWait(t *testing.T, h *halfOpen, again *harness.Injector) {
	c.wantRouted(t, "what the server says before its client", h, func() {
		harness.Must1[int](t)(h.server.Write([]byte("x")))
	})
	exits := harness.TapAll(t, c.eth1.nics...)
	again.SendAgain(h.fin)
	first := wait(t, exits.At(c.Server.Eth1), topology.All(h.segments, topology.Going(topology.Received)))
	harness.Must(t, h.client.SetReadDeadline(time.Now().Add(harness.AnswerTime)))
	harness.Must1[int](t)(io.ReadFull(h.client, make([]byte, 1)))
	took := time.Since(first.Time).Round(time.Millisecond)
	h.push(t, h.server, h.client)
	c.end(t, h, h.server, h.client)
	// What had been lost may have been sent again, as routed, just before.
	since := topology.All(h.segments, func(f *topology.Frame) bool { return !f.Time.Before(first.Time) })
	c.eth1.want(exits, "the server's data and FIN", since)
	t.Logf("%d bytes and the FIN: %d frames of the server left by eth1, none by eth0; what had been lost came again after %s",
		halfSize, len(exits.Left(c.Server.Eth1, since)), took)
}
