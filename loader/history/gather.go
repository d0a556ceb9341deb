// SPDX-License-Identifier: Apache-2.0

package history

import (
	"context"
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
	"replypath/loader/sockets"
)

// seed is of the ids of this process.
var seed = maphash.MakeSeed()

// Gather adds what the flow tables of a pin directory and the sockets have now. It asks the kernel for routes, and
// changes nothing. The error matches pins.ErrNone where nothing is pinned; what was gathered until an error, or the end of
// ctx, stays.
func (h *History) Gather(ctx context.Context, pinDir string) error {
	table, err := flows.Open(pinDir)
	if err != nil {
		return err
	}
	managed, err := table.Interfaces()
	if err == nil {
		err = h.gather(managed, func(g *gatherer) error {
			g.table, g.ctx, g.askers = table, ctx, opened.Askers{}
			if err := g.flows(); err != nil || ctx.Err() != nil {
				return err // who asked is not known, and thus not what this host opened
			}
			return errors.Join(g.opened(), g.originated())
		})
	}
	return errors.Join(err, table.Close())
}

// GatherSockets adds what the sockets alone tell, for a host on which nothing is pinned: that a connection came in by
// the interface that has its own address is supposed.
func (h *History) GatherSockets(managed []string) error {
	return h.gather(managed, func(g *gatherer) error {
		err := g.opened()
		g.accepted()
		return err
	})
}

func (h *History) gather(managed []string, read func(*gatherer) error) error {
	host, err := openHost(managed)
	if err != nil {
		return err
	}
	defer host.close()
	g := &gatherer{
		gathering: h.begin(time.Now()), ctx: context.Background(), host: host, sent: map[uint64]count{},
		isOpen: map[[2]netip.Addr]bool{},
	}
	g.tcp, err = opened.Sockets("tcp", unix.IPPROTO_TCP)
	err = errors.Join(err, g.askSockets(), read(g))
	g.end()
	return err
}

// gatherer reads what is there.
type gatherer struct {
	*gathering
	host   *host
	ctx    context.Context
	table  *flows.Table
	tcp    []sockets.Socket
	sent   map[uint64]count // by TCP sockets, by the id of their conversation
	askers opened.Askers    // nil: there are no flow tables
	// isOpen tells of own addresses and peers of what this host has open.
	isOpen map[[2]netip.Addr]bool
}

const (
	// enoughSockets are looked at however long it takes, and more within socketTime.
	enoughSockets = 4096
	socketTime    = 500 * time.Millisecond
)

// askSockets asks TCP sockets what they have sent.
func (g *gatherer) askSockets() error {
	until := g.at.Add(socketTime)
	for _, family := range snapshot.Families {
		err := sockets.EachOpen(uint8(family), enoughSockets, until, func(s *sockets.Socket) bool {
			if g.host.managedWith(s.Local.Addr()) != "" && s.Sent != nil {
				id := idOf("tcp", snapshot.Use{Local: s.Local, Remote: s.Remote})
				g.sent[id] = count{packets: s.Segments, bytes: *s.Sent}
			}
			return true
		})
		if err != nil && !errors.Is(err, sockets.ErrUnfinished) && !errors.Is(err, unix.ENOENT) { // a kernel without tcp_diag
			return fmt.Errorf("ask the tcp sockets: %w", err)
		}
	}
	return nil
}

// flows adds those whose replies would leave elsewhere if the kernel sent them by their destination alone.
func (g *gatherer) flows() error {
	return g.each(flows.Filter{}, func(f *flows.Flow, self, peer netip.Addr) {
		if f.State == flows.StateHalfOpen || f.IsDirect() { // anybody can make those; these go as routed
			return
		}
		g.askers.Note(f)
		from, known := g.host.routeTo(peer, *f.Interface)
		if !known || from == *f.Interface && !f.Asymmetric {
			return
		}
		c := g.conversation(f, self, peer)
		c.SelfPort, c.FromInterface = f.SelfPort, from
		g.add(c)
	})
}

// originated adds what the programs saw leave from another interface's address, by own address and peer, unless it is
// known by what the sockets tell. What a server sends whose flow is not recorded, as it began before the programs were
// there, is none of it.
func (g *gatherer) originated() error {
	accepts := opened.Accepts(g.tcp)
	return g.each(flows.Filter{Originated: true}, func(f *flows.Flow, self, peer netip.Addr) {
		if g.isOpen[[2]netip.Addr{self, peer}] || f.Protocol == "tcp" && accepts(netip.AddrPortFrom(self, f.SelfPort)) {
			return
		}
		c := g.conversation(f, self, peer)
		c.id = maphash.Comparable(seed, [2]netip.Addr{self, peer})
		use, _ := opened.UseOf(f) // whatever its protocol
		c.Related = f.Relates == flows.RelatesAll || g.askers.Relate(&use)
		c.Originated, c.PeerPort, c.FromInterface = true, f.PeerPort, None
		if f.KernelInterface != nil {
			c.FromInterface = *f.KernelInterface
		}
		g.add(c)
	})
}

// each visits flows without keeping them: there may be very many. What came by an interface that is gone is left out.
func (g *gatherer) each(filter flows.Filter, visit func(f *flows.Flow, self, peer netip.Addr)) error {
	filter.Func = func(f *flows.Flow) bool {
		self, err1 := netip.ParseAddr(f.Self)
		peer, err2 := netip.ParseAddr(f.Peer)
		if errors.Join(err1, err2) == nil && f.Interface != nil && g.ctx.Err() == nil {
			visit(f, self, peer)
		}
		return false
	}
	_, err := g.table.List(filter)
	return err
}

