// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// half is a connection that one of its ends has closed, which the other has heard.
type half struct {
	*pair
	// fin is the one that has been sent, as it came to the server or left it.
	fin *topology.Frame
}

// halves are of one family.
type halves struct{ byServer, byClient half }

// closeHalf has one end close, and waits until the server's socket is in the state of that.
func (c corners) closeHalf(t *testing.T, p *pair, quiet, speaks *net.TCPConn, state string) half {
	t.Helper()
	exits := wire.TapAll(t, c.Server.Eth1)
	await.Must(t, quiet.CloseWrite())
	waitEnd(t, speaks)
	await.Eventually(t, "the server's socket is in "+state, func() error {
		found := host.Shell(t, c.Server.Host, fmt.Sprintf("ss -Htan state %s 'sport = %d'", state, p.port()))
		if strings.TrimSpace(found) == "" {
			return errors.New("there is none")
		}
		return nil
	})
	port := topology.OneOf(topology.FromPort(p.port()), topology.ToPort(p.port()))
	return half{p, wait(t, exits.At(c.Server.Eth1), topology.All(port, topology.Flags(topology.FIN, topology.FIN)))}
}

// wantRouted runs what makes the server send and wants that to leave by eth0, where it is lost.
func (c corners) wantRouted(t *testing.T, what string, h half, run func()) {
	t.Helper()
	exits, eth0 := wire.TapAll(t, c.eth1.nics...), exitBy(c.Server, c.Server.Eth0)
	run()
	wait(t, exits.At(eth0.by), topology.All(h.segments, topology.Going(topology.Received)))
	eth0.want(exits, what, h.segments)
}

// wantHalvesRouted is the control.
func (c corners) wantHalvesRouted(t *testing.T, of halves) {
	t.Helper()
	c.wantRouted(t, "an acknowledgement without replypath", of.byServer, func() {
		talk(t, of.byServer.client, of.byServer.server)
	})
	c.wantRouted(t, "the answer to a repeated FIN without replypath", of.byClient, func() {
		traffic.NewInjector(t, c.Server.Eth1.Peer()).SendAgain(of.byClient.fin)
	})
}

// testFinWait has the client go on sending to a server that has closed (FIN_WAIT2): all of
// its acknowledgements leave by eth1, that of the client's FIN as well.
func (c corners) testFinWait(t *testing.T, h half) {
	c.wantEth1(t, "what acknowledges the client's data and FIN", h.pair, func() {
		push(t, h.client, h.server)
		c.end(t, h.pair, h.client, h.server)
	})
}

// testCloseWait has a server go on sending to a client that has closed (CLOSE_WAIT). Nothing tells that the server's
// segments are answers before one of the client's comes in, which has nothing to say by itself: they go as routed
// until then, which is what the kernel would do. As soon as it repeats its FIN, everything leaves by eth1.
func (c corners) testCloseWait(t *testing.T, h half) {
	c.wantRouted(t, "what the server says before its client", h, func() {
		await.Must1[int](t)(h.server.Write([]byte("x")))
	})
	exits := wire.TapAll(t, c.eth1.nics...)
	traffic.NewInjector(t, c.Server.Eth1.Peer()).SendAgain(h.fin)
	first := wait(t, exits.At(c.Server.Eth1), topology.All(h.segments, topology.Going(topology.Received)))
	await.Must(t, read(t, h.client, await.AnswerTime))
	push(t, h.server, h.client)
	c.end(t, h.pair, h.server, h.client)
	// What had been lost may have been sent again, as routed, just before.
	since := topology.All(h.segments, func(f *topology.Frame) bool { return !f.Time.Before(first.Time) })
	c.eth1.want(exits, "the server's data and FIN", since)
}
