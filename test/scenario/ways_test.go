// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sync/errgroup"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// waysBed is a server whose replies may go several ways: through the gateway of eth1, to who brought the request, or as
// routed. The client's requests come by the routers of eth1, which is its only interface, or one beside eth0.
type waysBed struct {
	routers
	p       *product.Product
	nics    []*topology.Interface
	gateway map[topology.Family]netip.Addr // of eth1, if it has one
	mac     net.HardwareAddr               // of that
	owned   int
}

func newWays(t *testing.T, twoNICs bool) *waysBed {
	t.Helper()
	w := &waysBed{routers: newRouters(t)}
	w.p, w.nics = product.On(t, w.Server.Host), w.Server.NICs()
	if !twoNICs {
		host.Shell(t, w.Server.Host, "ip link del eth0")
		w.nics = w.nics[1:]
	}
	// With checksums, so that captured frames can be sent again.
	await.Must(t, w.Server.Eth1.SetOffloads(topology.Offloads{NoChecksum: true}))
	return w
}

// own gives eth1 one more address of each family, with a server: to who asks by it, replies are known to arrive by no way.
func (w *waysBed) own(t *testing.T) map[topology.Family]netip.Addr {
	t.Helper()
	w.owned++
	own := addressesOf(w.Server.Eth1)
	for f, address := range own {
		for range w.owned {
			address = address.Next()
		}
		bits := map[topology.Family]int{topology.IPv4: 24, topology.IPv6: 64}[f]
		await.Must(t, w.Server.Eth1.AddAddress(netip.PrefixFrom(address, bits)))
		own[f] = address
	}
	await.Must(t, w.Server.Eth1.WaitReady(await.Within(t, await.AnswerTime)))
	for _, address := range own {
		traffic.Serve(t, w.Server.Host, address)
	}
	return own
}

// routeVia has one of the routers be the gateway of eth1.
func (w *waysBed) routeVia(t *testing.T, router int) {
	t.Helper()
	w.route(t, "add", anywhere, router, "main")
	w.gateway, w.mac = addressesOf(w.Inside[router]), w.Inside[router].MAC
}

// lead has a host send what is for an address by another.
func lead(t *testing.T, from *topology.Host, address, via map[topology.Family]netip.Addr) {
	t.Helper()
	for f := range address {
		host.Shell(t, from, fmt.Sprintf("ip route replace %s via %s", netip.PrefixFrom(address[f], address[f].BitLen()), via[f]))
	}
}

// outside are the addresses of one of the routers at the client's network.
func outside(router int) map[topology.Family]netip.Addr {
	return addresses(fmt.Sprintf("10.9.0.%d", router+1), fmt.Sprintf("2001:db8:9::%d", router+1))
}

// virtual are addresses that no cable leads to.
func virtual(n int) map[topology.Family]netip.Addr {
	return addresses(fmt.Sprintf("10.0.0.%d", n), fmt.Sprintf("2001:db8::%d", n))
}

// rules are lines of nftables, one for each address of a family: %s stands for the family's word and the address.
func rules(of map[topology.Family]netip.Addr, line string) (lines string) {
	for f, ip := range map[topology.Family]string{topology.IPv4: "ip", topology.IPv6: "ip6"} {
		lines += fmt.Sprintf(line, ip, of[f]) + "\n"
	}
	return lines
}

// addRules adds rules to a chain of a host, which there may be already.
func addRules(t *testing.T, at *topology.Host, table, chain, rules string) {
	t.Helper()
	host.Nft(t, at, "table "+table+" {\nchain "+chain+"\n"+rules+"}\n}\n")
}

// ofForwarded begins a chain of what a host forwards.
const ofForwarded = "forward { type filter hook forward priority filter;"

// dropInvalid is for hosts that translate. Where a SYN comes again while another CPU opens its connection, connection tracking goes
// back to the SYN-ACK, and takes the ACK of data for invalid (nf_conntrack_tcp_packet() in net/netfilter/nf_conntrack_proto_tcp.c).
// It would leave untranslated, and the client reset it.
const dropInvalid = "ct state invalid drop\n"

