package restarts

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"replypath/test/harness"
	"replypath/test/restarts/builds"
	"replypath/test/topology"
)

// deferred is a conversation in which the server answers when it is told to.
type deferred struct {
	t      *testing.T
	server net.PacketConn
	client net.Conn
	from   net.Addr // of the question
}

const deferredPort = 4711

// newDeferred has the server receive a question.
func newDeferred(t *testing.T, n *topology.TwoNIC, f topology.Family) *deferred {
	t.Helper()
	at := netip.AddrPortFrom(n.Server.Eth1.Address(f), deferredPort).String()
	d := &deferred{
		t:      t,
		server: harness.Must1[net.PacketConn](t)(n.Server.Host.ListenPacket(t.Context(), "udp", at)),
		client: harness.Must1[net.Conn](t)(n.Client.Dial(t.Context(), "udp", at)),
	}
	t.Cleanup(func() { d.server.Close() })
	t.Cleanup(func() { d.client.Close() })
	harness.Must1[int](t)(d.client.Write([]byte("question")))
	harness.Must(t, d.server.SetReadDeadline(time.Now().Add(harness.AnswerTime)))
	var err error
	_, d.from, err = d.server.ReadFrom(make([]byte, 64))
	harness.Must(t, err)
	return d
}

// answer returns when the client has it.
func (d *deferred) answer() {
	d.t.Helper()
	harness.Must1[int](d.t)(d.server.WriteTo([]byte("answer"), d.from))
	harness.Must(d.t, d.client.SetReadDeadline(time.Now().Add(harness.AnswerTime)))
	harness.Must1[int](d.t)(d.client.Read(make([]byte, 64)))
}

// TestEarlierIsAsked replaces the tables by others of another layout, which hold
// nothing, between questions and their answers: these go the way of the questions. They
// go as routed once nobody asks the tables of before, which are freed. The others' load
// could delay the answers for that long.
func TestEarlierIsAsked(t *testing.T) {
	other := binaryOf(t, &builds.OtherLayout)
	n := newServer(t)
	p := harness.On(t, n.Server.Host)
	d := p.Start()
	var all []*deferred
	for _, f := range n.Families() {
		all = append(all, newDeferred(t, n, f))
	}
	wires := harness.Tap(t, n.Server)
	answers := topology.All(topology.UDP, topology.FromPort(deferredPort))
	use := watchUse(t, p, d)
	d.Kill()
	startBuild(p, other)
	for _, c := range all {
		c.answer()
	}
	asked := wires.WantEth1("the answers", answers)
	use.wantTablesGone()
	for _, c := range all {
		c.answer()
	}
	eth0, eth1 := wires.Left(answers)
	if len(eth0) != len(all) {
		t.Errorf("%d of %d answers go as routed", len(eth0), len(all))
	}
	t.Logf("%d questions: %d answers by eth1 while the tables of before are asked; once those are freed %d by eth0, %d by eth1",
		len(all), len(asked), len(eth0), len(eth1)-len(asked))
}
