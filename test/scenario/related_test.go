// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"context"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

const (
	tftpPort   = 69
	sipPort    = 5060
	viaPort    = 5070
	ftpPort    = 21
	ftpData    = 20
	gossipPort = 8301
	lockPort   = 4045
	callPort   = 722
)

// related is S1 where A and B speak by the addresses of their second interfaces.
type related struct {
	*topology.S1
	t    *testing.T
	f    topology.Family
	self netip.Addr // B's, of eth1
	peer netip.Addr // A's
}

// eachRelated runs a subtest for each family.
func eachRelated(t *testing.T, s *topology.S1, name string, run func(*related)) {
	t.Helper()
	for _, f := range s.Families() {
		t.Run(name+"/"+f.String(), func(t *testing.T) {
			run(&related{s, t, f, s.B.Eth1.Address(f), s.A.Eth1.Address(f)})
		})
	}
}

// socket opens a UDP socket, which is closed at the end of the test.
func (r *related) socket(host *topology.Host, self netip.Addr, port uint16) net.PacketConn {
	r.t.Helper()
	conn := await.Must1[net.PacketConn](r.t)(host.ListenPacket(r.t.Context(), "udp", netip.AddrPortFrom(self, port).String()))
	r.t.Cleanup(func() { conn.Close() })
	return conn
}

func (r *related) ofB(port uint16) net.PacketConn { return r.socket(r.B.Host, r.self, port) }
func (r *related) ofA(port uint16) net.PacketConn { return r.socket(r.A.Host, r.peer, port) }

func portOf(conn net.PacketConn) uint16 { return conn.LocalAddr().(*net.UDPAddr).AddrPort().Port() }

// say sends a datagram.
func (r *related) say(from net.PacketConn, to netip.Addr, port uint16) {
	r.t.Helper()
	await.Must1[int](r.t)(from.WriteTo([]byte("datagram"), net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, port))))
}

// hear waits for a datagram, and returns who sent it.
func hear(at net.PacketConn, within time.Duration) (from netip.AddrPort, err error) {
	err = at.SetReadDeadline(time.Now().Add(within))
	if err != nil {
		return from, err
	}
	_, address, err := at.ReadFrom(make([]byte, 64))
	if err != nil {
		return from, err
	}
	return address.(*net.UDPAddr).AddrPort(), nil
}

// heard wants a datagram, or none.
func (r *related) heard(at net.PacketConn, want bool) {
	r.t.Helper()
	within := await.AnswerTime
	if !want {
		within = await.SilenceTime
	}
	if _, err := hear(at, within); (err == nil) != want {
		r.t.Errorf("a datagram is to arrive: %v; %v", want, err)
	}
}

// own are the frames of B's that are no replies: to A, of a protocol.
func (r *related) own(protocol topology.Filter) topology.Filter {
	return topology.All(protocol, topology.From(r.self), topology.To(r.peer))
}

// tftp has A read a file of some blocks: each comes from a port of its own, and is acknowledged to that (RFC 1350, 4).
func (r *related) tftp(works bool) {
	r.t.Helper()
	server, client := r.ofB(tftpPort), r.ofA(0)
	defer server.Close()
	r.say(client, r.self, tftpPort)
	r.heard(server, true)
	data := r.ofB(0)
	for range 3 {
		r.say(data, r.peer, portOf(client))
		r.heard(client, works)
		if !works {
			return
		}
		r.say(client, r.self, portOf(data))
		r.heard(data, true)
	}
}

// transfers has A begin to read two files before either comes.
func (r *related) transfers(works bool) {
	r.t.Helper()
	server := r.ofB(tftpPort)
	defer server.Close()
	var clients [2]net.PacketConn
	for i := range clients {
		clients[i] = r.ofA(0)
		r.say(clients[i], r.self, tftpPort)
		r.heard(server, true)
	}
	for _, client := range clients {
		r.say(r.ofB(0), r.peer, portOf(client))
		r.heard(client, works)
	}
}

