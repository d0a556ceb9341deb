// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"net"
	"net/netip"
	"testing"

	"replypath/test/harness"
	"replypath/test/topology"
)

const (
	// evictions are more flows than the smallest tables have room for.
	evictions = 3000
	// others are as many peers as leave no note about another in the smallest table of
	// them: 30 for each of its sets of eight.
	others = 1500
)

// eachEvicting runs a subtest for each family, with tables as small as they can be.
func eachEvicting(t *testing.T, run func(*testing.T, *topology.TwoNIC, *harness.Product, topology.Family)) {
	n := harness.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.AnySource})
	p := harness.On(t, n.Server.Host)
	p.Start("--config", harness.WriteConfig(t, harness.SmallTables))
	waitForBeginnings(t, n)
	for _, f := range harness.Families {
		t.Run(f.String(), func(t *testing.T) { run(t, n, p.In(t), f) })
	}
}

// TestSymmetricEvicted has a client speak first, and then so many others that its
// flow is pushed out of the table: it is still the client who spoke first.
func TestSymmetricEvicted(t *testing.T) {
	eachEvicting(t, func(t *testing.T, n *topology.TwoNIC, p *harness.Product, f topology.Family) {
		pair := newEquals(t, n, f, symmetricPorts["corosync"])
		pair.clientSpeaks()
		pair.want(true)
		for range evictions {
			c := harness.NewConversation(t, harness.UDP, n.ClientEth0, n.Server.Eth1.Address(f))
			for range 2 { // one question is soon forgotten anyway
				harness.Ask(t, c)
			}
			harness.Must(t, c.Close())
		}
		wantForgotten(t, p, pair)
		pair.want(true)
	})
}

// wantForgotten wants a pair's flow to have no entry any more.
func wantForgotten(t *testing.T, p *harness.Product, pair *equals) {
	t.Helper()
	for _, flow := range p.Flows("--protocol", "udp") {
		if flow.PeerPort == pair.clientAt.Port() && flow.SelfPort == pair.serverAt.Port() && flow.Peer == pair.clientAt.Addr().String() {
			t.Fatalf("after %d others, the flow is still there: %s", evictions, flow)
		}
	}
}

// begun are two pairs in which the server spoke first and was answered.
type begun struct {
	// The server goes on with the one, the client with the other.
	byServer, byClient *equals
}

func begin(t *testing.T, n *topology.TwoNIC, f topology.Family) begun {
	t.Helper()
	b := begun{newEquals(t, n, f, symmetricPorts["corosync"]), newEquals(t, n, f, symmetricPorts["ike"])}
	for _, pair := range []*equals{b.byServer, b.byClient} {
		pair.serverSpeaks()
		pair.want(false)
	}
	return b
}

// ofNotes is how the metrics name the notes of what the host began.
const ofNotes = "table=outbound"

// noted counts the notes that were made, pushedOut those that made room.
func noted(m harness.Metrics) float64     { return m.Sum("replypath_flow_admissions_total", ofNotes) }
func pushedOut(m harness.Metrics) float64 { return m.Sum("replypath_flow_evictions_total", ofNotes) }

// TestSymmetricScan has the server speak first and be answered, and then speak to so
// many who do not answer that there is no room for notes of all of them. That it
// began to speak with who answered stays known.
func TestSymmetricScan(t *testing.T) {
	eachEvicting(t, func(t *testing.T, n *topology.TwoNIC, p *harness.Product, f topology.Family) {
		pairs := begin(t, n, f)
		before := p.Metrics()
		if capacity := before.Sum("replypath_flow_table_capacity", ofNotes); capacity == 0 || capacity >= others {
			t.Errorf("by the metrics there is room for %v notes, for %d others", capacity, others)
		}
		for port := range uint16(others) {
			to := net.UDPAddrFromAddrPort(netip.AddrPortFrom(pairs.byServer.clientAt.Addr(), 40_000+port))
			harness.Must1[int](t)(pairs.byServer.server.WriteTo([]byte("datagram"), to))
		}
		after := p.Metrics()
		if more := noted(after) - noted(before); more != others {
			t.Errorf("%v more notes, of %d others", more, others)
		}
		if more := pushedOut(after) - pushedOut(before); more == 0 || more > others {
			t.Errorf("%v notes were pushed out, by %d others", more, others)
		}
		pairs.byServer.serverSpeaks()
		pairs.byServer.want(false)
		pairs.byClient.clientSpeaks()
		pairs.byClient.want(false)
		if more := noted(p.Metrics()) - noted(after); more != 0 {
			t.Errorf("%v more notes: it was not known any more that the server spoke first", more)
		}
	})
}

// TestSymmetricBegunEvicted has the server speak first and be answered, and then
// speak to so many who all answer that there is no room for the note about it.
// Whoever speaks next: that the server began is noted anew.
func TestSymmetricBegunEvicted(t *testing.T) {
	eachEvicting(t, func(t *testing.T, n *topology.TwoNIC, p *harness.Product, f topology.Family) {
		pairs := begin(t, n, f)
		for port := range uint16(others) {
			pairs.byServer.exchangeWith(netip.AddrPortFrom(pairs.byServer.clientAt.Addr(), 40_000+port))
		}
		for pair, speak := range map[*equals]func(){
			pairs.byServer: pairs.byServer.serverSpeaks, pairs.byClient: pairs.byClient.clientSpeaks,
		} {
			before := noted(p.Metrics())
			speak()
			if more := noted(p.Metrics()) - before; more != 1 {
				t.Errorf("%v more notes, not one", more)
			}
			pair.want(false)
		}
	})
}

// exchangeWith has the server speak to another socket of the client's, which answers.
func (p *equals) exchangeWith(other netip.AddrPort) {
	p.t.Helper()
	conn := harness.Must1[net.PacketConn](p.t)(p.n.Client.ListenPacket(p.t.Context(), "udp", other.String()))
	defer conn.Close()
	p.hand(p.server, conn, other)
	p.hand(conn, p.server, p.serverAt)
}
