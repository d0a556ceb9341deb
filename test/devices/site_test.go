// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"replypath/test/await"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// site is a server that a router, which checks sources, reaches in two ways:
//
//	                       10.1.0.1 ── production ── 10.1.0.100
//	client 10.9.0.100 ── router                               server
//	                       10.2.0.1 ── replication ─ 10.2.0.100
//
// IPv6 has the same digits: 2001:db8:1::100 and so on. The server's default route
// leads to 10.1.0.1. Tests say what kind of device each way is.
type site struct {
	*topology.Network
	t *testing.T

	Server, Client *topology.Host
	Router         *topology.Router
	ClientEth0     *topology.Interface
	// Production and Replication are the server's interfaces. Their Peers are the router's.
	Production, Replication *topology.Interface
}

// The networks of a site.
const (
	productionNet  = 1
	replicationNet = 2
	clientNet      = 9

	routerNumber = 1
	serverNumber = 100
)

// address is that of a host in a network.
func address(f topology.Family, network, number int) netip.Prefix {
	if f == topology.IPv4 {
		return netip.MustParsePrefix(fmt.Sprintf("10.%d.0.%d/24", network, number))
	}
	return netip.MustParsePrefix(fmt.Sprintf("2001:db8:%d::%d/64", network, number))
}

// addresses are those of a host in a network, of both families.
func addresses(network, number int) []netip.Prefix {
	var a []netip.Prefix
	for _, f := range traffic.Families {
		a = append(a, address(f, network, number))
	}
	return a
}

// way joins the server and the router by some kind of device, and returns the server's end.
type way func(s *site, name string, network int) *topology.Interface

// newSite builds a site, with echo servers at the server's addresses.
func newSite(t *testing.T, production, replication way) *site {
	t.Helper()
	s := bareSite(t)
	s.Production = production(s, "eth0", productionNet)
	s.Replication = replication(s, "eth1", replicationNet)
	s.ready()
	s.serve()
	return s
}

// bareSite is a site without any way between the server and the router.
func bareSite(t *testing.T) *site {
	t.Helper()
	s := &site{Network: traffic.NewNetwork(t), t: t}
	s.Server = await.Must1[*topology.Host](t)(s.Host("server"))
	s.Client = await.Must1[*topology.Host](t)(s.Host("client"))
	s.Router = await.Must1[*topology.Router](t)(s.Network.Router("router", topology.StrictSource))
	s.ClientEth0 = s.cable(
		topology.NIC{Host: s.Client, Name: "eth0", Addresses: addresses(clientNet, serverNumber)},
		topology.NIC{Host: s.Router.Host, Name: "client", Addresses: addresses(clientNet, routerNumber)})
	for _, f := range traffic.Families {
		await.Must(t, s.Client.AddRoute(topology.Route{Via: address(f, clientNet, routerNumber).Addr()}))
	}
	return s
}

// cable connects two interfaces and returns the first.
func (s *site) cable(a, b topology.NIC) *topology.Interface {
	s.t.Helper()
	i, _, err := s.Connect(a, b)
	await.Must(s.t, err)
	return i
}

// ends are the descriptions of both interfaces of a way.
func (s *site) ends(name string, network int) (server, router topology.NIC) {
	return topology.NIC{Host: s.Server, Name: name, Addresses: addresses(network, serverNumber)},
		topology.NIC{Host: s.Router.Host, Name: name, Addresses: addresses(network, routerNumber)}
}

// ready waits for all interfaces, and adds the server's default route by production.
func (s *site) ready() {
	s.t.Helper()
	ctx := await.Within(s.t, await.AnswerTime)
	await.Must(s.t, s.WaitReady(ctx))
	for _, f := range traffic.Families {
		s.addDefault(f, s.Production, 0)
	}
	if s.Production.MAC == nil {
		return
	}
	for _, f := range traffic.Families {
		await.Must(s.t, s.Production.Resolve(ctx, address(f, productionNet, routerNumber).Addr()))
	}
}

// addDefault adds a default route by an interface, in a table or the main one.
func (s *site) addDefault(f topology.Family, by *topology.Interface, table int) {
	s.t.Helper()
	r := topology.Route{Via: address(f, productionNet, routerNumber).Addr(), Interface: by.Name, Table: table}
	if by.MAC == nil {
		r.Via, r.Destination = netip.Addr{}, anywhere(f)
	}
	await.Must(s.t, s.Server.AddRoute(r))
}