// translate has a host translate an address into another, and back.
func translate(t *testing.T, at *topology.Host, address, into map[topology.Family]netip.Addr) {
	t.Helper()
	addRules(t, at, "inet valid", ofForwarded, rules(into, "%s saddr %s "+dropInvalid))
	destinationNAT(t, at, func(f topology.Family) netip.Addr { return address[f] }, func(f topology.Family) netip.Addr { return into[f] })
}

func (w *waysBed) to(mac net.HardwareAddr) exit { return exit{w.nics, w.Server.Eth1, mac} }

// asRouted is the exit by eth0, which has the default route.
func (w *waysBed) asRouted() exit { return exit{w.nics, w.Server.Eth0, w.Server.Eth0.Peer().MAC} }

// start starts replypath, and waits until it knows the gateway of eth1.
func (w *waysBed) start(t *testing.T) *product.Daemon {
	t.Helper()
	// Room for what is closing beside handshakes, and not so much that Age takes time.
	d := w.p.In(t).Start("--config", product.WriteConfig(t, "flow_table: {max_entries: 16384}\n"))
	for _, gateway := range w.gateway {
		waitGatewayMAC(t, w.p, "eth1", gateway, w.mac)
	}
	return d
}

// sender is who hands the server what a client sends to an address. Nothing but handshakes tells which way replies have to
// take. By the wrong one they go without replypath.
type sender struct {
	name         string
	client       *topology.Interface
	asked, own   map[topology.Family]netip.Addr // own: the same as the server sees it
	wrong, right exit
	rounds       int // of SYN-ACKs at most, until the first of its connections is open
}

// control asks without replypath. Where the wrong way is the right one it works.
func (s *sender) control(t *testing.T, f topology.Family) {
	for _, kind := range traffic.Kinds {
		c := traffic.NewConversation(t, kind, s.client, s.asked[f])
		if replies := c.Behind(s.own[f]).Answers(); s.wrong.by == s.right.by && s.wrong.to.String() == s.right.to.String() {
			s.right.wantAnswers(t, c, replies)
		} else {
			s.wrong.wantLost(t, c, replies)
		}
	}
}

// works has the sender's first connection teach the way, by which those after it are open at once, and others go.
func (s *sender) works(t *testing.T, f topology.Family) {
	s.opens(t, f, 1, s.rounds)
	s.atOnce(t, f, 10)
	for _, kind := range []traffic.Kind{traffic.UDP, traffic.Ping} {
		c := traffic.NewConversation(t, kind, s.client, s.asked[f])
		s.right.wantAnswers(t, c, c.Behind(s.own[f]).Answers())
	}
}

// eachOpens wants a connection of each family to take so many rounds.
func (s *sender) eachOpens(t *testing.T, rounds int) {
	t.Helper()
	together(t, ofEach([]*sender{s}, func(_ *sender, t *testing.T, f topology.Family) { s.opens(t, f, rounds, rounds) }))
}

// impatient has clients give up before the server sends again: until one of them has found the way they fail.
func (s *sender) impatient(t *testing.T, f topology.Family) {
	ask := func() error {
		return traffic.NewConversation(t, traffic.TCP, s.client, s.asked[f]).Ask(await.Within(t, await.AnswerTime/20))
	}
	await.Eventually(t, s.name+": the way is found", ask)
	for range 5 {
		await.Must(t, ask())
	}
}

// keepOpen opens a connection of each family. What is returned wants them to go on, the right way.
func (s *sender) keepOpen(t *testing.T) (goOn map[string]func(*testing.T)) {
	open := make(map[topology.Family]*traffic.Conversation)
	for _, f := range traffic.Families {
		open[f] = traffic.NewConversation(t, traffic.TCP, s.client, s.asked[f])
		await.Must(t, open[f].Ask(await.Within(t, await.AnswerTime)))
	}
	return ofEach([]*sender{s}, func(_ *sender, t *testing.T, f topology.Family) {
		await.Must(t, open[f].Ask(await.Within(t, await.AnswerTime)))
		s.right.wantAnswers(t, open[f], open[f].Behind(s.own[f]).Answers())
	})
}