// conversation is what all kinds have in common.
func (g *gatherer) conversation(f *flows.Flow, self, peer netip.Addr) *conversation {
	use := snapshot.Use{Local: netip.AddrPortFrom(self, f.SelfPort), Remote: netip.AddrPortFrom(peer, f.PeerPort)}
	c := &conversation{
		Key:   Key{Self: self, Protocol: f.Protocol, Peer: NetworkOf(peer), ToInterface: *f.Interface},
		id:    idOf(f.Protocol, use),
		begun: g.at.Add(-time.Duration(f.AgeSeconds * float64(time.Second))),
		sent:  count{packets: f.CorrectedPackets},
	}
	if sent, known := g.sent[c.id]; known {
		c.sent = sent
	}
	return c
}

// idOf is the same for a tuple whoever finds it.
func idOf(protocol string, use snapshot.Use) uint64 {
	use.Protocol, use.Over, use.Related = 0, false, false // it has its name beside it, and may be over by now
	return maphash.Comparable(seed, struct {
		protocol string
		use      snapshot.Use
	}{protocol, use})
}

// opened adds what this host has open that would leave from another interface's address if the kernel sent it by its
// destination alone: where a rule sends it rightly the programs do not see it.
func (g *gatherer) opened() error {
	udp, err := opened.Sockets("udp", unix.IPPROTO_UDP)
	if err != nil {
		return err
	}
	g.host.most = len(g.host.routes) + mostAsked // however many peers there are
	known := &opened.Known{
		IsOwn: g.host.IsOwn, Links: g.host.Links, TCP: g.tcp, UDP: udp, Askers: g.askers,
	}
	uses, err := opened.Find(known, func(a netip.Addr) bool { return g.host.managedWith(a) != "" })
	for _, u := range uses {
		g.addOpened(u)
	}
	g.Incomplete = g.Incomplete || len(g.host.routes) >= g.host.most
	if err != nil {
		return fmt.Errorf("find what this host opened: %w", err)
	}
	return nil
}

func (g *gatherer) addOpened(u snapshot.Use) {
	c := g.ofSocket(u)
	if c == nil {
		return
	}
	c.Originated, c.PeerPort, c.Related = true, u.Remote.Port(), u.Related
	g.isOpen[[2]netip.Addr{c.Self, u.Remote.Addr()}] = true
	g.add(c)
}

// accepted adds the TCP connections that are not among what this host opened.
func (g *gatherer) accepted() {
	for _, s := range g.tcp {
		u := snapshot.Use{Protocol: unix.IPPROTO_TCP, Local: s.Local, Remote: s.Remote}
		if c := g.ofSocket(u); c != nil && s.State == sockets.Established {
			c.SelfPort = u.Local.Port()
			g.add(c)
		}
	}
}

// ofSocket is a conversation that would leave elsewhere than by the interface of its own address; nil for another, and for one
// that was added before.
func (g *gatherer) ofSocket(u snapshot.Use) *conversation {
	peer, to := u.Remote.Addr(), g.host.managedWith(u.Local.Addr())
	if to == "" || !peer.IsValid() || peer.IsUnspecified() || peer.IsMulticast() {
		return nil
	}
	from, known := g.host.routeTo(peer, to)
	if !known || from == to {
		return nil
	}
	protocol := config.ProtocolName(u.Protocol)
	id := idOf(protocol, u)
	if _, added := g.found[id]; added {
		return nil
	}
	return &conversation{id: id, sent: g.sent[id], Key: Key{
		Self: u.Local.Addr(), Protocol: protocol, Peer: NetworkOf(peer), FromInterface: from, ToInterface: to,
	}}
}

// mostAsked bounds for how many peers of replies a gathering asks for a route, some 10 µs each; of what the host opened it
// asks for as many more.
const mostAsked = 16384

// host is what the kernel tells of interfaces and routes.
type host struct {
	*kernelroute.Host
	netlink *netlink.Handle
	managed map[string]int // the VRF of managed interfaces, by name; 0 for none
	routes  map[way]string
	most    int // how many may be asked for
}

// way is what a route is asked for.
type way struct {
	peer netip.Addr
	vrf  int
}

// openHost reads what there is, of which some interfaces are managed.
func openHost(managed []string) (*host, error) {
	handle, err := dump.Open()
	if err != nil {
		return nil, err
	}
	known, err := kernelroute.ReadHost(handle)
	if err != nil {
		handle.Close()
		return nil, err
	}
	h := &host{Host: known, netlink: handle, managed: map[string]int{}, routes: map[way]string{}, most: mostAsked}
	for _, name := range managed {
		if h.IndexOf(name) != 0 {
			h.managed[name] = h.VRFs[name]
		}
	}
	return h, nil
}

func (h *host) close() { h.netlink.Close() }

// managedWith names the managed interface that alone has an address, "" for none.
func (h *host) managedWith(a netip.Addr) string {
	name := h.Names[h.Own[a]]
	if _, managed := h.managed[name]; !managed || a.IsLinkLocalUnicast() {
		return ""
	}
	return name
}

// routeTo names the interface by which the kernel reaches a peer if it regards neither source nor mark, in the VRF of a
// managed interface: None without a route, Refused by one that refuses. It is not known once too many were asked for.
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
