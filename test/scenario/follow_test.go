// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/gopacket/gopacket/layers"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// other returns the other exit.
func (m bed) other(than exit) exit {
	if than.by == m.eth0.by {
		return m.eth1
	}
	return m.eth0
}

// bring has the network bring questions for an address of the server by one of
// its NICs.
func (m bed) bring(t *testing.T, asked netip.Addr, by exit) {
	t.Helper()
	f := topology.FamilyOf(asked)
	router, via := m.Production, addresses("10.11.0.2", "2001:db8:11::2")[f]
	if by.by == m.eth1.by {
		router, via = m.Replication, addresses("10.12.0.2", "2001:db8:12::2")[f]
	}
	host.Shell(t, m.Core.Host, fmt.Sprintf("ip route replace %s via %s", asked, via))
	if neighbour := by.by.Address(f); neighbour != asked {
		host.Shell(t, router.Host, fmt.Sprintf("ip route replace %s via %s", asked, neighbour))
	}
}

// moved are how many flows have moved, and how many moves were refused.
type moved struct{ moved, contested, pinned float64 }

func (m bed) moved() moved {
	metrics := m.p.Metrics()
	refused := func(reason string) float64 {
		return metrics.Sum("replypath_flow_moves_refused_total", "reason="+reason)
	}
	return moved{metrics.Sum("replypath_flow_moves_total"), refused("contested"), refused("pinned")}
}

// wantMoved wants so many flows to have moved since then, and so many moves to have been contested.
func (m bed) wantMoved(t *testing.T, since moved, count, contested int) {
	t.Helper()
	want := moved{since.moved + float64(count), since.contested + float64(contested), since.pinned}
	if now := m.moved(); now != want {
		t.Errorf("counted %+v, not %+v", now, want)
	}
}

// eachMove runs a test for each family, kind and NIC that is asked first. The conversation has been answered by that NIC
// then.
func (m bed) eachMove(t *testing.T, test func(*testing.T, bed, *traffic.Conversation, exit)) {
	for _, from := range []exit{m.eth0, m.eth1} {
		traffic.EachQuestion(t, "from "+from.by.Name, func(t *testing.T, f topology.Family, kind traffic.Kind) {
			here := m
			here.p = m.p.In(t)
			asked := from.by.Address(f)
			here.bring(t, asked, from)
			c := traffic.NewConversation(t, kind, m.ClientEth0, asked)
			from.askBy(t, c)
			test(t, here, c, from)
			await.Must(t, c.Close()) // or an acknowledgement that comes late counts elsewhere
		})
	}
}

// TestFollow has a client's questions come by another interface, in earnest and forged, with each of the policies.
func TestFollow(t *testing.T) {
	m := newBed(t, topology.TwoNICOptions{Policy: topology.AnySource})
	traffic.ServeNICs(t, m.Server.Eth0)
	d := m.p.Start("--config", product.WriteConfig(t, product.SmallTables+"follow: pinned\n"))
	t.Run("pinned", func(t *testing.T) { m.eachMove(t, testPinned) })
	d.Reconfigure(product.SmallTables + "follow: latest\n")
	t.Run("latest", func(t *testing.T) { m.eachMove(t, testLatest) })
	t.Run("spoofed and latest", func(t *testing.T) { testSpoofedLatest(t, m) })
	d.Reconfigure(product.SmallTables)
	t.Run("validated", func(t *testing.T) { m.eachMove(t, testValidated) })
	t.Run("spoofed", func(t *testing.T) {
		for _, f := range traffic.Families {
			testSpoofed(t, m, f)
		}
	})
	t.Run("forged", func(t *testing.T) {
		for _, f := range traffic.Families {
			testForged(t, m, f)
		}
	})
	d.Reconfigure(product.SmallTables + "manage_rp_filter: false\n")
	await.Must(t, m.Server.SetSysctl("net/ipv4/conf/eth1/rp_filter", "1"))
	d.Reload() // which the programs know of then
	t.Run("strict", func(t *testing.T) {
		for _, f := range traffic.Families {
			t.Run(f.String(), func(t *testing.T) { testStrict(t, m, f) })
		}
	})
	await.Must(t, m.Server.SetSysctl("net/ipv4/conf/eth1/rp_filter", "0"))
	d.Reconfigure(product.SmallTables)
	t.Run("down", func(t *testing.T) { testDown(t, m) })
}