// keepAlive opens a connection of each family whose client only asks whether the server is there. What is returned has it do so
// more often than it may be left without an answer, and wants what the server sends then to arrive.
func (s *sender) keepAlive(t *testing.T, server *topology.Host) (goOn map[string]func(*testing.T)) {
	const most = 4
	pushes := make(map[topology.Family]*traffic.Push)
	for _, f := range traffic.Families {
		pushes[f] = traffic.NewPush(t, s.client.Host, server, s.asked[f], s.own[f])
		keep := net.KeepAliveConfig{Enable: true, Idle: time.Second, Interval: time.Second, Count: most}
		await.Must(t, pushes[f].Client.(*net.TCPConn).SetKeepAliveConfig(keep))
	}
	return ofEach([]*sender{{name: s.name + ", kept alive"}}, func(_ *sender, t *testing.T, f topology.Family) {
		port := netip.MustParseAddrPort(pushes[f].Client.LocalAddr().String()).Port()
		asked := wire.Capture(t, s.client)
		await.Eventually(t, "the client asks", func() error {
			if n := len(asked.Frames(topology.All(topology.TCP, topology.FromPort(port)))); n < 2*most {
				return fmt.Errorf("%d times", n)
			}
			return nil
		})
		await.Must(t, pushes[f].Client.SetDeadline(time.Now().Add(await.AnswerTime)))
		pushes[f].Speak()
	})
}

// opens wants a connection to take so many rounds.
func (s *sender) opens(t *testing.T, f topology.Family, least, most int) {
	t.Helper()
	if took := s.ask(t, f, 1)[0]; len(took) < least || len(took) > most {
		t.Errorf("%s, %s: a connection took not %d to %d rounds of SYN-ACKs, but %s", s.name, f, least, most, wire.Describe(took))
	}
}

// atOnce wants so many connections at a time to be opened by their first SYN-ACK.
func (s *sender) atOnce(t *testing.T, f topology.Family, connections int) {
	t.Helper()
	for _, took := range s.ask(t, f, connections) {
		if len(took) != 1 {
			t.Fatalf("%s, %s: one of %d connections took several rounds of SYN-ACKs: %s", s.name, f, connections, wire.Describe(took))
		}
	}
}

// ask has so many connections ask at a time. It wants all replies, and what left after the SYN-ACKs to go the right way, or
// any where none is. It returns the rounds that each connection took.
func (s *sender) ask(t *testing.T, f topology.Family, connections int) (rounds [][]*topology.Frame) {
	t.Helper()
	exits, arrived, ctx := wire.TapAll(t, s.right.nics...), wire.Capture(t, s.client), await.Within(t, await.AnswerTime)
	all, asked := make([]*traffic.Conversation, connections), new(errgroup.Group)
	for i := range all {
		all[i] = traffic.NewConversation(t, traffic.TCP, s.client, s.asked[f])
		asked.Go(func() error { return all[i].Ask(ctx) })
	}
	await.Must(t, asked.Wait())
	for _, c := range all {
		await.Must(t, c.Close())
		wait(t, arrived, topology.All(c.Answers(), topology.Flags(topology.FIN, topology.FIN)))
		replies := c.Behind(s.own[f]).Answers()
		took := roundsOf(exits, replies)
		if rounds = append(rounds, took); len(took) > 1 {
			replies = topology.All(replies, topology.Flags(topology.SYN, 0))
		}
		if s.right.by == nil {
			continue
		}
		if s.right.want(exits, s.name+", "+c.String(), replies); t.Failed() {
			t.FailNow()
		}
	}
	return rounds
}

// roundsOf returns SYN-ACKs of a connection: of those that left together, as the server's timer sends one again and the
// client's SYN does, the first.
func roundsOf(exits *wire.Exits, replies topology.Filter) (rounds []*topology.Frame) {
	var last time.Time
	synAck := topology.All(replies, topology.Flags(topology.SYN, topology.SYN), topology.Going(topology.Received))
	for _, frame := range exits.All(synAck) {
		if frame.Time.Sub(last) > time.Second/2 {
			rounds = append(rounds, frame)
		}
		last = frame.Time
	}
	return rounds
}

