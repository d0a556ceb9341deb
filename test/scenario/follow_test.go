// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"replypath/test/harness"
	"replypath/test/topology"
)

// moving is a server with two NICs whose peer can move to the other one: the
// routers bring questions for an address by either, and take answers by either.
type moving struct {
	*topology.TwoNIC
	p          *harness.Product
	eth0, eth1 exit
}

// newMoving builds the network with replypath on the server, with a configuration.
func newMoving(t *testing.T, config string) moving {
	t.Helper()
	n := harness.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.AnySource})
	nics := []*topology.Interface{n.Server.Eth0, n.Server.Eth1}
	m := moving{
		n, harness.On(t, n.Server.Host),
		exit{nics, nics[0], nics[0].Peer().MAC}, exit{nics, nics[1], nics[1].Peer().MAC},
	}
	for _, f := range n.Families() {
		harness.Serve(t, n.Server.Host, n.Server.Eth0.Address(f))
	}
	m.p.Start("--config", harness.WriteConfig(t, config))
	return m
}

// other returns the other exit.
func (m moving) other(than exit) exit {
	if than.by == m.eth0.by {
		return m.eth1
	}
	return m.eth0
}

// bring has the network bring questions for an address of the server by one of
// its NICs.
func (m moving) bring(t *testing.T, asked netip.Addr, by exit) {
	t.Helper()
	f := topology.FamilyOf(asked)
	router, via := m.Production, addresses("10.11.0.2", "2001:db8:11::2")[f]
	if by.by == m.eth1.by {
		router, via = m.Replication, addresses("10.12.0.2", "2001:db8:12::2")[f]
	}
	harness.Shell(t, m.Core.Host, fmt.Sprintf("ip route replace %s via %s", asked, via))
	if neighbour := by.by.Address(f); neighbour != asked {
		harness.Shell(t, router.Host, fmt.Sprintf("ip route replace %s via %s", asked, neighbour))
	}
}

// moves reads how many flows have moved, and how many moves were refused.
func (m moving) moves(t *testing.T) (moved, contested, pinned float64) {
	t.Helper()
	metrics := m.p.In(t).Metrics()
	const refused = "replypath_flow_moves_refused_total"
	return metrics.Sum("replypath_flow_moves_total"),
		metrics.Sum(refused, "reason=contested"), metrics.Sum(refused, "reason=pinned")
}

// askBy asks once and wants the answer by an exit.
func (m moving) askBy(t *testing.T, c *harness.Conversation, by exit) {
	t.Helper()
	exits := harness.TapAll(t, by.nics...)
	harness.Ask(t, c)
	by.want(exits, c.String(), c.Answers())
}

// eachMove runs a subtest for each family, kind and NIC that is asked first. The
// conversation has been answered by that NIC then.
func (m moving) eachMove(t *testing.T, run func(*testing.T, *harness.Conversation, exit)) {
	for _, from := range []exit{m.eth0, m.eth1} {
		harness.EachQuestion(t, "from "+from.by.Name, func(t *testing.T, f topology.Family, kind harness.Kind) {
			asked := from.by.Address(f)
			m.bring(t, asked, from)
			c := harness.NewConversation(t, kind, m.ClientEth0, asked)
			m.askBy(t, c, from)
			run(t, c, from)
		})
	}
}

// TestFollowPinned keeps every flow where it began, also one whose peer has really
// moved, and counts that.
func TestFollowPinned(t *testing.T) {
	m := newMoving(t, "follow: pinned\n")
	m.eachMove(t, func(t *testing.T, c *harness.Conversation, from exit) {
		movedBefore, _, pinnedBefore := m.moves(t)
		m.bring(t, c.Self.Addr(), m.other(from))
		for range 3 {
			m.askBy(t, c, from)
		}
		if moved, _, pinned := m.moves(t); moved != movedBefore || pinned < pinnedBefore+3 {
			t.Errorf("%v moves, %v refused, after %v and %v", moved, pinned, movedBefore, pinnedBefore)
		}
	})
}

