// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/product"
	"replypath/test/short"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// explained runs `replypath explain` for the answers of a conversation.
func explained(t *testing.T, p *product.Product, c *traffic.Conversation, args ...string) *product.Explanation {
	t.Helper()
	peer, self := c.Peer.String(), c.Self.String()
	if c.Self.Port() == 0 {
		self = c.Self.Addr().String()
	}
	return p.In(t).Explain(append([]string{"--peer", peer, "--self", self, "--protocol", c.Protocol()}, args...)...)
}

// wantVerdict wants a verdict with a reason, "" for none.
func wantVerdict(t *testing.T, e *product.Explanation, verdict, reason string) {
	t.Helper()
	if got := product.OrEmpty(e.Reason); e.Verdict != verdict || got != reason {
		t.Errorf("explain says %s %q, not %s %q: %s", e.Verdict, got, verdict, reason, e)
	}
}

// wantTrue asks once more and wants the answers to leave as explain says.
func wantTrue(t *testing.T, e *product.Explanation, server *topology.Server, c *traffic.Conversation) {
	t.Helper()
	wires := wire.Tap(t, server)
	traffic.Ask(t, c)
	eth0, eth1 := wires.Left(c.Answers())
	var left []*topology.Frame
	switch product.OrEmpty(e.LeavesBy) {
	case "eth0":
		left = wires.WantEth0("as explained", c.Answers())
	case "eth1":
		left = wires.WantEth1("as explained", c.Answers())
	default:
		t.Errorf("explain has the packet leave nowhere: %s; captured: %s, %s", e, wire.Describe(eth0), wire.Describe(eth1))
		return
	}
	want := e.Kernel.NextHopMAC
	if e.Verdict == "corrected" {
		want = e.Replypath.NextHopMAC
	}
	for _, frame := range left {
		await.Same(t, "MAC that explain says", frame.DestinationMAC.String(), product.OrEmpty(want))
	}
}

// wantDetail wants words in the sentence for people.
func wantDetail(t *testing.T, e *product.Explanation, words string) {
	t.Helper()
	await.Says(t, e.String(), e.Detail, words)
}

// TestExplain compares what explain says with the frames that leave, for each kind of question, verdict and reason.
func TestExplain(t *testing.T) {
	n := traffic.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.AnySource})
	server := n.Server
	traffic.ServeNICs(t, server.Eth0)
	host.Shell(t, server.Host, "ip link add nic9 type veth peer name nic8")
	p, d := product.StartOn(t, server.Host, "--config", product.WriteConfig(t, "related: false\n"))
	d.Kill()
	eachQuestion := func(name string, ask func(*testing.T, topology.Family, traffic.Kind)) { // a quick run has each kind once
		t.Helper()
		quick := short.Run(t)
		for i, kind := range traffic.Kinds {
			for j, f := range traffic.Families {
				if !quick || i%2 == j {
					t.Run(name+"/"+f.String()+"/"+string(kind), func(t *testing.T) { ask(t, f, kind) })
				}
			}
		}
	}
	eachQuestion("without a daemon", func(t *testing.T, f topology.Family, kind traffic.Kind) {
		for at, verdict := range map[*topology.Interface]string{server.Eth0: "already-right", server.Eth1: "corrected"} {
			explainWithAndWithoutFlow(t, server, p.In(t), traffic.NewConversation(t, kind, n.ClientEth0, at.Address(f)), verdict)
		}
	})

	d = p.Start("--config", d.Config)
	t.Run("several", func(t *testing.T) { testExplainSeveral(t, n, p.In(t)) })
	for _, f := range traffic.Families {
		t.Run("unknown gateway/"+f.String(), func(t *testing.T) { testExplainUnknown(t, n, p.In(t), f) })
		t.Run("bound listener/"+f.String(), func(t *testing.T) { testExplainBoundListener(t, n, p.In(t), f) })
		t.Run("dropped question/"+f.String(), func(t *testing.T) { testExplainDropped(t, n, p.In(t), f) })
	}
	d.Reconfigure("exclude: [{protocol: udp, self_port: 51820}, 10.9.0.77, 2001:db8:9::77]\nfallback_route: false\nrelated: false\n")
	for _, f := range traffic.Families {
		t.Run("why/"+f.String(), func(t *testing.T) { testExplainWhy(t, n, p.In(t), f) })
		t.Run("fallback/"+f.String(), func(t *testing.T) { testExplainFallback(t, n, p.In(t), f) })
	}
	d.Reconfigure("interfaces: [{name: eth0}, {name: eth1, next_hop: last-hop}]\nrelated: false\n")
	for _, f := range traffic.Families {
		t.Run("own interface/"+f.String(), func(t *testing.T) { testExplainOwnInterface(t, n, p.In(t), f) })
	}

	d.Reconfigure("related: false\n")
	for _, f := range traffic.Families {
		await.Must(t, server.Host.AddRoute(topology.Route{Via: server.Eth1.Gateway(f), Metric: 2000}))
		for _, network := range []string{"tcp", "udp"} {
			t.Run("bound/"+f.String()+"/"+network, func(t *testing.T) { testExplainBound(t, n, p.In(t), f, network) })
		}
	}
	eachQuestion("if it came in", func(t *testing.T, f topology.Family, kind traffic.Kind) {
		testExplainIfItCameIn(t, n, p.In(t), traffic.NewConversation(t, kind, n.ClientEth0, server.Eth1.Address(f)))
	})
	p.Expect(0, "mode", "observe")
	c := traffic.NewConversation(t, traffic.UDP, n.ClientEth0, server.Eth1.Address(topology.IPv4))
	wantVerdict(t, explained(t, p, c, "--interface", "eth1"), "fallback", "observe")
	p.Expect(1, "explain", "--peer", c.Peer.String(), "--self", c.Self.String(), "--interface", "eht1")
}