// ofEach are subtests of what senders have to do, for both families.
func ofEach(senders []*sender, do func(*sender, *testing.T, topology.Family)) map[string]func(*testing.T) {
	all := make(map[string]func(*testing.T))
	for _, s := range senders {
		for _, f := range traffic.Families {
			all[s.name+"/"+f.String()] = func(t *testing.T) { do(s, t, f) }
		}
	}
	return all
}

// together runs subtests at the same time: they wait more than they work.
func together(t *testing.T, subtests ...map[string]func(*testing.T)) {
	t.Helper()
	var all sync.WaitGroup
	for _, some := range subtests {
		for name, run := range some {
			all.Go(func() { t.Run(name, run) })
		}
	}
	all.Wait()
}

// TestWays has replies lost by the way that tables tell, or brought back to who wants them to pass it by: handshakes tell
// the way that works. The first connection through a sender takes a second for each way that fails, those after it nothing.
// Where the rule's way works no other is tried, whatever is lost.
func TestWays(t *testing.T) {
	together(t, map[string]func(*testing.T){
		"second router":            testSecondRouter,
		"second router, two NICs":  testSecondRouterOfTwo,
		"direct return":            testDirectReturn,
		"direct return, one NIC":   testDirectReturnOneNIC,
		"virtual router":           func(t *testing.T) { testVirtualRouter(t, false) },
		"virtual router, two NICs": func(t *testing.T) { testVirtualRouter(t, true) },
	})
}

// newSecondRouter is a server whose eth1 has two routers. The first is the gateway, and forwards nothing of connections that
// it has not seen begin. The client is led by the second.
func newSecondRouter(t *testing.T, twoNICs bool) *waysBed {
	t.Helper()
	w := newWays(t, twoNICs)
	w.routeVia(t, 0)
	w.bring(t, 1)
	await.Must(t, w.At[0].SetSysctl("net/netfilter/nf_conntrack_tcp_loose", "0"))
	host.Nft(t, w.At[0].Host, `table inet state {
		chain refused { }
		chain forward { type filter hook forward priority filter;
			ct state established accept
			jump refused
			ip saddr 192.168.1.100-192.168.1.199 drop
			ip6 saddr 2001:db8:1::100-2001:db8:1::1ff drop
		}
	}`)
	return w
}

// through is a sender that is the second router.
func (w *waysBed) through(t *testing.T, name string) *sender {
	own := w.own(t)
	return &sender{name, w.ClientEth0, own, own, w.to(w.Inside[0].MAC), w.to(w.Inside[1].MAC), 2}
}

// behind is a sender that is a router which translates an address into one of the server's. A neighbour of the server that
// asks by it is answered past it otherwise, resets what a stranger sends, and waits on.
func (w *waysBed) behind(t *testing.T, name string, client *topology.Interface, router, n int) *sender {
	s := w.through(t, name)
	s.client, s.asked, s.right = client, virtual(n), w.to(w.Inside[router].MAC)
	translate(t, w.At[router].Host, s.asked, s.own)
	if client == w.ClientEth0 {
		lead(t, client.Host, s.asked, outside(router))
	} else {
		s.wrong = w.to(client.MAC)
		lead(t, client.Host, s.asked, addressesOf(w.Inside[router]))
	}
	return s
}