// anywhere is the prefix of all addresses.
func anywhere(f topology.Family) netip.Prefix {
	if f == topology.IPv4 {
		return netip.MustParsePrefix("0.0.0.0/0")
	}
	return netip.MustParsePrefix("::/0")
}

// serve echoes at the server's addresses.
func (s *site) serve() {
	traffic.ServeNICs(s.t, s.Production, s.Replication)
}

// nics are the server's interfaces that answers can leave by.
func (s *site) nics() []*topology.Interface {
	return []*topology.Interface{s.Production, s.Replication}
}

// ask prepares a conversation of the client with an address of the server.
func (s *site) ask(t *testing.T, kind traffic.Kind, at netip.Addr) *traffic.Conversation {
	t.Helper()
	return traffic.NewConversation(t, kind, s.ClientEth0, at)
}

// wantMended shows that answers of the replication address leave by production and get lost without replypath, that all
// is right with it, and that it leaves nothing behind.
func (s *site) wantMended(t *testing.T, args ...string) {
	t.Helper()
	traffic.EachQuestion(t, "without replypath", s.wantLost)
	p, _ := product.StartOn(t, s.Server, args...)
	traffic.EachQuestion(t, "with replypath", s.wantRight)
	p.Expect(0, "detach", "--stop")
	traffic.EachQuestion(t, "after detach", s.wantLost)
}

// wantRight wants the answers of each address by its own interface.
func (s *site) wantRight(t *testing.T, f topology.Family, kind traffic.Kind) {
	for _, by := range s.nics() {
		s.wantAnswers(t, s.ask(t, kind, by.Address(f)), by)
	}
}

// wantAnswers asks questions of several sizes and wants every answer by an
// interface, from its MAC to the router's, if it has one.
func (s *site) wantAnswers(t *testing.T, c *traffic.Conversation, by *topology.Interface) {
	t.Helper()
	exits := wire.TapAll(t, s.nics()...)
	for _, size := range c.Sizes() {
		if err := c.AskFor(await.Within(t, await.AnswerTime), size); err != nil {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
	wire.End(t, c, exits.At(by), untagged(c.Answers()))
	exits.Want(c.String(), untagged(c.Answers()), by, by.Peer().MAC)
}

// untagged matches what has no VLAN tag: a capture on the parent of a VLAN device sees its frames as well.
func untagged(match topology.Filter) topology.Filter {
	return topology.All(match, func(f *topology.Frame) bool { return f.SourceMAC == nil || tag(f) == noTag })
}

// wantLost asks the replication address in vain: its answers leave by production.
func (s *site) wantLost(t *testing.T, f topology.Family, kind traffic.Kind) {
	s.wantConversationLost(t, s.ask(t, kind, s.Replication.Address(f)))
}

// wantConversationLost asks in vain: the answers leave by production.
func (s *site) wantConversationLost(t *testing.T, c *traffic.Conversation) {
	t.Helper()
	s.wantAnswersLost(t, c, c.Answers())
}

// wantAnswersLost asks in vain, where the answers may be of another address than was asked.
func (s *site) wantAnswersLost(t *testing.T, c *traffic.Conversation, answers topology.Filter) {
	t.Helper()
	exits := wire.TapAll(t, s.nics()...)
	ctx, cancel := context.WithCancel(await.Within(t, await.AnswerTime))
	asked := make(chan error, 1)
	go func() { asked <- c.Ask(ctx) }()
	left := topology.All(untagged(answers), topology.Going(topology.Received))
	if _, err := exits.At(s.Production).Wait(ctx, left); err != nil {
		t.Errorf("no answer left by %s: %v\n%s", s.Production.Name, err, exits)
	}
	silence := time.AfterFunc(await.SilenceTime, cancel)
	defer silence.Stop()
	if err := <-asked; err == nil {
		t.Errorf("%s was answered, although its answer left the wrong way", c)
	}
	exits.Want("an answer that gets lost: "+c.String(), untagged(answers), s.Production, s.Production.Peer().MAC)
}