// testPinned keeps every flow where it began, also one whose peer has really moved, and counts that.
func testPinned(t *testing.T, m bed, c *traffic.Conversation, from exit) {
	before := m.moved()
	m.bring(t, c.Self.Addr(), m.other(from))
	for range 3 {
		from.askBy(t, c)
	}
	if now := m.moved(); now.moved != before.moved || now.pinned < before.pinned+3 {
		t.Errorf("counted %+v, after %+v", now, before)
	}
}

// testLatest has every flow follow the last packet, at once.
func testLatest(t *testing.T, m bed, c *traffic.Conversation, from exit) {
	before := m.moved()
	for i, by := range []exit{m.other(from), from, m.other(from)} {
		m.bring(t, c.Self.Addr(), by)
		by.askBy(t, c)
		m.wantMoved(t, before, i+1, 0)
	}
}

// testValidated moves a TCP connection with the first segment that comes by another NIC, there and back, as its socket
// vouches for it. What has no connection moves when the peer has come by the other NIC alone, for ten seconds and three
// times; until then it stays and is counted.
func testValidated(t *testing.T, m bed, c *traffic.Conversation, from exit) {
	before, to := m.moved(), m.other(from)
	m.bring(t, c.Self.Addr(), to)
	if c.Kind == traffic.TCP {
		to.askBy(t, c)
		m.bring(t, c.Self.Addr(), from)
		from.askBy(t, c)
		m.wantMoved(t, before, 2, 0)
		return
	}
	from.askBy(t, c)
	m.p.Age(11 * time.Second)
	from.askBy(t, c) // twice only
	m.bring(t, c.Self.Addr(), from)
	from.askBy(t, c)
	m.bring(t, c.Self.Addr(), to)
	for range 3 { // in no time, since it came as before
		from.askBy(t, c)
	}
	m.wantMoved(t, before, 0, 5)
	m.p.Age(11 * time.Second)
	to.askBy(t, c)
	m.wantMoved(t, before, 1, 5)
}

// testForged has somebody send datagrams in the name of a client that has been silent for a while, by the other NIC, and
// by the same one from another MAC. What the server then says goes to the client, and the datagrams are counted. A filter
// drops those by eth0, which the programs see before.
func testForged(t *testing.T, m bed, f topology.Family) {
	port := uint16(13_000)
	host.Nft(t, m.Server.Host, `table inet deaf { chain input { type filter hook input priority filter
		iif eth0 udp dport 13000-13100 @th,64,64 0x646174616772616d drop
	}
	}`)
	defer host.Shell(t, m.Server.Host, "nft delete table inet deaf")
	for _, at := range []exit{m.eth0, m.eth1} {
		for _, by := range []exit{m.eth0, m.eth1} {
			port++
			asked := at.by.Address(f)
			m.bring(t, asked, at)
			q := newClientOf(t, m.TwoNIC, netip.AddrPortFrom(m.ClientEth0.Address(f), port), netip.AddrPortFrom(asked, port))
			q.serve(serverSocket{})
			q.clientSpeaks()
			q.serverSpeaks()
			m.p.Age(5 * time.Second)
			before, mac := m.moved(), by.to
			if by.by == at.by {
				mac = net.HardwareAddr{2, 0xbb, 0, 0, 0, 1}
			}
			for range 2 {
				q.forgeBy(by.by, mac)
			}
			exits := wire.TapAll(t, at.nics...)
			q.serverSpeaks()
			at.want(exits, "what the server says", q.datagrams())
			m.wantMoved(t, before, 0, 2)
		}
	}
}