// testSecondRouter has handshakes tell of many senders, of which each has an own address, under what may befall them.
func testSecondRouter(t *testing.T) {
	w := newSecondRouter(t, false)
	neighbour := w.Inside[2]
	plain, silent, cookies := w.through(t, "plain"), w.through(t, "silent"), w.through(t, "cookies")
	open, refusing := w.through(t, "fast open"), w.through(t, "fast open, data refused")
	refusing.rounds = 3
	contained, reset, late, unlucky := w.through(t, "container"), w.through(t, "reset"), w.through(t, "late"), w.through(t, "first by it lost")
	unlucky.rounds = 4
	translate(t, w.Server.Host, contained.own, w.contain(t))
	addRules(t, w.At[0].Host, "inet state", "refused {", rules(reset.own, "%s saddr %s meta l4proto tcp reject with tcp reset"))
	addRules(t, w.At[1].Host, "inet lost", ofForwarded, unlucky.loseFirst(1)+late.loseFirst(2))
	s2 := w.behind(t, "S2", neighbour, 0, 2)
	direct := &sender{"S2, asked directly", neighbour, s2.own, s2.own, w.to(neighbour.MAC), w.to(neighbour.MAC), 1}
	all := []*sender{plain, contained, reset, unlucky, s2, direct, w.behind(t, "DNAT", w.ClientEth0, 1, 1), w.behind(t, "hairpin", neighbour, 1, 3)}
	together(t, ofEach(append(all, cookies), (*sender).control))

	d := w.start(t)
	together(t, ofEach(all, (*sender).works), ofEach([]*sender{open, refusing}, w.fastOpen), ofEach([]*sender{late}, w.late))
	await.Must(t, w.Server.SetSysctl("net/ipv4/tcp_syncookies", "2"))
	together(t, ofEach([]*sender{cookies}, (*sender).works))
	await.Must(t, w.Server.SetSysctl("net/ipv4/tcp_syncookies", "1"))
	var pushes []*traffic.Push
	for _, own := range silent.own {
		pushes = append(pushes, traffic.NewPush(t, w.Client, w.Server.Host, own, own))
	}
	silent.rounds = 1 // a connection in which nobody speaks teaches as well
	together(t, ofEach([]*sender{silent}, (*sender).works))
	d.Kill()
	w.start(t)
	secondOpinion(t, w, plain, w.Inside[1].MAC)
	for _, push := range pushes { // nobody has spoken for long in the connections that taught
		await.Must(t, push.Client.SetDeadline(time.Now().Add(await.AnswerTime)))
		silent.right.wantPush(t, push)
	}
	goOn := plain.keepOpen(t)
	w.p.Expect(0, "flows", "flush")
	together(t, goOn)
	plain.eachOpens(t, 2)
}

// secondOpinion has what was learnt of a sender get older than a minute: one handshake tries the rule's way once more, and
// none after it. A SYN that nobody means does not.
func secondOpinion(t *testing.T, w *waysBed, s *sender, mac net.HardwareAddr) {
	t.Helper()
	s.eachOpens(t, 1)
	w.p.Age(2 * time.Minute)
	exits, injector := wire.TapAll(t, w.nics...), traffic.NewInjector(t, w.Server.Eth1.Peer())
	for f, nobody := range addresses("10.9.0.77", "2001:db8:9::77") {
		syn := layers.TCP{SrcPort: 77, DstPort: traffic.EchoPort, SYN: true, Window: 1000}
		injector.Send(segmentFrame(mac, w.Server.Eth1.MAC, nobody, s.own[f], &syn)...)
		wait(t, exits.At(w.Server.Eth1), topology.All(topology.To(nobody), topology.Going(topology.Received)))
	}
	for _, rounds := range []int{s.rounds, 1} {
		w.p.Age(2 * time.Minute)
		s.eachOpens(t, rounds)
	}
}

// contain makes a container of the server's, with an echo server, and returns its addresses.
func (w *waysBed) contain(t *testing.T) map[topology.Family]netip.Addr {
	t.Helper()
	bridge := await.Must1[*topology.Bridge](t)(w.Server.AddBridge("docker0",
		netip.MustParsePrefix("10.17.0.1/24"), netip.MustParsePrefix("2001:db8:17::1/64")))
	container := await.Must1[*topology.Host](t)(w.Network.Host("container"))
	eth0 := await.Must1[*topology.Interface](t)(bridge.Connect(topology.NIC{Host: container, Name: "eth0", Addresses: []netip.Prefix{
		netip.MustParsePrefix("10.17.0.100/24"), netip.MustParsePrefix("2001:db8:17::100/64")}}))
	await.Must(t, container.AddDefault(bridge.Address(topology.IPv4), bridge.Address(topology.IPv6)))
	for _, i := range []*topology.Interface{bridge.Interface, eth0} {
		await.Must(t, i.WaitReady(await.Within(t, await.AnswerTime)))
	}
	traffic.ServeNICs(t, eth0)
	forwards(t, w.Server.Host, 1)
	return addressesOf(eth0)
}

