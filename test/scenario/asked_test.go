// SPDX-License-Identifier: Apache-2.0

// Package scenario runs the networks that people brought: each is first shown
// broken without replypath, then right with it. A test stands in the file whose
// name begins with the question:
//
//   - s1 to s9, balancers: is the network of a recipe right, and the recipe beside it?
//   - answers: is each kind of answer moved, also to unusual addresses?
//   - tcp: does a connection keep its way from its first segment to its last?
//   - begun: does what the server began go as routed, whoever asks meanwhile?
//   - follow: does a flow follow its peer to another way, and nobody else?
//   - nexthop: which router, and which MACs, does an answer get?
//   - ways: do handshakes tell by which way answers arrive, where the tables do not?
//   - source: which address answers from a socket that is bound to none?
//   - errors: which way do ICMP errors and refusals go, and do they arrive?
//   - size: what becomes of what is too large, and of fragments?
//   - forward: what happens to what the server forwards, or answers for others?
//   - routed: is what is excluded or forbidden left alone, and what was moved and never left counted?
//   - origin: does what the host begins leave by the interface of its source, where that is wanted?
//   - show: do explain, top, trace and a capture show what leaves?
//
// The other files have what several of them use.
package scenario

import (
	"encoding/binary"
	"hash/crc32"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"replypath/test/await"
	testhost "replypath/test/host"
	"replypath/test/product"
	_ "replypath/test/product/inprocess"
	"replypath/test/short"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

func TestMain(m *testing.M) { product.Main(m) }

// ipv4 is that family alone.
var ipv4 = traffic.Families[:1]

// addresses are one of each family.
func addresses(v4, v6 string) map[topology.Family]netip.Addr {
	return map[topology.Family]netip.Addr{topology.IPv4: netip.MustParseAddr(v4), topology.IPv6: netip.MustParseAddr(v6)}
}

// addressesOf are those of an interface.
func addressesOf(i *topology.Interface) map[topology.Family]netip.Addr {
	return map[topology.Family]netip.Addr{topology.IPv4: i.Address(topology.IPv4), topology.IPv6: i.Address(topology.IPv6)}
}

// linkLocalOf returns the link-local address of an interface.
func linkLocalOf(t *testing.T, i *topology.Interface) netip.Addr {
	t.Helper()
	for _, address := range await.Must1[*topology.Interface](t)(i.Host.Interface(i.Name)).Addresses {
		if address.Addr().IsLinkLocalUnicast() {
			return address.Addr()
		}
	}
	t.Fatalf("%s has no link-local address", i.Name)
	return netip.Addr{}
}

// conversations are new ones of each kind, with an address of an interface.
func conversations(t *testing.T, client, at *topology.Interface, families ...topology.Family) (all []*traffic.Conversation) {
	t.Helper()
	for _, f := range families {
		for _, kind := range traffic.Kinds {
			all = append(all, traffic.NewConversation(t, kind, client, at.Address(f)))
		}
	}
	return all
}

// wantAnswers asks for more and more, and wants every answer to leave the server
// by eth1, or by eth0, with the MAC of its gateway there.
func wantAnswers(t *testing.T, server *topology.Server, c *traffic.Conversation, eth1 bool) {
	t.Helper()
	by := server.Eth0
	if eth1 {
		by = server.Eth1
	}
	exitBy(server, by).wantAnswers(t, c, c.Answers())
}

// wantLost asks, and wants the answer to leave by eth0 and never to arrive.
func wantLost(t *testing.T, server *topology.Server, c *traffic.Conversation, client *topology.Interface) {
	t.Helper()
	asked, arrived := wire.Capture(t, server.Eth1.Peer()), wire.Capture(t, client)
	exitBy(server, server.Eth0).wantLost(t, c, c.Answers())
	if asked.Count(topology.All(c.Questions(), topology.Going(topology.Sent))) == 0 {
		t.Error("no question reached the server by eth1")
	}
	await.Same(t, "answers that reached the client", 0, arrived.Count(c.Answers()))
}

// exit is how answers leave a server: by one of its NICs, to a MAC.
type exit struct {
	nics []*topology.Interface // all of the server's that answers could leave by
	by   *topology.Interface
	to   net.HardwareAddr
}

// exitBy is the exit by one of a server's NICs to what its cable leads to.
func exitBy(server *topology.Server, by *topology.Interface) exit {
	return exit{server.NICs(), by, by.Peer().MAC}
}

// bed is a server with two NICs, and the product on it.
type bed struct {
	*topology.TwoNIC
	p          *product.Product
	eth0, eth1 exit
}

func newBed(t *testing.T, options topology.TwoNICOptions) bed {
	t.Helper()
	n := traffic.NewTwoNIC(t, options)
	return bed{n, product.On(t, n.Server.Host), exitBy(n.Server, n.Server.Eth0), exitBy(n.Server, n.Server.Eth1)}
}

// wantAnswers asks a few questions and wants all of the answers, and every one of them by this exit. Answers are seen
// as they leave the server, which may be behind a translation.
func (e exit) wantAnswers(t *testing.T, c *traffic.Conversation, answers topology.Filter) {
	t.Helper()
	exits := wire.TapAll(t, e.nics...)
	traffic.AskSizes(t, c)
	wire.End(t, c, exits.At(e.by), answers)
	e.want(exits, c.String(), answers)
}

// wantQuestions has the server ask somebody, and wants all of its questions by this exit.
func (e exit) wantQuestions(t *testing.T, c *traffic.Conversation) {
	t.Helper()
	exits := wire.TapAll(t, e.nics...)
	traffic.AskSizes(t, c)
	e.want(exits, "what the server opened: "+c.String(), c.Questions())
}

// askBy asks once and wants the answer by this exit.
func (e exit) askBy(t *testing.T, c *traffic.Conversation) []*topology.Frame {
	t.Helper()
	exits := wire.TapAll(t, e.nics...)
	traffic.Ask(t, c)
	return e.want(exits, c.String(), c.Answers())
}

// want wants frames, and every one of them by this exit. It returns them.
func (e exit) want(seen *wire.Exits, what string, frames topology.Filter) []*topology.Frame {
	return seen.Want(what, frames, e.by, e.to)
}

// wantLost asks in vain: the answers leave by this exit, but never come to who asked.
func (e exit) wantLost(t *testing.T, c *traffic.Conversation, answers topology.Filter) {
	t.Helper()
	exits := wire.TapAll(t, e.nics...)
	if err := wire.AskUntilLost(t, c, exits.At(e.by), answers); err == nil {
		t.Errorf("%s was answered, although its answer left the wrong way", c)
	}
	e.want(exits, c.String(), answers)
}

// wantPush has a server speak in a connection, and wants that by this exit.
func (e exit) wantPush(t *testing.T, p *traffic.Push) {
	t.Helper()
	exits := wire.TapAll(t, e.nics...)
	p.Speak()
	e.want(exits, "what the server pushes", topology.All(p.Segments, topology.Flags(topology.PSH, topology.PSH)))
}

// wantNoAnswer asks in vain: the question comes in by one of the server's NICs, the
// first, and is dropped there, so that no answer leaves by any.
func wantNoAnswer(t *testing.T, c *traffic.Conversation, nics ...*topology.Interface) {
	t.Helper()
	exits := wire.TapAll(t, nics...)
	if err := wire.AskUntilLost(t, c, exits.At(nics[0]), c.Questions()); err == nil {
		t.Errorf("%s was answered", c)
	}
	for _, nic := range nics {
		if left := exits.Left(nic, c.Answers()); len(left) > 0 {
			t.Errorf("%s: by %s left %s", c, nic.Name, wire.Describe(left))
		}
	}
}

// segmentFrame puts a TCP segment into a frame.
func segmentFrame(fromMAC, toMAC net.HardwareAddr, from, to netip.Addr, tcp *layers.TCP) []gopacket.SerializableLayer {
	ethernet, ip := traffic.IPHeaders(fromMAC, toMAC, from, to, layers.IPProtocolTCP)
	_ = tcp.SetNetworkLayerForChecksum(ip.(gopacket.NetworkLayer))
	return []gopacket.SerializableLayer{ethernet, ip, tcp, gopacket.Payload("")}
}

// icmpFrame puts an ICMP message into a frame. What is behind its checksum begins with four bytes of its header.
func icmpFrame(fromMAC, toMAC net.HardwareAddr, from, to netip.Addr, k kind, rest []byte) []gopacket.SerializableLayer {
	if from.Is4() {
		ethernet, ip := traffic.IPHeaders(fromMAC, toMAC, from, to, layers.IPProtocolICMPv4)
		return []gopacket.SerializableLayer{ethernet, ip, &layers.ICMPv4{
			TypeCode: layers.CreateICMPv4TypeCode(k.kind, k.code),
			Id:       binary.BigEndian.Uint16(rest), Seq: binary.BigEndian.Uint16(rest[2:]),
		}, gopacket.Payload(rest[4:])}
	}
	ethernet, ip := traffic.IPHeaders(fromMAC, toMAC, from, to, layers.IPProtocolICMPv6)
	icmp := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(k.kind, k.code)}
	_ = icmp.SetNetworkLayerForChecksum(ip.(gopacket.NetworkLayer))
	return []gopacket.SerializableLayer{ethernet, ip, icmp, gopacket.Payload(rest)}
}