// testStrict has datagrams of a client, whom the host asks and answers by eth0, come by eth1, whose rp_filter is strict and
// stays so: the kernel drops those of IPv4, and they are no evidence, until it answers by eth1 itself. IPv6 has no such filter.
func testStrict(t *testing.T, m bed, f topology.Family) {
	m.p = m.p.In(t)
	asked, client := m.Server.Eth0.Address(f), m.ClientEth0.Address(f)
	m.bring(t, asked, m.eth0)
	q := newClientOf(t, m.TwoNIC, netip.AddrPortFrom(client, 13_200), netip.AddrPortFrom(asked, 13_200))
	q.serve(serverSocket{})
	q.clientSpeaks()
	q.serverSpeaks()
	comes := func(want moved) {
		t.Helper()
		for range 3 {
			before := m.moved()
			q.forgeBy(m.eth1.by, m.eth1.to)
			await.Becomes(t, "the datagram is counted", true, func() bool { return m.moved() != before })
			m.p.Age(6 * time.Second)
		}
		if got := m.moved(); got != want {
			t.Errorf("counted %+v, not %+v", got, want)
		}
	}
	says := func(at exit) {
		t.Helper()
		exits := wire.TapAll(t, at.nics...)
		q.serverSpeaks()
		at.want(exits, "what the server says", q.datagrams())
	}
	before, dropped := m.moved(), m.p.Metrics().Sum("replypath_rp_filter_drops_total")
	if f == topology.IPv6 {
		comes(moved{before.moved + 1, before.contested + 2, before.pinned})
		says(m.eth1)
		return
	}
	comes(moved{before.moved, before.contested + 3, before.pinned})
	await.Same(t, "datagrams that the kernel dropped", dropped+3, m.p.Metrics().Sum("replypath_rp_filter_drops_total"))
	says(m.eth0)
	host.Shell(t, m.Server.Host, fmt.Sprintf("ip route add %s via %s", client, m.Server.Eth1.Gateway(f)))
	defer host.Shell(t, m.Server.Host, fmt.Sprintf("ip route del %s", client))
	says(m.eth0)
	comes(moved{before.moved + 1, before.contested + 5, before.pinned})
	says(m.eth1)
}

// testDown moves what has no connection at once when its NIC has lost its carrier, and a TCP connection as well: the
// peer's next question comes by the other one.
func testDown(t *testing.T, m bed) {
	talks := conversations(t, m.ClientEth0, m.Server.Eth1, traffic.Families...)
	for _, c := range talks {
		m.bring(t, c.Self.Addr(), m.eth1)
		m.eth1.askBy(t, c)
	}
	before := m.moved()
	await.Must(t, m.Server.Eth1.Peer().SetDown())
	await.Becomes(t, "eth1 is up", false, func() bool { return m.p.Status().Interface("eth1").Up })
	for _, f := range traffic.Families {
		m.bring(t, m.Server.Eth1.Address(f), m.eth0)
	}
	for _, c := range talks {
		m.eth0.askBy(t, c)
	}
	m.wantMoved(t, before, len(talks), 0)
}

// spoofs are segments that somebody who sees nothing of a connection but its
// addresses and ports would send.
var spoofs = map[string]layers.TCP{
	"an acknowledgement": {ACK: true, Seq: 1, Ack: 1, Window: 1000},
	"data":               {ACK: true, PSH: true, Seq: 1 << 31, Ack: 1 << 30, Window: 1000},
	"the end":            {ACK: true, FIN: true, Seq: 77, Ack: 77, Window: 1000},
	"a reset":            {RST: true, Seq: 4711},
	"a beginning":        {SYN: true, Seq: 4711, Window: 1000},
	"an answer":          {SYN: true, ACK: true, Seq: 4711, Ack: 4711, Window: 1000},
}

