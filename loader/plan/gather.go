// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"errors"
	"fmt"
	"hash/maphash"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"replypath/loader/config"
	"replypath/loader/discover/dump"
	"replypath/loader/doctor/opened"
	"replypath/loader/doctor/snapshot"
	"replypath/loader/flows"
	"replypath/loader/kernelroute"
	"replypath/loader/pins"
	"replypath/loader/sockets"
)

// look adds what the flow tables of a pin directory and the sockets have now; of the sockets alone where nothing is pinned:
// that a connection came in by the interface that has its own address is supposed then. It asks the kernel for routes.
func (l *looks) look(pinDir string, managed []string) error {
	table, err := flows.Open(pinDir)
	if err != nil && !errors.Is(err, pins.ErrNone) {
		return err
	}
	handle, err := dump.Open()
	if err == nil {
		defer handle.Close()
		l.begin(time.Now())
		err = l.gather(handle, table, managed)
	}
	if table != nil {
		err = errors.Join(err, table.Close())
	}
	return err
}

// gatherer reads what is there.
type gatherer struct {
	*looks
	host    *host
	table   *flows.Table     // nil: nothing is pinned
	sent    map[uint64]count // by TCP sockets, by the id of their conversation
	opened  *opened.Openings
	isAdded map[uint64]bool // of what this host opened, by the id of its conversation and by that of its addresses
}

func (l *looks) gather(handle *netlink.Handle, table *flows.Table, managed []string) error {
	host, err := readHost(handle, managed)
	if err != nil {
		return err
	}
	g := &gatherer{looks: l, host: host, table: table, sent: map[uint64]count{}, isAdded: map[uint64]bool{}}
	udp, err := opened.Sockets("udp", unix.IPPROTO_UDP)
	if err == nil {
		err = g.askSockets()
	}
	if err != nil {
		return err
	}
	g.opened, err = opened.Find(&opened.Known{IsOwn: host.IsOwn, UDP: udp, Links: host.Links}, func(a netip.Addr) bool { return host.managedWith(a) != "" })
	if err != nil {
		return fmt.Errorf("find what this host opened: %w", err)
	}
	if table == nil {
		err = g.opened.Suppose()
		g.addOpened()
		return errors.Join(err, g.opened.EachAccepted(g.addAccepted))
	}
	if err := errors.Join(g.each(flows.Filter{Originated: true}, g.askRelation), g.each(flows.Filter{}, g.addFlow)); err != nil {
		return err // which flows there are is not known, and thus not what this host opened
	}
	g.addOpened()
	return g.each(flows.Filter{Originated: true}, g.addOriginated)
}

const (
	// enoughSockets are looked at however long it takes, and more within socketTime.
	enoughSockets = 4096
	socketTime    = 500 * time.Millisecond
	// mostSent bounds how many are remembered.
	mostSent = 1 << 16
)

// askSockets asks TCP sockets what they have sent.
func (g *gatherer) askSockets() error {
	until := g.at.Add(socketTime)
	for _, family := range snapshot.Families {
		err := sockets.EachOpen(uint8(family), enoughSockets, until, func(s *sockets.Socket) bool {
			if g.host.managedWith(s.Local.Addr()) != "" && s.Sent != nil {
				g.sent[idOf("tcp", s.Local, s.Remote)] = count{packets: s.Segments, bytes: *s.Sent}
			}
			return len(g.sent) < mostSent
		})
		if err != nil && !errors.Is(err, sockets.ErrUnfinished) && !errors.Is(err, unix.ENOENT) { // a kernel without tcp_diag
			return fmt.Errorf("ask the tcp sockets: %w", err)
		}
	}
	return nil
}

// addFlow adds one whose replies would leave elsewhere if the kernel sent them by their destination alone.
func (g *gatherer) addFlow(f *flows.Flow, self, peer netip.Addr) {
	if f.State == flows.StateHalfOpen || f.IsDirect() { // anybody can make those; these go as routed
		return
	}
	g.opened.Note(f)
	from, known := g.host.routeTo(peer, *f.Interface)
	if known && (from != *f.Interface || f.Asymmetric) {
		c := g.conversation(f, self, peer)
		c.SelfPort, c.FromInterface = f.SelfPort, from
		g.add(c)
	}
}

// askRelation has the flows say whether they relate what the programs saw this host originate.
func (g *gatherer) askRelation(f *flows.Flow, _, _ netip.Addr) {
	use, _ := opened.UseOf(f) // whatever its protocol
	g.opened.AskRelation(&use)
}

// addOriginated adds what the programs saw leave from another interface's address, by own address and peer, unless it is
// known by what the sockets tell. What a server sends whose flow is not recorded, as it began before the programs were
// there, is none of it.
func (g *gatherer) addOriginated(f *flows.Flow, self, peer netip.Addr) {
	id := idOfAddresses(self, peer)
	if g.isAdded[id] || f.Protocol == "tcp" && g.opened.Accepts(netip.AddrPortFrom(self, f.SelfPort)) {
		return
	}
	c := g.conversation(f, self, peer)
	use, _ := opened.UseOf(f)
	c.id, c.Related = id, f.Relates == flows.RelatesAll || g.opened.Relates(&use)
	c.Originated, c.PeerPort, c.FromInterface = true, f.PeerPort, kernelroute.None
	if f.KernelInterface != nil {
		c.FromInterface = *f.KernelInterface
	}
	g.add(c)
}