// askDatagram asks an echo server by a connected UDP socket.
func askDatagram(t *testing.T, conn net.Conn) {
	t.Helper()
	await.Must(t, conn.SetDeadline(time.Now().Add(await.AnswerTime)))
	await.Must1[int](t)(conn.Write([]byte("question")))
	await.Must1[int](t)(conn.Read(make([]byte, 100)))
}

// want is what a conversation and its answers have to be like.
type want = func(*testing.T, *traffic.Conversation, topology.Filter)

// asking is who asks for which address of a server.
type asking struct {
	client *topology.Interface
	of     func(topology.Family) netip.Addr
	seenAs func(topology.Family) netip.Addr // that address at the server, where another translates it
}

// each holds every kind of question, and its answers as the server sends them, against a want.
func (a asking) each(t *testing.T, families []topology.Family, name string, want want) {
	traffic.EachQuestionOf(t, families, name, a.asks(want))
}

func (a asking) asks(want want) func(*testing.T, topology.Family, traffic.Kind) {
	return func(t *testing.T, f topology.Family, kind traffic.Kind) {
		c := traffic.NewConversation(t, kind, a.client, a.of(f))
		if a.seenAs == nil {
			want(t, c, c.Answers())
		} else {
			want(t, c, c.Behind(a.seenAs(f)).Answers())
		}
	}
}