// explainWithAndWithoutFlow asks before and after there is a flow.
func explainWithAndWithoutFlow(t *testing.T, server *topology.Server, p *product.Product, c *traffic.Conversation, verdict string) {
	t.Helper()
	at := map[string]string{"already-right": "eth0", "corrected": "eth1"}[verdict]
	e := explained(t, p, c)
	wantVerdict(t, e, "no-flow", "")
	gateway := server.Eth0.Gateway(topology.FamilyOf(c.Self.Addr())).String()
	if product.OrEmpty(e.LeavesBy) != "eth0" || product.OrEmpty(e.Kernel.Gateway) != gateway {
		t.Errorf("without a flow: %s", e)
	}
	traffic.Ask(t, c)
	e = explained(t, p, c)
	wantVerdict(t, e, verdict, "")
	if product.OrEmpty(e.Kernel.Interface) != "eth0" || product.OrEmpty(e.Replypath.Interface) != at {
		t.Errorf("interfaces: %s", e)
	}
	wantTrue(t, e, server, c)
}

// testExplainIfItCameIn: without a flow, --interface tells what becomes of the reply if the question
// comes in there, as the frames show afterwards. Of a recorded flow it changes nothing.
func testExplainIfItCameIn(t *testing.T, n *topology.TwoNIC, p *product.Product, c *traffic.Conversation) {
	wantVerdict(t, explained(t, p, c), "no-flow", "")
	e := explained(t, p, c, "--interface", "eth0")
	wantVerdict(t, e, "already-right", "")
	wantDetail(t, e, "no flow is recorded; if it arrived by eth0: ")
	await.Eventually(t, "the gateway of eth1 is known", func() error {
		if e = explained(t, p, c, "--interface", "eth1"); e.Replypath.NextHopMAC == nil {
			return fmt.Errorf("no next hop: %s", e)
		}
		return nil
	})
	wantVerdict(t, e, "corrected", "")
	wantDetail(t, e, "no flow is recorded; if it arrived by eth1: ")
	if product.OrEmpty(e.Kernel.Interface) != "eth0" || product.OrEmpty(e.Replypath.Interface) != "eth1" {
		t.Errorf("interfaces: %s", e)
	}
	wantVerdict(t, explained(t, p, c, "--interface", "nic9"), "no-flow", "unmanaged")
	wantTrue(t, e, n.Server, c)

	for _, name := range []string{"eth0", "eth1"} {
		e := explained(t, p, c, "--interface", name)
		wantVerdict(t, e, "corrected", "")
		await.Same(t, "where it leaves, asked about "+name, "eth1", product.OrEmpty(e.LeavesBy))
		if name == "eth0" {
			wantDetail(t, e, "; the flow arrived by eth1, not by eth0")
		}
		wantTrue(t, e, n.Server, c)
	}
}

