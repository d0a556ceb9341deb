// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"errors"
	"fmt"
	"hash/maphash"
	"net/netip"
	"slices"
	"time"

	"replypath/loader/config"
	"replypath/loader/discover/dump"
	"replypath/loader/doctor/opened"
	"replypath/loader/doctor/snapshot"
	"replypath/loader/flows"
	"replypath/loader/kernelroute"
	"replypath/loader/pins"
	"replypath/loader/sockets"
)

// look reads the flow tables of a pin directory and the sockets as they are now; the sockets alone where nothing is pinned:
// that a connection came in by the interface that has its own address is supposed then. It asks the kernel for routes. What is
// managed, and the sources that rules select by, are those of a snapshot.
func look(pinDir string, snapped *snapshot.Host) (*looks, error) {
	table, err := flows.Open(pinDir)
	if err != nil && !errors.Is(err, pins.ErrNone) {
		return nil, err
	}
	if table != nil {
		defer table.Close() // it was only read
	}
	handle, err := dump.Open()
	if err != nil {
		return nil, err
	}
	defer handle.Close()
	host, err := kernelroute.ReadHost(handle)
	if err != nil {
		return nil, err
	}
	g := &gatherer{
		Host: host, looks: newLooks(), table: table, managed: map[string]int{}, routes: map[way]string{}, most: mostAsked,
		sent: map[uint64]sent{}, isAdded: map[uint64]bool{},
	}
	g.at = time.Now()
	for _, i := range snapped.Interfaces {
		if host.IndexOf(i.Name) != 0 {
			g.managed[i.Name] = host.VRFs[i.Name]
		}
	}
	for _, r := range snapped.Rules {
		if snapped.AnswersBySource(&r) != nil {
			g.sources = append(g.sources, r.Src)
		}
	}
	return g.looks, g.gather()
}

const (
	// mostAsked bounds for how many peers of replies a look asks for a route, some 10 µs each; of what the host opened it
	// asks for as many more.
	mostAsked = 16384
	// mostSent bounds of how many sockets it is remembered what they sent.
	mostSent = 1 << 16
)

// gatherer reads what is there.
type gatherer struct {
	*kernelroute.Host
	*looks
	managed map[string]int // the VRF of managed interfaces, by name; 0 for none
	sources []netip.Prefix // of rules that send answers back
	routes  map[way]string
	most    int             // how many may be asked for
	table   *flows.Table    // nil: nothing is pinned
	sent    map[uint64]sent // by TCP sockets, by digest of their ends
	opened  *opened.Openings
	isAdded map[uint64]bool // of what this host opened, by digest of its ends and of its addresses
}

// way is what a route is asked for.
type way struct {
	peer netip.Addr
	vrf  int
}

// sent is how much was, 0 where it was not counted; bytes are of payload.
type sent struct{ packets, bytes uint64 }

// ends are those of a conversation.
type ends struct {
	protocol   string
	self, peer netip.AddrPort
}

var seed = maphash.MakeSeed()

func (e ends) digest() uint64 { return maphash.Comparable(seed, e) }

// ofAddresses is the digest of the addresses alone.
func (e ends) ofAddresses() uint64 {
	return maphash.Comparable(seed, [2]netip.Addr{e.self.Addr(), e.peer.Addr()})
}

func (g *gatherer) gather() error {
	known := &opened.Known{IsOwn: g.IsOwn, Links: g.Links, See: g.see}
	var err error
	if g.opened, err = opened.Find(known, func(a netip.Addr) bool { return g.managedWith(a) != "" || g.isSelected(a) }); err != nil {
		return fmt.Errorf("find what this host opened: %w", err)
	}
	if g.table == nil {
		err = g.opened.Suppose()
		g.addOpened()
		return errors.Join(err, g.opened.EachAccepted(g.addAccepted))
	}
	originated := flows.Filter{Originated: true}
	if err := errors.Join(g.each(originated, g.askRelation), g.each(flows.Filter{}, g.addFlow)); err != nil {
		return err // which flows there are is not known, and thus not what this host opened
	}
	g.addOpened()
	return g.each(originated, g.addOriginated)
}

// see notes what a socket has sent, and the mark that it gives its packets.
func (g *gatherer) see(s *sockets.Socket) {
	if s.Mark != 0 && !slices.Contains(g.marks, s.Mark) {
		g.marks = append(g.marks, s.Mark)
	}
	if s.Sent != nil && len(g.sent) < mostSent && g.managedWith(s.Local.Addr()) != "" {
		g.sent[ends{"tcp", s.Local, s.Remote}.digest()] = sent{s.Segments, *s.Sent}
	}
}

// isSelected tells whether a rule that sends answers back selects by an own address.
func (g *gatherer) isSelected(a netip.Addr) bool {
	return slices.ContainsFunc(g.sources, func(p netip.Prefix) bool { return p.Contains(a) })
}

// each visits flows without keeping them: there may be very many. What came by an interface that is gone is left out.
func (g *gatherer) each(filter flows.Filter, visit func(*flows.Flow, ends)) error {
	filter.Func = func(f *flows.Flow) bool {
		self, err1 := netip.ParseAddr(f.Self)
		peer, err2 := netip.ParseAddr(f.Peer)
		if errors.Join(err1, err2) == nil && f.Interface != nil {
			visit(f, ends{f.Protocol, netip.AddrPortFrom(self, f.SelfPort), netip.AddrPortFrom(peer, f.PeerPort)})
		}
		return false
	}
	_, err := g.table.List(filter)
	return err
}