// TestFollowLatest has every flow follow the last packet, at once.
func TestFollowLatest(t *testing.T) {
	m := newMoving(t, "follow: latest\n")
	m.eachMove(t, func(t *testing.T, c *harness.Conversation, from exit) {
		before, _, _ := m.moves(t)
		for i, by := range []exit{m.other(from), from, m.other(from)} {
			m.bring(t, c.Self.Addr(), by)
			m.askBy(t, c, by)
			if moved, _, _ := m.moves(t); moved != before+float64(i+1) {
				t.Errorf("%v moves after %v and %d more", moved, before, i+1)
			}
		}
	})
}

// TestFollowValidated moves a TCP connection with the first segment that comes by
// another NIC, there and back, as its socket vouches for it. What has no
// connection moves when its way has been silent for a second; until then it stays
// and is counted.
func TestFollowValidated(t *testing.T) {
	m := newMoving(t, "")
	m.eachMove(t, func(t *testing.T, c *harness.Conversation, from exit) {
		before, contestedBefore, _ := m.moves(t)
		to := m.other(from)
		m.bring(t, c.Self.Addr(), to)
		if c.Kind == harness.TCP {
			m.askBy(t, c, to)
			m.bring(t, c.Self.Addr(), from)
			m.askBy(t, c, from)
			if moved, contested, _ := m.moves(t); moved != before+2 || contested != contestedBefore {
				t.Errorf("%v moves, %v contested, after %v and %v", moved, contested, before, contestedBefore)
			}
			return
		}
		m.askBy(t, c, from)
		if moved, contested, _ := m.moves(t); moved != before || contested != contestedBefore+1 {
			t.Errorf("%v moves, %v contested, after %v and %v", moved, contested, before, contestedBefore)
		}
		m.waitMove(t, c, to)
		m.askBy(t, c, to)
		if moved, _, _ := m.moves(t); moved != before+1 {
			t.Errorf("%v moves after %v", moved, before)
		}
	})
}

// waitMove asks until the answer leaves by an exit.
func (m moving) waitMove(t *testing.T, c *harness.Conversation, to exit) {
	t.Helper()
	exits := harness.TapAll(t, to.nics...)
	harness.Eventually(t, "the flow moves", func() error {
		harness.Ask(t, c)
		if len(exits.Left(to.by, c.Answers())) == 0 {
			return fmt.Errorf("%s is answered by the other NIC", c)
		}
		return nil
	})
}

// TestFollowDown moves what has no connection at once when its NIC has lost its
// carrier, and a TCP connection as well: the peer's next question comes by the
// other one.
func TestFollowDown(t *testing.T) {
	for _, f := range harness.Families {
		t.Run(f.String(), func(t *testing.T) { testFollowDown(t, f) })
	}
}