// fastOpen has the first SYN through a sender bring data (RFC 7413), which the server takes, unless that may last another
// round: the client got its cookie by another router.
func (w *waysBed) fastOpen(s *sender, t *testing.T, f topology.Family) {
	for _, h := range []*topology.Host{w.Client, w.Server.Host} {
		await.Must(t, h.SetSysctl("net/ipv4/tcp_fastopen", "3"))
	}
	const question = "a question in the SYN"
	for i, router := range []int{0, 1, 1} {
		lead(t, w.Client, map[topology.Family]netip.Addr{f: s.own[f]}, outside(router))
		exits, ctx, setting := wire.TapAll(t, w.nics...), await.Within(t, await.AnswerTime), fastOpen.server
		if i > 0 && s.rounds > 2 {
			setting = nil
		}
		l := await.Must1[net.Listener](t)(w.Server.Listen(ctx, "tcp", netip.AddrPortFrom(s.own[f], 0).String(), topology.Setting(setting)))
		defer l.Close()
		go func() { _ = traffic.ServeStreams(l) }() // who asks notices
		conn := await.Must1[net.Conn](t)(w.Client.Dial(ctx, "tcp", l.Addr().String(), topology.Setting(fastOpen.client)))
		defer conn.Close()
		await.Must(t, conn.SetDeadline(time.Now().Add(await.AnswerTime)))
		await.Must1[int](t)(io.WriteString(conn, question))
		_, err := io.ReadFull(conn, make([]byte, len(question)))
		ofClient := topology.FromPort(netip.MustParseAddrPort(conn.LocalAddr().String()).Port())
		took := roundsOf(exits, topology.ToPort(netip.MustParseAddrPort(conn.LocalAddr().String()).Port()))
		if most := []int{1, s.rounds, 1}[i]; err != nil || len(took) > most {
			t.Fatalf("through router %d: %v after not %d rounds of SYN-ACKs at most, but %s", router+1, err, most, wire.Describe(took))
		}
		if came := exits.Came(w.Server.Eth1, topology.All(ofClient, synWithData)); len(came) > 0 != (i > 0) {
			t.Errorf("through router %d came %s with data", router+1, wire.Describe(came))
		}
	}
}

// testSecondRouterOfTwo has a second default route by eth0, which is never used. Nothing is learnt while replypath observes,
// and where the configuration tells the gateways.
func testSecondRouterOfTwo(t *testing.T) {
	w := newSecondRouter(t, true)
	for f, gateway := range addressesOf(w.Server.Eth0.Peer()) {
		host.Shell(t, w.Server.Host, fmt.Sprintf("ip %[1]s route del default via %[2]s; ip %[1]s route add default via %[2]s metric 9000", ipFlag(f), gateway))
	}
	all := []*sender{w.through(t, "plain"), w.behind(t, "DNAT", w.ClientEth0, 1, 1)}
	together(t, ofEach(all, (*sender).control))
	d := w.start(t)
	w.p.Expect(0, "mode", "observe")
	together(t, ofEach(all, (*sender).control))
	w.p.Expect(0, "mode", "enforce")
	together(t, ofEach(all, (*sender).works))
	d.Reconfigure(`interfaces: [{name: eth0}, {name: eth1, gateways: [192.168.1.1, "2001:db8:1::1"]}]`)
	together(t, ofEach(all, (*sender).control))
}

// newDirectReturn has the first router be a director that hands the server what is for virtual addresses, unchanged, as IPVS
// does, and takes nothing back.
func newDirectReturn(t *testing.T, twoNICs bool) *waysBed {
	t.Helper()
	w := newWays(t, twoNICs)
	addRules(t, w.Server.Host, "inet valid", "output { type filter hook output priority filter;", dropInvalid)
	to := fmt.Sprintf("ether saddr set %s ether daddr set %s fwd to inside\n", w.Inside[0].MAC, w.Server.Eth1.MAC)
	host.Nft(t, w.At[0].Host, `table netdev director {
		chain outside { type filter hook ingress device outside priority filter;
			ip daddr 10.0.0.0/24 `+to+`ip6 daddr 2001:db8::/112 `+to+`
		}
		chain inside { type filter hook ingress device inside priority filter;
			ip saddr 10.0.0.0/24 drop
			ip6 saddr 2001:db8::/112 drop
			ip daddr 10.0.0.0/24 `+to+`ip6 daddr 2001:db8::/112 `+to+`
		}
	}`)
	return w
}