// testExplainUnknown: where any router may send the frame, its MAC is not known before.
func testExplainUnknown(t *testing.T, n *topology.TwoNIC, p *product.Product, f topology.Family) {
	c := traffic.NewConversation(t, traffic.UDP, n.ClientEth0, n.Server.Eth1.Address(f))
	e := explained(t, p, c, "--interface", "eth1")
	wantVerdict(t, e, "corrected", "")
	if e.Replypath.NextHopMAC != nil || product.OrEmpty(e.LeavesBy) != "eth1" {
		t.Errorf("without a known gateway: %s", e)
	}
	traffic.Ask(t, c)
	if e := explained(t, p, c, "--interface", "eth1"); e.Replypath.NextHopMAC == nil {
		t.Errorf("with a flow: %s", e)
	}
}

// testExplainFallback has replypath leave replies alone, for every reason that a host with two NICs has.
func testExplainFallback(t *testing.T, n *topology.TwoNIC, p *product.Product, f topology.Family) {
	c := traffic.NewConversation(t, traffic.UDP, n.ClientEth0, n.Server.Eth1.Address(f))
	traffic.Ask(t, c)
	p.Expect(0, "mode", "observe")
	e := explained(t, p, c)
	wantVerdict(t, e, "fallback", "observe")
	wantTrue(t, e, n.Server, c)
	p.Expect(0, "mode", "enforce")

	route := topology.Route{Via: n.Server.Eth0.Gateway(f)}
	await.Must(t, n.Server.RemoveRoute(route))
	e = explained(t, p, c)
	wantVerdict(t, e, "fallback", "no_route")
	if e.LeavesBy != nil || e.Kernel.Interface != nil || e.Kernel.Error == nil {
		t.Errorf("without a route: %s", e)
	}
	await.Must(t, n.Server.AddRoute(route))
	e = explained(t, p, c)
	wantVerdict(t, e, "corrected", "")
	wantTrue(t, e, n.Server, c)
}

// testExplainOwnInterface has the kernel choose the flow's interface, but another next hop there.
func testExplainOwnInterface(t *testing.T, n *topology.TwoNIC, p *product.Product, f topology.Family) {
	eth1, client := n.Server.Eth1, n.ClientEth0.Address(f)
	other := eth1.Gateway(f).Next().Next()
	await.Must(t, eth1.AddNeighbour(other, net.HardwareAddr{2, 0, 0, 0, 0x77, 0}))
	route := topology.Route{Destination: netip.PrefixFrom(client, client.BitLen()), Via: other}
	await.Must(t, n.Server.AddRoute(route))
	c := traffic.NewConversation(t, traffic.UDP, n.ClientEth0, eth1.Address(f))
	traffic.Ask(t, c)
	e := explained(t, p, c)
	wantVerdict(t, e, "corrected", "")
	if product.OrEmpty(e.Kernel.Interface) != "eth1" || product.OrEmpty(e.Kernel.Gateway) != other.String() {
		t.Errorf("the kernel's choice: %s", e)
	}
	wantTrue(t, e, n.Server, c)
	p.Expect(0, "mode", "observe")
	wantVerdict(t, explained(t, p, c), "fallback", "observe")
	p.Expect(0, "mode", "enforce")
	await.Must(t, n.Server.RemoveRoute(route))
}

// testExplainBound asks about sockets that are bound to the device of the route: the program finds out by itself.
func testExplainBound(t *testing.T, n *topology.TwoNIC, p *product.Product, f topology.Family, network string) {
	ctx := await.Within(t, await.AnswerTime)
	self := netip.AddrPortFrom(n.Server.Eth1.Address(f), 6000)
	traffic.ServeAt(t, n.Server.Host, self, topology.BindToDevice("eth1"))
	conn := await.Must1[net.Conn](t)(n.Client.Dial(ctx, network, self.String()))
	defer conn.Close()
	await.Must1[int](t)(conn.Write([]byte("question")))
	await.Eventually(t, "the flow is known", func() error {
		e := p.Explain("--peer", conn.LocalAddr().String(), "--self", self.String(), "--protocol", network)
		if e.Verdict != "already-right" || product.OrEmpty(e.Kernel.Interface) != "eth1" {
			return fmt.Errorf("the kernel sends by the bound device: %s", e)
		}
		return nil
	})
}