// sip has A ask from one port to be answered at another, the one in Via (RFC 3261, 18.2.2), twice.
func (r *related) sip(works bool) {
	r.t.Helper()
	server, from, via := r.ofB(sipPort), r.ofA(0), r.ofA(viaPort)
	defer server.Close()
	defer via.Close()
	for range 2 {
		r.say(from, r.self, sipPort)
		r.heard(server, true)
		r.say(server, r.peer, viaPort)
		r.heard(via, works)
	}
}

// ftp has A connect to B, and B open the connection for the data back from its port 20 (RFC 959, 3.2).
func (r *related) ftp(works bool) {
	r.t.Helper()
	within := await.Within(r.t, await.AnswerTime)
	control := await.Must1[net.Listener](r.t)(r.B.Listen(within, "tcp", netip.AddrPortFrom(r.self, ftpPort).String()))
	defer control.Close()
	data := await.Must1[net.Listener](r.t)(r.A.Listen(within, "tcp", netip.AddrPortFrom(r.peer, 0).String()))
	defer data.Close()
	connected := make(chan error, 1)
	go func() {
		client, err := r.A.Dial(within, "tcp", netip.AddrPortFrom(r.self, ftpPort).String())
		if err == nil {
			_, err = client.Read(make([]byte, 1))
			defer client.Close()
		}
		connected <- err
	}()
	session := await.Must1[net.Conn](r.t)(control.Accept())
	await.Must1[int](r.t)(session.Write([]byte("2")))
	r.dialBack(within, ftpData, data.Addr(), works)
	session.Close()
	if err := <-connected; works && err != nil {
		r.t.Errorf("A's own connection: %v", err)
	}
}

// call has A connect to B, ask and close, as for a lock of NFS, and B call back.
func (r *related) call(works bool) { r.callAfter(func() {}, works) }

func (r *related) callAfter(pause func(), works bool) {
	r.t.Helper()
	within := await.Within(r.t, await.AnswerTime)
	locks := await.Must1[net.Listener](r.t)(r.B.Listen(within, "tcp", netip.AddrPortFrom(r.self, lockPort).String()))
	defer locks.Close()
	back := await.Must1[net.Listener](r.t)(r.A.Listen(within, "tcp", netip.AddrPortFrom(r.peer, 0).String()))
	defer back.Close()
	ended := make(chan error, 1)
	go func() {
		session, err := locks.Accept()
		if err == nil {
			_, err = io.Copy(session, session) // until A closes
			session.Close()
		}
		ended <- err
	}()
	client := await.Must1[net.Conn](r.t)(r.A.Dial(within, "tcp", locks.Addr().String(), topology.FromAddress(netip.AddrPortFrom(r.peer, 0))))
	await.Must1[int](r.t)(client.Write([]byte("lock")))
	await.Must1[int](r.t)(io.ReadFull(client, make([]byte, 4)))
	await.Must(r.t, client.Close())
	await.Must(r.t, <-ended)
	pause()
	r.dialBack(within, callPort, back.Addr(), works)
}

// dialBack has B connect from a port of its own to where A listens.
func (r *related) dialBack(within context.Context, from uint16, to net.Addr, works bool) {
	r.t.Helper()
	if !works {
		limited, cancel := context.WithTimeout(within, 4*await.SilenceTime)
		defer cancel()
		within = limited
	}
	conn, err := r.B.Dial(within, "tcp", to.String(), topology.FromAddress(netip.AddrPortFrom(r.self, from)), topology.ReuseAddress())
	if err == nil {
		err = conn.(*net.TCPConn).SetLinger(0)
		conn.Close()
	}
	if (err == nil) != works {
		r.t.Errorf("B connects to A: %v", err)
	}
}

// gossip has both speak from the same port, B first: from A's first datagram on B's are to arrive.
func (r *related) gossip(works bool) {
	r.t.Helper()
	b, a := r.ofB(gossipPort), r.ofA(gossipPort)
	defer a.Close()
	defer b.Close()
	r.say(b, r.peer, gossipPort)
	_, _ = hear(a, await.SilenceTime) // it arrives if something was related before
	for range 3 {
		r.say(a, r.self, gossipPort)
		r.heard(b, true)
		r.say(b, r.peer, gossipPort)
		r.heard(a, works)
	}
}