// handed is a sender that is the director. The server takes the virtual address by a rule, or has it.
func (w *waysBed) handed(t *testing.T, name string, n int, right exit, rounds int) *sender {
	t.Helper()
	s := &sender{name, w.ClientEth0, virtual(n), virtual(n), right, right, rounds}
	lead(t, w.Client, s.asked, outside(0))
	return s
}

// redirected is one for whose address the server has a rule.
func (w *waysBed) redirected(t *testing.T, name string, n int, right exit, rounds int) *sender {
	t.Helper()
	s := w.handed(t, name, n, right, rounds)
	addRules(t, w.Server.Host, "inet taking", "prerouting { type nat hook prerouting priority dstnat;", rules(s.own, "%s daddr %s redirect"))
	return s
}

// onNIC is one whose address the server has on eth1, and tells nobody.
func (w *waysBed) onNIC(t *testing.T, n int, right exit, rounds int) *sender {
	t.Helper()
	s := w.handed(t, "on the NIC", n, right, rounds)
	await.Must(t, w.Server.SetSysctl("net/ipv4/conf/eth1/arp_ignore", "8"))
	for _, address := range s.own {
		await.Must(t, w.Server.Eth1.AddAddress(netip.PrefixFrom(address, address.BitLen())))
	}
	await.Must(t, w.Server.Eth1.WaitReady(await.Within(t, await.AnswerTime)))
	for _, address := range s.own {
		traffic.Serve(t, w.Server.Host, address)
	}
	return s
}

func testDirectReturn(t *testing.T) {
	w := newDirectReturn(t, true)
	redirected, contained := w.redirected(t, "redirected", 1, w.asRouted(), 2), w.handed(t, "container", 3, w.asRouted(), 2)
	unlucky := w.redirected(t, "first as routed lost", 5, w.asRouted(), 4)
	onNIC, hasty, neighbour := w.onNIC(t, 2, w.asRouted(), 2), w.redirected(t, "impatient", 6, w.asRouted(), 2), w.Inside[2]
	near := &sender{"neighbour", neighbour, redirected.own, redirected.own, w.to(neighbour.MAC), w.to(neighbour.MAC), 1}
	lead(t, neighbour.Host, near.asked, addressesOf(w.Inside[0]))
	all := []*sender{redirected, onNIC, hasty}
	forwarding := []*sender{contained, w.redirected(t, "redirected, forwarding", 4, w.asRouted(), 2)}
	translate(t, w.Server.Host, contained.own, w.contain(t))
	forwards(t, w.Server.Host, 0)
	together(t, ofEach(append(all, near), (*sender).control))
	addRules(t, w.Production.Host, "inet lost", ofForwarded, unlucky.loseFirst(1))
	older, kept := onNIC.keepOpen(t), onNIC.keepAlive(t, w.Server.Host)
	w.start(t)
	w.p.Expect(0, "mode", "observe")
	observed := onNIC.keepOpen(t)
	w.p.Expect(0, "mode", "enforce")
	together(t, older, observed, kept, ofEach([]*sender{hasty}, (*sender).impatient), ofEach([]*sender{near}, (*sender).works))
	together(t, ofEach(append(all, unlucky), (*sender).works))
	for f, own := range redirected.own {
		e := w.p.Explain("--peer", w.ClientEth0.Address(f).String(), "--self", own.String())
		if e.Verdict != "direct-return" || product.OrEmpty(e.LeavesBy) != "eth0" {
			t.Error(e)
		}
	}
	forwards(t, w.Server.Host, 1)
	together(t, ofEach(forwarding, (*sender).works))
	secondOpinion(t, w, redirected, w.Inside[0].MAC)
}

// testDirectReturnOneNIC has the second router be the gateway: replies go by it from the first one on.
func testDirectReturnOneNIC(t *testing.T) {
	w := newDirectReturn(t, false)
	w.routeVia(t, 1)
	right := w.to(w.Inside[1].MAC)
	all := []*sender{w.redirected(t, "redirected", 1, right, 1), w.onNIC(t, 2, right, 1)}
	together(t, ofEach(all, (*sender).control))
	w.start(t)
	together(t, ofEach(all, (*sender).works))
}