func testFollowDown(t *testing.T, f topology.Family) {
	m := newMoving(t, "")
	var talks []*harness.Conversation
	asked := m.Server.Eth1.Address(f)
	for _, kind := range harness.Kinds {
		c := harness.NewConversation(t, kind, m.ClientEth0, asked)
		m.askBy(t, c, m.eth1)
		talks = append(talks, c)
	}
	harness.Must(t, m.Server.Eth1.Peer().SetDown())
	harness.Eventually(t, "eth1 is known to be down", func() error {
		if m.p.Status().Interface("eth1").Up {
			return fmt.Errorf("eth1 is up")
		}
		return nil
	})
	m.bring(t, asked, m.eth0)
	for _, c := range talks {
		m.askBy(t, c, m.eth0)
	}
	if moved, contested, _ := m.moves(t); moved != float64(len(talks)) || contested != 0 {
		t.Errorf("%v moves, %v contested", moved, contested)
	}
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

// TestSpoofedSegment sends forged segments of a live connection by another NIC, and
// from another MAC by its own. Those that could move it are counted, and what the
// server pushes goes on by the connection's way. With follow: latest, any of them
// takes it along.
func TestSpoofedSegment(t *testing.T) {
	for _, f := range harness.Families {
		t.Run(f.String(), func(t *testing.T) { testSpoofedSegment(t, f) })
	}
}

func testSpoofedSegment(t *testing.T, f topology.Family) {
	m := newMoving(t, "")
	asked := m.Server.Eth1.Address(f)
	for _, by := range []exit{m.eth0, m.eth1} {
		p := harness.NewPush(t, m.Client, m.Server.Host, asked, asked) // each with a handshake to forge
		from := netip.MustParseAddrPort(p.Client.LocalAddr().String())
		to := netip.MustParseAddrPort(p.Client.RemoteAddr().String())
		m.pushBy(t, p, m.eth1)
		mac := by.by.Peer().MAC
		if by.by == m.eth1.by {
			mac = net.HardwareAddr{2, 0xbb, 0, 0, 0, 1}
		}
		for name, segment := range spoofs {
			t.Run(name+" by "+by.by.Name, func(t *testing.T) {
				before := m.p.In(t).Metrics()
				segment.SrcPort, segment.DstPort = layers.TCPPort(from.Port()), layers.TCPPort(to.Port())
				m.inject(t, by, segmentFrame(mac, by.by.MAC, from.Addr(), to.Addr(), &segment)...)
				m.pushBy(t, p, m.eth1)
				wantSpoofCounted(t, before, m.p.In(t).Metrics(), segment)
			})
		}
		harness.Must(t, p.Client.Close())
	}
}

// wantSpoofCounted wants that a forged segment was counted once, by its kind, and nothing else: a
// SYN is the beginning of a handshake, which changes nothing for the connection, and any other
// gives no proof that this has moved.
func wantSpoofCounted(t *testing.T, before, after harness.Metrics, segment layers.TCP) {
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
		if rose := after.Sum(want.metric, want.labels...) - before.Sum(want.metric, want.labels...); rose != want.rises {
			t.Errorf("%s%v rose by %v, want %v", want.metric, want.labels, rose, want.rises)
		}
	}
}

// TestSpoofedSegmentLatest shows that the spoofs of TestSpoofedSegment reach the
// programs.
func TestSpoofedSegmentLatest(t *testing.T) {
	m := newMoving(t, "follow: latest\n")
	for _, f := range harness.Families {
		asked := m.Server.Eth1.Address(f)
		p := harness.NewPush(t, m.Client, m.Server.Host, asked, asked)
		from := netip.MustParseAddrPort(p.Client.LocalAddr().String())
		to := netip.MustParseAddrPort(p.Client.RemoteAddr().String())
		m.pushBy(t, p, m.eth1)
		segment := spoofs["an acknowledgement"]
		segment.SrcPort, segment.DstPort = layers.TCPPort(from.Port()), layers.TCPPort(to.Port())
		m.inject(t, m.eth0, segmentFrame(m.eth0.to, m.eth0.by.MAC, from.Addr(), to.Addr(), &segment)...)
		m.pushBy(t, p, m.eth0)
	}
}

// inject sends a frame to one of the server's NICs and returns when the server has
// dealt with it.
func (m moving) inject(t *testing.T, by exit, frame ...gopacket.SerializableLayer) {
	t.Helper()
	router := by.by.Peer()
	harness.NewInjector(t, router).Send(frame...)
	// The cable keeps the order.
	_, err := router.Host.Ping(harness.Within(t, harness.AnswerTime), topology.Echo{To: by.by.Address(topology.IPv4)})
	harness.Must(t, err)
}

// pushBy has the server speak, and wants that by an exit.
func (m moving) pushBy(t *testing.T, p *harness.Push, by exit) {
	t.Helper()
	exits := harness.TapAll(t, by.nics...)
	p.Speak()
	by.want(exits, "what the server pushes", topology.All(p.Segments, topology.Flags(topology.PSH, topology.PSH)))
}