// each visits flows without keeping them: there may be very many. What came by an interface that is gone is left out.
func (g *gatherer) each(filter flows.Filter, visit func(f *flows.Flow, self, peer netip.Addr)) error {
	filter.Func = func(f *flows.Flow) bool {
		self, err1 := netip.ParseAddr(f.Self)
		peer, err2 := netip.ParseAddr(f.Peer)
		if errors.Join(err1, err2) == nil && f.Interface != nil {
			visit(f, self, peer)
		}
		return false
	}
	_, err := g.table.List(filter)
	return err
}

// conversation is what all kinds have in common.
func (g *gatherer) conversation(f *flows.Flow, self, peer netip.Addr) *conversation {
	c := &conversation{
		Key:   snapshot.Key{Self: self, Protocol: f.Protocol, Peer: snapshot.NetworkOf(peer), ToInterface: *f.Interface},
		id:    idOf(f.Protocol, netip.AddrPortFrom(self, f.SelfPort), netip.AddrPortFrom(peer, f.PeerPort)),
		begun: g.at.Add(-time.Duration(f.AgeSeconds * float64(time.Second))),
		sent:  f.CorrectedPackets,
	}
	if sent, known := g.sent[c.id]; known {
		c.sent, c.bytes = sent.packets, sent.bytes
	}
	return c
}

var seed = maphash.MakeSeed()

// idOf is the same for a tuple whoever finds it.
func idOf(protocol string, self, peer netip.AddrPort) uint64 {
	return maphash.Comparable(seed, struct {
		protocol   string
		self, peer netip.AddrPort
	}{protocol, self, peer})
}

func idOfAddresses(self, peer netip.Addr) uint64 {
	return maphash.Comparable(seed, [2]netip.Addr{self, peer})
}

// addOpened adds what this host has open that would leave from another interface's address if the kernel sent it by its
// destination alone: where a rule sends it rightly the programs do not see it.
func (g *gatherer) addOpened() {
	g.host.most = len(g.host.routes) + mostAsked // however many peers there are
	for _, u := range g.opened.Uses() {
		c := g.ofSocket(config.ProtocolName(u.Protocol), u.Local, u.Remote)
		if c != nil {
			c.Originated, c.PeerPort, c.Related = true, u.Remote.Port(), u.Related
			g.isAdded[idOfAddresses(c.Self, u.Remote.Addr())], g.isAdded[c.id] = true, true
			g.add(c)
		}
	}
	g.incomplete = g.incomplete || g.opened.Incomplete || len(g.host.routes) >= g.host.most
}

// addAccepted adds a TCP connection that is not among what this host opened.
func (g *gatherer) addAccepted(s *sockets.Socket) {
	if c := g.ofSocket("tcp", s.Local, s.Remote); c != nil && !g.isAdded[c.id] {
		c.SelfPort = s.Local.Port()
		g.add(c)
	}
}

// ofSocket is a conversation that would leave elsewhere than by the interface of its own address; nil for another.
func (g *gatherer) ofSocket(protocol string, self, remote netip.AddrPort) *conversation {
	peer, to := remote.Addr(), g.host.managedWith(self.Addr())
	if to == "" || !peer.IsValid() || peer.IsUnspecified() || peer.IsMulticast() {
		return nil
	}
	from, known := g.host.routeTo(peer, to)
	if !known || from == to {
		return nil
	}
	c := &conversation{id: idOf(protocol, self, remote), Key: snapshot.Key{
		Self: self.Addr(), Protocol: protocol, Peer: snapshot.NetworkOf(peer), FromInterface: from, ToInterface: to,
	}}
	c.sent, c.bytes = g.sent[c.id].packets, g.sent[c.id].bytes
	return c
}

// mostAsked bounds for how many peers of replies a look asks for a route, some 10 µs each; of what the host opened it
// asks for as many more.
const mostAsked = 16384

// host is what the kernel tells of interfaces and routes.
type host struct {
	*kernelroute.Host
	managed map[string]int // the VRF of managed interfaces, by name; 0 for none
	routes  map[way]string
	most    int // how many may be asked for
}

// way is what a route is asked for.
type way struct {
	peer netip.Addr
	vrf  int
}

// readHost reads what there is, of which some interfaces are managed.
func readHost(handle *netlink.Handle, managed []string) (*host, error) {
	known, err := kernelroute.ReadHost(handle)
	if err != nil {
		return nil, err
	}
	h := &host{Host: known, managed: map[string]int{}, routes: map[way]string{}, most: mostAsked}
	for _, name := range managed {
		if h.IndexOf(name) != 0 {
			h.managed[name] = h.VRFs[name]
		}
	}
	return h, nil
}

// managedWith names the managed interface that alone has an address, "" for none.
func (h *host) managedWith(a netip.Addr) string {
	name := h.Names[h.Own[a]]
	if _, managed := h.managed[name]; !managed || a.IsLinkLocalUnicast() {
		return ""
	}
	return name
}

// routeTo names the interface by which the kernel reaches a peer if it regards neither source nor mark, in the VRF of a
// managed interface: kernelroute.None without a route, Refused by one that refuses. It is not known once too many were asked for.
func (h *host) routeTo(peer netip.Addr, from string) (name string, known bool) {
	w := way{peer, h.managed[from]}
	if name, known = h.routes[w]; known {
		return name, name != ""
	}
	if len(h.routes) >= h.most || h.IsOwn(peer) {
		return "", false
	}
	any := netip.IPv4Unspecified()
	if peer.Is6() {
		any = netip.IPv6Unspecified()
	}
	name = h.Leads(kernelroute.Packet{Peer: netip.AddrPortFrom(peer, 0), Self: netip.AddrPortFrom(any, 0), Device: w.vrf})
	h.routes[w] = name
	return name, name != ""
}