// testExplainBoundListener: a listener that is bound to the other device sends nothing. The RST of the port that is closed
// here goes by the flow's interface.
func testExplainBoundListener(t *testing.T, n *topology.TwoNIC, p *product.Product, f topology.Family) {
	ctx := await.Within(t, await.AnswerTime)
	self := netip.AddrPortFrom(n.Server.Eth1.Address(f), 6001)
	l := await.Must1[net.Listener](t)(n.Server.Listen(ctx, "tcp", self.String(), topology.BindToDevice("eth0")))
	defer l.Close()
	wires := wire.Tap(t, n.Server)
	if conn, err := n.Client.Dial(ctx, "tcp", self.String()); err == nil {
		conn.Close()
		t.Fatal("somebody has accepted a connection by eth1")
	}
	wires.WantEth1("the RST", topology.All(topology.From(self.Addr()), topology.Flags(topology.RST, topology.RST)))
	e := p.Explain("--peer", n.ClientEth0.Address(f).String(), "--self", self.String(), "--protocol", "tcp")
	wantVerdict(t, e, "corrected", "")
}

// testExplainDropped has a filter drop the question behind the programs: nothing leaves, and explain claims no reply. Once
// the question is let by, the answer leaves by eth1 and is told of.
func testExplainDropped(t *testing.T, n *topology.TwoNIC, p *product.Product, f topology.Family) {
	host.Nft(t, n.Server.Host, `table inet deaf { chain input { type filter hook input priority filter
		iif eth1 meta l4proto udp drop
	}
	}`)
	c := traffic.NewConversation(t, traffic.UDP, n.ClientEth0, n.Server.Eth1.Address(f))
	wires := wire.Tap(t, n.Server)
	err := c.Ask(await.Within(t, await.SilenceTime))
	host.Shell(t, n.Server.Host, "nft delete table inet deaf")
	if err == nil {
		t.Fatal("a question was answered that a filter drops")
	}
	if eth0, eth1 := wires.Left(c.Answers()); len(eth0)+len(eth1) > 0 {
		t.Errorf("answers to a question that a filter drops: %s, %s", wire.Describe(eth0), wire.Describe(eth1))
	}
	e := explained(t, p, c)
	wantVerdict(t, e, "corrected", "")
	wantDetail(t, e, "would leave by eth1")
	wantDetail(t, e, "; none was seen leaving so yet")
	await.Same(t, "when it was seen leaving, as nothing was answered", nil, e.Seen)
	traffic.Ask(t, c)
	wires.WantEth1("once the filter is gone", c.Answers())
	if e = explained(t, p, c); e.Seen == nil || time.Since(*e.Seen) > await.AnswerTime {
		t.Errorf("seen leaving at %v, not just now", e.Seen)
	}
}

// wantUnmoved returns what wants the counters to be as they are now.
func wantUnmoved(t *testing.T, p *product.Product) func() {
	counters := func() map[string]float64 {
		all, sums := p.Metrics(), make(map[string]float64)
		for name := range all {
			if strings.HasPrefix(name, "replypath_") && strings.HasSuffix(name, "_total") {
				sums[name] = all.Sum(name)
			}
		}
		return sums
	}
	before := counters()
	return func() { await.Same(t, "counters", before, counters()) }
}