// answered wants all answers, and every one of them by an exit.
func (a asking) answered(t *testing.T, name string, by exit) {
	a.each(t, traffic.Families, name, by.wantAnswers)
}

// lost is the control of answered: answers leave by an exit, and never come to who asked.
func (a asking) lost(t *testing.T, name string, by exit) {
	sampled(t, traffic.Families, name, a.asks(by.wantLost))
}

// sampled is harness.EachQuestionOf. With -short it runs one kind of question for each family, which the name
// decides: in a matrix every two of phase, family and kind still meet.
func sampled(t *testing.T, families []topology.Family, name string, run func(*testing.T, topology.Family, traffic.Kind)) {
	if !short.Run(t) {
		traffic.EachQuestionOf(t, families, name, run)
		return
	}
	first := int(crc32.ChecksumIEEE([]byte(t.Name()+name)) % 3)
	for i, f := range families {
		kind := traffic.Kinds[(first+i)%len(traffic.Kinds)]
		t.Run(name+"/"+f.String()+"/"+string(kind), func(t *testing.T) { run(t, f, kind) })
	}
}

// removeRules takes all policy rules away that somebody has added.
func removeRules(t *testing.T, host *topology.Host) {
	t.Helper()
	testhost.Shell(t, host, `
for family in -4 -6; do
	ip $family rule show | while read -r priority rule; do
		case $priority in 0: | 32766: | 32767:) ;; *) ip $family rule del priority ${priority%:} ;; esac
	done
done
`)
}