// pushed is a connection in which the server speaks, with its ends.
type pushed struct {
	*traffic.Push
	from, to netip.AddrPort
}

// push has a client connect to eth1, and the server speak by that.
func (m bed) push(t *testing.T, f topology.Family) pushed {
	t.Helper()
	asked := m.Server.Eth1.Address(f)
	m.bring(t, asked, m.eth1)
	p := traffic.NewPush(t, m.Client, m.Server.Host, asked, asked)
	m.eth1.wantPush(t, p)
	at := func(a net.Addr) netip.AddrPort { return a.(*net.TCPAddr).AddrPort() }
	return pushed{p, at(p.Client.LocalAddr()), at(p.Client.RemoteAddr())}
}

// forge sends one of the spoofs of a connection by one of the server's NICs, and returns when the server has dealt with it.
func (m bed) forge(t *testing.T, p pushed, segment layers.TCP, by exit, mac net.HardwareAddr) {
	t.Helper()
	segment.SrcPort, segment.DstPort = layers.TCPPort(p.from.Port()), layers.TCPPort(p.to.Port())
	router := by.by.Peer()
	traffic.NewInjector(t, router).Send(segmentFrame(mac, by.by.MAC, p.from.Addr(), p.to.Addr(), &segment)...)
	// The cable keeps the order.
	_, err := router.Host.Ping(await.Within(t, await.AnswerTime), topology.Echo{To: by.by.Address(topology.IPv4)})
	await.Must(t, err)
}

// testSpoofed sends forged segments of a live connection by another NIC, and from another MAC by its own. Those that could
// move it are counted, and what the server pushes goes on by the connection's way.
func testSpoofed(t *testing.T, m bed, f topology.Family) {
	for _, by := range []exit{m.eth0, m.eth1} {
		p := m.push(t, f) // each with a handshake to forge
		mac := by.to
		if by.by == m.eth1.by {
			mac = net.HardwareAddr{2, 0xbb, 0, 0, 0, 1}
		}
		for name, segment := range spoofs {
			t.Run(f.String()+"/"+name+" by "+by.by.Name, func(t *testing.T) {
				before := m.p.Metrics()
				m.forge(t, p, segment, by, mac)
				m.eth1.wantPush(t, p.Push)
				wantSpoofCounted(t, before, m.p.Metrics(), segment)
			})
		}
		await.Must(t, p.Client.Close())
	}
}

// wantSpoofCounted wants that a forged segment was counted once, by its kind, and nothing else: a
// SYN is the beginning of a handshake, which changes nothing for the connection, and any other
// gives no proof that this has moved.
func wantSpoofCounted(t *testing.T, before, after product.Metrics, segment layers.TCP) {
	t.Helper()
	begun, contested := 0.0, 1.0
	if segment.SYN && !segment.ACK {
		begun, contested = 1, 0
	}
	for _, want := range []struct {
		metric string
		labels []string
		rises  float64
	}{
		{"replypath_flow_moves_total", nil, 0},
		{"replypath_flow_moves_refused_total", []string{"reason=contested"}, contested},
		{"replypath_flow_moves_refused_total", []string{"reason=pinned"}, 0},
		{"replypath_flow_admissions_total", []string{"table=half_open"}, begun},
		{"replypath_flow_admissions_total", []string{"table=established"}, 0},
	} {
		await.Same(t, want.metric+fmt.Sprint(want.labels), want.rises, after.Sum(want.metric, want.labels...)-before.Sum(want.metric, want.labels...))
	}
}

// testSpoofedLatest shows that the spoofs reach the programs: with follow: latest, any of them takes the connection along.
func testSpoofedLatest(t *testing.T, m bed) {
	for _, f := range traffic.Families {
		p := m.push(t, f)
		m.forge(t, p, spoofs["an acknowledgement"], m.eth0, m.eth0.to)
		m.eth0.wantPush(t, p.Push)
	}
}
