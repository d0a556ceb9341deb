// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// fastOpen asks for TCP Fast Open (RFC 7413) at both ends.
var fastOpen = dialect{
	client: func(fd int) error { return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_FASTOPEN_CONNECT, 1) },
	server: func(fd int) error { return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_FASTOPEN, 16) },
}

// synWithData matches a SYN that brings some.
func synWithData(f *topology.Frame) bool {
	tcp, ok := f.Packet().Layer(layers.LayerTypeTCP).(*layers.TCP)
	return ok && tcp.SYN && len(tcp.Payload) > 0
}

// TestCorners: a connection keeps its way at its corners, where the routed way loses what is sent by it.
func TestCorners(t *testing.T) {
	c := newCorners(t)
	each := func(name string, run func(*testing.T, topology.Family)) {
		t.Run(name, func(t *testing.T) {
			for _, f := range traffic.Families {
				t.Run(f.String(), func(t *testing.T) { run(t, f) })
			}
		})
	}
	each("without replypath", func(t *testing.T, f topology.Family) {
		wantLost(t, c.Server, traffic.NewConversation(t, traffic.TCP, c.ClientEth0, c.Server.Eth1.Address(f)), c.ClientEth0)
	})
	c.start(t)
	each("fast open", c.fastOpen)
	each("half closed", c.halfClosed)
	each("closed after silence", c.closedAfterSilence)
	each("time wait", c.timeWait)
	each("reset of a filter", c.resetOfFilter)
	each("peer away", c.peerAway)
	t.Run("keep alive", c.keepAlive)
	each("stray flood", c.strayFlood)
}

// fastOpen has the client ask in its SYN, and the server answer before the handshake is over: the client's
// acknowledgements are held up until its answer has left.
func (c bed) fastOpen(t *testing.T, f topology.Family) {
	l := c.listen(t, f, fastOpen)
	first := c.dial(t, f, l, fastOpen) // for the cookie
	first.accept(t, l)
	first.goOn(t)

	exits := wire.TapAll(t, c.eth1.nics...)
	host.Nft(t, c.Core.Host, fmt.Sprintf(`table inet delay {
		chain forward { type filter hook forward priority filter
			tcp dport %d tcp flags & (syn | ack) == ack drop
		}
	}`, l.Addr().(*net.TCPAddr).Port))
	p := c.dial(t, f, l, fastOpen)
	question := []byte("a question in the SYN")
	await.Must1[int](t)(p.client.Write(question))
	p.accept(t, l)
	talked := make([]byte, len(question))
	await.Must1[int](t)(io.ReadFull(p.server, talked))
	talk(t, p.server, p.client)
	if came := exits.Came(c.Server.Eth1, synWithData); len(came) != 1 {
		t.Errorf("of SYNs with data came %s", wire.Describe(came))
	}
	port := uint16(p.client.LocalAddr().(*net.TCPAddr).Port)
	acknowledged := topology.All(topology.FromPort(port), topology.Flags(topology.SYN|topology.ACK, topology.ACK))
	if came := exits.Came(c.Server.Eth1, acknowledged); len(came) > 0 {
		t.Errorf("the handshake was over already: %s", wire.Describe(came))
	}
	host.Shell(t, c.Core.Host, "nft delete table inet delay")
	p.goOn(t)
	c.eth1.want(exits, "fast open", p.segments)
}

// halfClosed closes one direction of a connection and goes on in the other, at once and after an hour.
func (c bed) halfClosed(t *testing.T, f topology.Family) {
	for name, closed := range map[string]func(*pair) (quiet, speaks *net.TCPConn){
		"the client": func(p *pair) (*net.TCPConn, *net.TCPConn) { return p.client, p.server },
		"the server": func(p *pair) (*net.TCPConn, *net.TCPConn) { return p.server, p.client },
	} {
		p := c.connected(t, f)
		quiet, speaks := closed(p)
		await.Must(t, quiet.CloseWrite())
		waitEnd(t, speaks)
		c.wantEth1(t, name+" has closed", p, func() { push(t, speaks, quiet) })
		c.p.In(t).Age(time.Hour)
		c.wantEth1(t, name+" has closed long ago", p, func() { push(t, speaks, quiet) })
		c.wantEth1(t, "the end after "+name, p, func() { c.end(t, p, speaks, quiet) })
	}
}