var relatedKinds = []struct {
	name     string
	run      func(*related, bool)
	protocol topology.Filter
	first    bool // what B sends first goes right, too
}{
	{"two transfers", (*related).transfers, topology.UDP, true}, // before any answers show the path
	{"call back", (*related).call, topology.All(topology.TCP, topology.FromPort(callPort)), true},
	{"gossip", (*related).gossip, topology.UDP, false},
	{"tftp", (*related).tftp, topology.UDP, true},
	{"sip", (*related).sip, topology.UDP, true},
	{"active ftp", (*related).ftp, topology.All(topology.TCP, topology.FromPort(ftpData)), true},
}

// TestRelated has B open, from eth1's address, what belongs to A's conversations with it, between routers that check
// sources. Where it goes as routed it is lost by eth0; with an empty configuration it arrives, by eth1.
func TestRelated(t *testing.T) {
	s := traffic.NewS1(t, topology.S1Options{Policy: topology.StrictSource})
	p, d := product.StartOn(t, s.B.Host, "--config", product.WriteConfig(t, "related: false\n"))
	p.WaitGrace()
	for _, kind := range relatedKinds {
		eachRelated(t, s, "as routed/"+kind.name, func(r *related) { kind.run(r, false) })
	}
	d.Reconfigure("{}\n")
	eachRelated(t, s, "16 minutes after the call", func(r *related) { r.callAfter(func() { p.Age(16 * time.Minute) }, false) })
	eachRelated(t, s, "14 minutes after the call", func(r *related) { r.callAfter(func() { p.Age(14 * time.Minute) }, true) })
	for _, kind := range relatedKinds {
		eachRelated(t, s, kind.name, func(r *related) {
			before, wires := p.Metrics(), wire.Tap(r.t, s.B)
			kind.run(r, true)
			if eth0, eth1 := wires.Left(r.own(kind.protocol)); kind.first && len(eth0) > 0 || len(eth0) > 1 || len(eth1) == 0 {
				r.t.Errorf("by eth0 left %s, by eth1 %s", wire.Describe(eth0), wire.Describe(eth1))
			}
			moved := p.Metrics().Sum("replypath_originated_packets_total", "outcome=moved", "family="+r.f.String()) -
				before.Sum("replypath_originated_packets_total", "outcome=moved", "family="+r.f.String())
			if moved == 0 {
				r.t.Error("nothing is counted as originated and moved")
			}
		})
	}
	eachRelated(t, s, "explain", func(r *related) {
		c := r.connect()
		defer c.Close()
		e := p.Explain("--peer", netip.AddrPortFrom(r.peer, 9).String(), "--self", netip.AddrPortFrom(r.self, 9).String(), "--protocol", "tcp")
		if e.Verdict != "related" || product.OrEmpty(e.LeavesBy) != "eth1" || e.Replypath.NextHopMAC == nil {
			r.t.Errorf("explain: %s", e)
		}
	})
	p.Expect(0, "detach", "--stop")
	host.ReadRecipe(t, "tftp-ftp-sip").Run(s.B.Host, "With ip rule")
	for _, kind := range relatedKinds {
		eachRelated(t, s, "ip rule/"+kind.name, func(r *related) { kind.run(r, true) })
	}
}

// connect has A connect to B, which answers.
func (r *related) connect() *traffic.Conversation {
	r.t.Helper()
	c := traffic.NewConversation(r.t, traffic.TCP, r.A.Eth1, r.self)
	traffic.Ask(r.t, c)
	return c
}