// addFlow adds one whose replies would leave elsewhere if the kernel sent them by their destination alone.
func (g *gatherer) addFlow(f *flows.Flow, e ends) {
	if f.State == flows.StateHalfOpen || f.IsDirect() { // anybody can make those; these go as routed
		return
	}
	g.opened.Note(f)
	from, known := g.routeTo(e.peer.Addr(), *f.Interface)
	if known && (from != *f.Interface || f.Asymmetric) {
		g.add(e, snapshot.Key{FromInterface: from, ToInterface: *f.Interface}, f)
	}
}

// askRelation has the flows say whether they relate what the programs saw this host originate.
func (g *gatherer) askRelation(f *flows.Flow, _ ends) {
	use, _ := opened.UseOf(f) // whatever its protocol
	g.opened.AskRelation(&use)
}

// addOriginated adds what the programs saw leave from another interface's address, by own address and peer, unless it is
// known by what the sockets tell. What a server sends whose flow is not recorded, as it began before the programs were
// there, is none of it.
func (g *gatherer) addOriginated(f *flows.Flow, e ends) {
	if g.isAdded[e.ofAddresses()] || f.Protocol == "tcp" && g.opened.Accepts(e.self) {
		return
	}
	key := snapshot.Key{Originated: true, FromInterface: kernelroute.None, ToInterface: *f.Interface}
	if f.KernelInterface != nil {
		key.FromInterface = *f.KernelInterface
	}
	use, _ := opened.UseOf(f)
	key.Related = f.Relates == flows.RelatesAll || g.opened.Relates(&use)
	g.add(e, key, f)
}

// addOpened adds what this host has open that would leave from another interface's address if the kernel sent it by its
// destination alone: where a rule sends it rightly the programs do not see it.
func (g *gatherer) addOpened() {
	g.most = len(g.routes) + mostAsked // however many peers there are
	for _, u := range g.opened.Uses() {
		if g.isSelected(u.Local.Addr()) {
			g.uses = append(g.uses, u)
		}
		e := ends{config.ProtocolName(u.Protocol), u.Local, u.Remote}
		if from, to, leaves := g.ofSocket(e); leaves {
			g.isAdded[e.ofAddresses()], g.isAdded[e.digest()] = true, true
			g.add(e, snapshot.Key{Originated: true, FromInterface: from, ToInterface: to, Related: u.Related}, nil)
		}
	}
	g.incomplete = g.incomplete || g.opened.Incomplete || len(g.routes) >= g.most
}

// addAccepted adds a TCP connection that is not among what this host opened.
func (g *gatherer) addAccepted(s *sockets.Socket) {
	e := ends{"tcp", s.Local, s.Remote}
	if from, to, leaves := g.ofSocket(e); leaves && !g.isAdded[e.digest()] {
		g.add(e, snapshot.Key{FromInterface: from, ToInterface: to}, nil)
	}
}

// add counts a conversation in the row of a key, of which its ends tell the rest, if that has room; f is its flow, nil for none.
func (g *gatherer) add(e ends, key snapshot.Key, f *flows.Flow) {
	key.Self, key.SelfPort, key.Protocol, key.Peer = e.self.Addr(), e.self.Port(), e.protocol, snapshot.NetworkOf(e.peer.Addr())
	if key.Originated {
		key.SelfPort, key.PeerPort = 0, e.peer.Port()
	}
	r := g.row(key, g.at)
	if r == nil {
		return
	}
	is, known := g.sent[e.digest()]
	if f != nil {
		if begun := g.at.Add(-time.Duration(f.AgeSeconds * float64(time.Second))); begun.Before(r.FirstSeen) {
			r.FirstSeen = begun
		}
		if !known {
			is.packets = f.CorrectedPackets
		}
	}
	r.Flows++
	r.Packets += snapshot.Count(is.packets)
	r.Bytes += snapshot.Count(is.bytes)
}

// ofSocket tells of a conversation that would leave elsewhere than by the interface of its own address.
func (g *gatherer) ofSocket(e ends) (from, to string, leaves bool) {
	peer, to := e.peer.Addr(), g.managedWith(e.self.Addr())
	if to == "" || !peer.IsValid() || peer.IsUnspecified() || peer.IsMulticast() {
		return "", "", false
	}
	from, known := g.routeTo(peer, to)
	return from, to, known && from != to
}

// managedWith names the managed interface that alone has an address, "" for none.
func (g *gatherer) managedWith(a netip.Addr) string {
	name := g.Names[g.Own[a]]
	if _, managed := g.managed[name]; !managed || a.IsLinkLocalUnicast() {
		return ""
	}
	return name
}

// routeTo names the interface by which the kernel reaches a peer if it regards neither source nor mark, in the VRF of a
// managed interface: kernelroute.None without a route, Refused by one that refuses. It is not known once too many were asked for.
func (g *gatherer) routeTo(peer netip.Addr, from string) (name string, known bool) {
	w := way{peer, g.managed[from]}
	if name, known = g.routes[w]; known {
		return name, name != ""
	}
	if len(g.routes) >= g.most || g.IsOwn(peer) {
		return "", false
	}
	any := netip.IPv4Unspecified()
	if peer.Is6() {
		any = netip.IPv6Unspecified()
	}
	name = g.Leads(kernelroute.Packet{Peer: netip.AddrPortFrom(peer, 0), Self: netip.AddrPortFrom(any, 0), Device: w.vrf})
	g.routes[w] = name
	return name, name != ""
}