// closedAfterSilence has the server close a connection that has been quiet for hours: all of the end leaves by eth1.
func (c bed) closedAfterSilence(t *testing.T, f topology.Family) {
	p := c.connected(t, f)
	c.p.In(t).Age(3 * time.Hour)
	c.wantEth1(t, "the end", p, func() { c.end(t, p, p.server, p.client) })
}

// timeWait has the server close a connection first, and repeats to it what the client sent at the end, as if its
// acknowledgement had been lost: what is left of the connection answers by eth1.
func (c bed) timeWait(t *testing.T, f topology.Family) {
	exits := wire.TapAll(t, c.eth1.nics...)
	p := c.connected(t, f)
	c.end(t, p, p.server, p.client)
	if left := host.Shell(t, c.Server.Host, fmt.Sprintf("ss -Htan state time-wait 'sport = %d'", p.port())); left == "" {
		t.Fatal("nothing is left of the connection")
	}
	fins := exits.Came(c.Server.Eth1, topology.All(topology.ToPort(p.port()), topology.Flags(topology.FIN, topology.FIN)))
	if len(fins) == 0 {
		t.Fatal("the client has sent no FIN")
	}
	c.p.In(t).Age(30 * time.Second)
	again := wire.TapAll(t, c.eth1.nics...)
	traffic.NewInjector(t, c.Server.Eth1.Peer()).SendAgain(fins[0])
	wait(t, again.At(c.Server.Eth1), topology.All(p.segments, topology.Going(topology.Received)))
	c.eth1.want(again, "the answer of TIME_WAIT", p.segments)
}

// keepAlive has connections be quiet for hours, until one of their ends asks whether the other is there.
func (c bed) keepAlive(t *testing.T) {
	for name, quiet := range map[string]time.Duration{"the server": 3 * time.Hour, "the client": 30 * time.Hour} {
		pairs := []*pair{c.connected(t, topology.IPv4), c.connected(t, topology.IPv6)}
		c.p.In(t).Age(quiet)
		exits := wire.TapAll(t, c.eth1.nics...)
		for _, p := range pairs {
			asks := p.server
			if name == "the client" {
				asks = p.client
			}
			await.Must(t, asks.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: time.Second, Interval: time.Second}))
			defer func() { await.Must(t, asks.SetKeepAlive(false)) }() // otherwise it asks on
		}
		for _, p := range pairs {
			wait(t, exits.At(c.Server.Eth1), topology.All(p.segments, topology.Going(topology.Received)))
			p.goOn(t)
			c.eth1.want(exits, name+" asks", p.segments)
		}
	}
}

// TestOpenBefore takes over connections that are older than the start, however
// they were opened: the first answer leaves by eth1. One end may have closed before.
func TestOpenBefore(t *testing.T) {
	c := newCorners(t)
	c.start(t)
	open := make(map[string]*pair)
	for name, d := range map[string]dialect{
		"plain": {}, "wildcard": {wildcard: true}, "fast open": fastOpen, "syn cookies": {},
	} {
		use, before := "1", cookiesOf(t, c.Server.Host)
		if name == "syn cookies" {
			use = "2"
		}
		await.Must(t, c.Server.SetSysctl("net/ipv4/tcp_syncookies", use))
		for _, f := range traffic.Families {
			l := c.listen(t, f, d)
			for range 2 { // the first asks for the cookie of Fast Open
				p := c.dial(t, f, l, d)
				await.Must1[int](t)(p.client.Write([]byte("x")))
				p.accept(t, l)
				await.Must1[int](t)(p.server.Read(make([]byte, 1)))
				open[name+"/"+f.String()] = p
			}
		}
		if name == "syn cookies" {
			before.wantMore(t, c.Server.Host, 2*len(traffic.Families))
		}
	}
	closed := make(map[topology.Family]halves)
	for _, f := range traffic.Families {
		byServer, byClient := c.connected(t, f), c.connected(t, f)
		closed[f] = halves{
			c.closeHalf(t, byServer, byServer.server, byServer.client, "fin-wait-2"),
			c.closeHalf(t, byClient, byClient.client, byClient.server, "close-wait"),
		}
	}
	c.p.Expect(0, "detach", "--stop")
	for _, f := range traffic.Families {
		c.wantHalvesRouted(t, closed[f])
	}
	c.p.Start("--config", product.WriteConfig(t, "related: false\n"))
	for name, p := range open {
		t.Run(name, func(t *testing.T) {
			c.wantEth1(t, "the next answer", p, func() { p.goOn(t) })
		})
	}
	for _, f := range traffic.Families {
		t.Run("closed by the server/"+f.String(), func(t *testing.T) { c.testFinWait(t, closed[f].byServer) })
		t.Run("closed by the client/"+f.String(), func(t *testing.T) { c.testCloseWait(t, closed[f].byClient) })
	}
}