// TestRelatedNot has B open what is related to nothing: to strangers, without the setting, and after forged datagrams. It
// leaves by eth0 as without replypath.
func TestRelatedNot(t *testing.T) {
	s := traffic.NewS1(t, topology.S1Options{Policy: topology.AnySource})
	p, d := product.StartOn(t, s.B.Host, "--config", product.WriteConfig(t, product.SmallTables+"related: false\n"))
	byEth0 := func(r *related, to netip.Addr) {
		r.t.Helper()
		wires, socket := wire.Tap(r.t, s.B), r.ofB(0)
		r.say(socket, to, closedPort)
		frames := topology.All(topology.UDP, topology.From(r.self), topology.To(to))
		wait(r.t, wires.Eth0, frames)
		wires.WantEth0("what is related to nothing", frames)
	}
	eachRelated(t, s, "without the setting", func(r *related) {
		defer r.connect().Close()
		byEth0(r, r.peer)
	})
	p.Expect(0, "flows", "flush")
	d.Reconfigure(product.SmallTables)
	p.WaitGrace()
	stranger := addresses("198.51.100.9", "2001:db8:51::9")
	eachRelated(t, s, "a stranger", func(r *related) {
		defer r.connect().Close()
		byEth0(r, stranger[r.f])
	})
	eachRelated(t, s, "forged datagrams", func(r *related) {
		asked, peer := r.ofB(0), stranger[r.f]
		for range 20 {
			r.forge(s.B.Eth1, peer, 7777, asked)
			r.say(asked, peer, 7777) // which is the answer, and goes to whoever asked
		}
		byEth0(r, peer)
	})
	eachRelated(t, s, "a forged question", func(r *related) { testForgedQuestion(r, p) })
}

// forge has a datagram arrive in a peer's name by an interface of B's, where a socket takes it.
func (r *related) forge(by *topology.Interface, peer netip.Addr, port uint16, taker net.PacketConn) {
	r.t.Helper()
	traffic.NewInjector(r.t, by.Peer()).Send(traffic.Datagram{
		FromMAC: by.Peer().MAC, ToMAC: by.MAC, From: netip.AddrPortFrom(peer, port), To: netip.AddrPortFrom(r.self, portOf(taker)),
	}.Layers()...)
	r.heard(taker, true)
}

// testForgedQuestion has somebody ask by eth1 in the name of a peer that B asks by eth0. What other sockets say to the port that
// it came from goes by eth1 for ten seconds. What the peer answers stays where the answers come, also beside a forged
// conversation.
func testForgedQuestion(r *related, p *product.Product) {
	const port, other = 7778, 7779
	peer, server, asker := addresses("198.51.100.10", "2001:db8:51::10")[r.f], r.ofB(0), r.ofB(0)
	leaves := func(by *topology.Interface) {
		r.t.Helper()
		exits := wire.TapAll(r.t, r.B.Eth0, r.B.Eth1)
		r.say(asker, peer, port)
		frames := topology.All(topology.UDP, topology.From(r.self), topology.To(peer), topology.FromPort(portOf(asker)))
		wait(r.t, exits.At(by), frames)
		exits.Want("what B asks", frames, by, by.Peer().MAC)
	}
	leaves(r.B.Eth0)
	r.forge(r.B.Eth1, peer, port, server)
	leaves(r.B.Eth1)
	p.Age(11 * time.Second)
	leaves(r.B.Eth0)
	r.forge(r.B.Eth0, peer, port, asker) // which is its answer
	for range 3 {
		r.forge(r.B.Eth1, peer, other, server)
		r.say(server, peer, other)
		p.Age(2 * time.Second)
		leaves(r.B.Eth0)
	}
}

// TestRelatedWithoutGateway: in the strong host model what B begins goes by eth1 although no gateway of eth1 is known, as
// soon as the peer's own connection shows a next hop.
func TestRelatedWithoutGateway(t *testing.T) {
	s := newBeginner(t, topology.StrictSource)
	product.On(t, s.B.Host).Start("--config", product.WriteConfig(t, "host_model: strong\n"))
	eachRelated(t, s, "strong", func(r *related) {
		wantBegunLost(r.t, s, fromEth1(r.t, s, traffic.TCP, r.f))
		defer r.connect().Close()
		wantBegun(r.t, s, fromEth1(r.t, s, traffic.TCP, r.f))
		wantBegun(r.t, s, fromEth1(r.t, s, traffic.Ping, r.f))
	})
}

// TestRelatedByClsact is TestRelated's kinds where programs are attached as filters.
func TestRelatedByClsact(t *testing.T) {
	s := traffic.NewS1(t, topology.S1Options{Policy: topology.Stateful})
	p, _ := product.StartOn(t, s.B.Host, "--mechanism", "clsact")
	p.WaitGrace()
	for _, kind := range relatedKinds {
		eachRelated(t, s, kind.name, func(r *related) { kind.run(r, true) })
	}
}