// testExplainWhy asks about packets that belong to no flow.
func testExplainWhy(t *testing.T, n *topology.TwoNIC, p *product.Product, f topology.Family) {
	p.Expect(0, "flows", "flush")
	client, own := n.ClientEth0.Address(f), n.Server.Eth1.Address(f)
	peer, self := client.String(), own.String()
	selfAt := func(port uint16) string { return netip.AddrPortFrom(own, port).String() }
	traffic.ServeAt(t, n.Client, netip.AddrPortFrom(client, clientPort))
	udp, tcp := askedByHost(t, n, "udp", f), askedByHost(t, n, "tcp", f)
	defer wantUnmoved(t, p)()
	for _, question := range []struct {
		peer, self, protocol string
		verdict, reason      string
	}{
		{peer, self, "", "no-flow", ""},
		{peer, self, "gre", "no-flow", "protocol"},
		{netip.AddrPortFrom(client, 67).String(), selfAt(67), "udp", "no-flow", ""},
		{self, self, "tcp", "no-flow", "source"},
		{addresses("169.254.0.1", "fe80::1")[f].String(), self, "tcp", "no-flow", "source"},
		{self, peer, "tcp", "no-flow", "source"}, // nothing is forwarded here: each address that is asked is the host's
		{addresses("10.9.0.77", "2001:db8:9::77")[f].String(), self, "tcp", "excluded", ""},
		{peer, selfAt(51820), "udp", "excluded", ""},
		{peer, selfAt(51820), "tcp", "no-flow", ""},
		{udp.RemoteAddr().String(), udp.LocalAddr().String(), "udp", "local-origin", ""},
		{udp.RemoteAddr().String(), udp.LocalAddr().String(), "", "local-origin", ""},
		{tcp.RemoteAddr().String(), tcp.LocalAddr().String(), "tcp", "local-origin", ""},
	} {
		args := []string{"--peer", question.peer, "--self", question.self}
		if question.protocol != "" {
			args = append(args, "--protocol", question.protocol)
		}
		wantVerdict(t, p.Explain(args...), question.verdict, question.reason)
	}
}

// clientPort is where the client answers.
const clientPort = 7008

// askedByHost has the server ask the client from eth1's address, by a socket that stays open.
func askedByHost(t *testing.T, n *topology.TwoNIC, network string, f topology.Family) net.Conn {
	t.Helper()
	to := netip.AddrPortFrom(n.ClientEth0.Address(f), clientPort)
	from := topology.FromAddress(netip.AddrPortFrom(n.Server.Eth1.Address(f), 0))
	conn := await.Must1[net.Conn](t)(n.Server.Dial(await.Within(t, await.AnswerTime), network, to.String(), from))
	t.Cleanup(func() { conn.Close() })
	askDatagram(t, conn)
	return conn
}

// testExplainSeveral leaves the ports open: all flows between two addresses are explained, the latest first.
func testExplainSeveral(t *testing.T, n *topology.TwoNIC, p *product.Product) {
	p.Expect(0, "flows", "flush")
	closed := traffic.NewConversation(t, traffic.TCP, n.ClientEth0, n.Server.Eth1.Address(topology.IPv4))
	traffic.Ask(t, closed)
	closed.Close()
	var last *traffic.Conversation
	for _, kind := range []traffic.Kind{traffic.TCP, traffic.UDP, traffic.Ping} {
		last = traffic.NewConversation(t, kind, n.ClientEth0, n.Server.Eth1.Address(topology.IPv4))
		traffic.Ask(t, last)
	}
	defer wantUnmoved(t, p)()
	between := []string{"--peer", last.Peer.Addr().String(), "--self", last.Self.Addr().String()}
	e := p.Explain(between...)
	await.Same(t, "flows besides the first", 3, len(e.Others))
	for _, explanation := range append(e.Others, *e) {
		wantVerdict(t, &explanation, "corrected", "")
	}
	e = p.Explain(append(between, "--limit", "2")...)
	if len(e.Others) != 1 || e.Matches != 4 {
		t.Errorf("with --limit 2: %s", e)
	}
	e = p.Explain(append(between, "--protocol", "tcp")...)
	if len(e.Others) != 1 || product.OrEmpty(e.Protocol) != "tcp" {
		t.Errorf("both TCP connections: %s", e)
	}
	stranger := p.Explain("--peer", last.Peer.Addr().String(), "--self", "10.99.0.1:5432")
	wantVerdict(t, stranger, "no-flow", "")
	wantDetail(t, stranger, "10.99.0.1 is no address of this host")
	await.Eventually(t, "explain says that a flow closes", func() error {
		if text := p.Expect(0, "explain", "--peer", closed.Peer.String(), "--self", closed.Self.String()).Stdout; !strings.Contains(text, "closing, age ") {
			return errors.New(text)
		}
		return nil
	})
}