// TestSimultaneousOpen has both ends open the connection. The client's SYN comes to a server that has sent one itself:
// the host opened it, so that it goes as routed.
func TestSimultaneousOpen(t *testing.T) {
	n := traffic.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.AnySource})
	product.On(t, n.Server.Host).Start("--config", product.WriteConfig(t, "related: false\n"))
	host.Nft(t, n.Core.Host, `table inet delay { # the server's SYN is lost
		chain forward { type filter hook forward priority filter
			tcp sport 9001 tcp flags & (syn | ack) == syn drop
		}
	}`)
	for _, f := range traffic.Families {
		t.Run(f.String(), func(t *testing.T) { testSimultaneousOpen(t, n, f) })
	}
}

func testSimultaneousOpen(t *testing.T, n *topology.TwoNIC, f topology.Family) {
	server := netip.AddrPortFrom(n.Server.Eth1.Address(f), 9001)
	client := netip.AddrPortFrom(n.ClientEth0.Address(f), 9002)
	exits := wire.TapAll(t, n.Server.NICs()...)
	var a, b net.Conn
	var opened errgroup.Group
	ctx := await.Within(t, await.AnswerTime)
	opened.Go(func() (err error) {
		a, err = n.Server.Dial(ctx, "tcp", client.String(), topology.FromAddress(server))
		return err
	})
	syn := topology.All(topology.FromPort(server.Port()), topology.Flags(topology.SYN|topology.ACK, topology.SYN))
	wait(t, exits.At(n.Server.Eth0), syn)
	b = await.Must1[net.Conn](t)(n.Client.Dial(ctx, "tcp", server.String(), topology.FromAddress(client)))
	defer b.Close()
	await.Must(t, opened.Wait())
	defer a.Close()

	after := wire.TapAll(t, n.Server.NICs()...)
	for range 10 {
		talk(t, a, b)
		talk(t, b, a)
	}
	segments := topology.All(topology.TCP, topology.FromPort(server.Port()))
	after.Want("a connection that both opened", segments, n.Server.Eth0, n.Server.Eth0.Peer().MAC)
	answer := topology.All(segments, topology.Flags(topology.SYN|topology.ACK, topology.SYN|topology.ACK))
	if len(exits.Left(n.Server.Eth0, answer))+len(exits.Left(n.Server.Eth1, answer)) == 0 {
		t.Error("the server has sent no SYN-ACK: only it has opened the connection")
	}
}

// half is a connection that one of its ends has closed, which the other has heard.
type half struct {
	*pair
	// fin is the one that has been sent, as it came to the server or left it.
	fin *topology.Frame
}

// halves are of one family.
type halves struct{ byServer, byClient half }

// closeHalf has one end close, and waits until the server's socket is in the state of that.
func (c bed) closeHalf(t *testing.T, p *pair, quiet, speaks *net.TCPConn, state string) half {
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
func (c bed) wantRouted(t *testing.T, what string, h half, run func()) {
	t.Helper()
	exits, eth0 := wire.TapAll(t, c.eth1.nics...), exitBy(c.Server, c.Server.Eth0)
	run()
	wait(t, exits.At(eth0.by), topology.All(h.segments, topology.Going(topology.Received)))
	eth0.want(exits, what, h.segments)
}

// wantHalvesRouted is the control.
func (c bed) wantHalvesRouted(t *testing.T, of halves) {
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
func (c bed) testFinWait(t *testing.T, h half) {
	c.wantEth1(t, "what acknowledges the client's data and FIN", h.pair, func() {
		push(t, h.client, h.server)
		c.end(t, h.pair, h.client, h.server)
	})
}

// testCloseWait has a server go on sending to a client that has closed (CLOSE_WAIT). Nothing tells that the server's
// segments are answers before one of the client's comes in, which has nothing to say by itself: they go as routed
// until then, which is what the kernel would do. As soon as it repeats its FIN, everything leaves by eth1.
func (c bed) testCloseWait(t *testing.T, h half) {
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
