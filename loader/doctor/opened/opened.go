// SPDX-License-Identifier: Apache-2.0

// Package opened tells what this host opened itself from what it was asked for.
package opened

import (
	"cmp"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/maphash"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"replypath/loader/doctor/snapshot"
	"replypath/loader/flows"
	"replypath/loader/hostsettings"
	"replypath/loader/netfilter"
	"replypath/loader/sockets"
)

// Known is what has been read of a host.
type Known struct {
	IsOwn func(netip.Addr) bool
	Links []netlink.Link
	See   func(*sockets.Socket) // is shown each socket of TCP and UDP
}

// mostUses bounds what is held in memory: some ten megabytes.
const mostUses = 1 << 15

// Openings are what this host opened from some addresses, or may open: sockets, tunnels, IPsec states, and what the kernel
// tracks. Of the flows of peers, which may be very many, none is kept: each is noted where it says something of these.
type Openings struct {
	// Incomplete tells that there were more than had room.
	Incomplete bool

	known   *Known
	isMeant func(netip.Addr) bool
	accepts map[netip.AddrPort]bool // by TCP: own ends that somebody listens at
	begun   map[snapshot.Use]bool   // tracked, with this host's side as the one that began
	found   map[snapshot.Use]bool   // whether it is none if a peer asked for it
	asked   map[uint64]bool         // by digests of what flows may say of those that are found, whether one said it
}

// Find looks for what this host opened from the addresses that isMeant is true of, or may open. With an error it is what could
// be told. The flows, or Suppose where there are none, say what of it peers asked for.
func Find(k *Known, isMeant func(netip.Addr) bool) (*Openings, error) {
	o := &Openings{
		known: k, isMeant: isMeant, accepts: map[netip.AddrPort]bool{}, begun: map[snapshot.Use]bool{}, found: map[snapshot.Use]bool{},
		asked: map[uint64]bool{},
	}
	err := o.gather()
	o.ask()
	return o, err
}

// ask has the flows that are noted from now on say what of it peers asked for.
func (o *Openings) ask() {
	for u := range o.found {
		o.asked[digest(askingKey(u))] = false
		o.AskRelation(&u)
	}
}

func (o *Openings) gather() error {
	for _, family := range snapshot.Families {
		if err := netfilter.Tracked(uint8(family), o.track); err != nil {
			return err
		}
	}
	err := eachSocket("tcp", unix.IPPROTO_TCP, sockets.Listening, func(s *sockets.Socket) { o.accepts[s.Local] = true })
	err = errors.Join(err, eachSocket("tcp", unix.IPPROTO_TCP, sockets.AnyState, func(s *sockets.Socket) {
		o.known.See(s)
		o.connection(s)
	}))
	var udp []sockets.Socket
	err = errors.Join(err, eachSocket("udp", unix.IPPROTO_UDP, sockets.AnyState, func(s *sockets.Socket) {
		o.known.See(s)
		udp = append(udp, *s)
	}))
	o.datagrams(udp)
	o.tunnels()
	return errors.Join(err, o.associations(), o.raw(), o.ipsec())
}

// AskRelation has the flows that are noted from now on say whether they relate a use, which Relates tells then.
func (o *Openings) AskRelation(u *snapshot.Use) {
	if len(o.asked) >= 8*mostUses {
		o.Incomplete = true
		return
	}
	for _, key := range relations(u) {
		o.asked[digest(key)] = o.asked[digest(key)]
	}
}

// Relates tells whether a use is related to what its peer began by the interface of the own address.
func (o *Openings) Relates(u *snapshot.Use) bool { return slices.ContainsFunc(relations(u), o.isNoted) }

// add notes what was found, unless there is too much.
func (o *Openings) add(u snapshot.Use, unlessAsked bool) {
	before, again := o.found[u]
	if !again && len(o.found) >= mostUses {
		o.Incomplete = true
		return
	}
	o.found[u] = unlessAsked && (before || !again)
}

// eachSocket visits the sockets of a protocol in some states, none where the kernel cannot show them. Those that are not connected
// have no remote end.
func eachSocket(name string, protocol uint8, states uint32, visit func(*sockets.Socket)) error {
	for _, family := range snapshot.Families {
		err := sockets.Each(protocol, uint8(family), states, func(s *sockets.Socket) {
			if s.Remote.Port() == 0 {
				s.Remote = netip.AddrPort{}
			}
			visit(s)
		})
		if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EPROTONOSUPPORT) {
			return fmt.Errorf("list %s sockets: %w", name, err)
		}
	}
	return nil
}

// track notes what the kernel tracks. Of a connection of this host's own by TCP that
// is over its socket is gone; without one, it only says who began.
func (o *Openings) track(c netfilter.Connection) {
	u := snapshot.Use{Protocol: c.Protocol, Local: c.From, Remote: c.To}
	if !o.isMeant(u.Local.Addr()) || o.known.IsOwn(u.Remote.Addr()) {
		return
	}
	if o.Incomplete = o.Incomplete || len(o.begun) >= mostUses; !o.Incomplete {
		o.begun[u] = true
	}
	if u.Protocol != unix.IPPROTO_TCP || !o.known.IsOwn(u.Local.Addr()) {
		o.add(u, false)
	}
}

// Accepts tells whether a TCP socket accepts connections at an end of this host's.
func (o *Openings) Accepts(end netip.AddrPort) bool {
	any4, any6 := netip.AddrPortFrom(netip.IPv4Unspecified(), end.Port()), netip.AddrPortFrom(netip.IPv6Unspecified(), end.Port())
	return o.accepts[end] || o.accepts[any6] || end.Addr().Is4() && o.accepts[any4]
}

// EachAccepted visits the established TCP connections at such ends.
func (o *Openings) EachAccepted(visit func(*sockets.Socket)) error {
	return eachSocket("tcp", unix.IPPROTO_TCP, 1<<sockets.Established, func(s *sockets.Socket) {
		if o.Accepts(s.Local) {
			visit(s)
		}
	})
}

// Suppose has each accepted connection come by the interface of its own address, where no flow table tells.
func (o *Openings) Suppose() error {
	return o.EachAccepted(func(s *sockets.Socket) { o.note(pair{anyPort(s.Local), anyPort(s.Remote)}) })
}

// connection notes a TCP connection that was not accepted: nobody listens at its
// end, or it is tracked as this host's. One that is over is left for a while.
func (o *Openings) connection(s *sockets.Socket) {
	use := snapshot.Use{Protocol: unix.IPPROTO_TCP, Local: s.Local, Remote: s.Remote}
	isNone := s.State == netlink.TCP_LISTEN || s.State == netlink.TCP_CLOSE
	if isNone || !o.isMeant(use.Local.Addr()) || o.known.IsOwn(use.Remote.Addr()) {
		return
	}
	if isBegun := o.begun[use]; isBegun || !o.Accepts(use.Local) {
		use.Over = s.State == netlink.TCP_TIME_WAIT
		o.add(use, !isBegun)
	}
}

// askingPorts are those of servers that ask others by the same port: NTP, IKE and IKE behind NAT.
var askingPorts = []uint16{123, 500, 4500}

// datagrams finds UDP sockets that may send first: connected ones whose peer did not ask and whose port no server has, and
// bound ones with a port that the kernel chose and nobody has asked, or of a server that asks as well.
func (o *Openings) datagrams(all []sockets.Socket) {
	serving, chosen := map[uint16]bool{}, firstChosenPort()
	for _, s := range all {
		if !s.Remote.IsValid() && s.Local.Port() < chosen {
			serving[s.Local.Port()] = true
		}
	}
	for _, s := range all {
		use := snapshot.Use{Protocol: unix.IPPROTO_UDP, Local: s.Local, Remote: s.Remote}
		asks := !s.Remote.IsValid() && slices.Contains(askingPorts, s.Local.Port())
		if !o.isMeant(s.Local.Addr()) || serving[s.Local.Port()] && !asks || s.Remote.IsValid() && o.known.IsOwn(s.Remote.Addr()) {
			continue
		}
		o.add(use, !asks)
	}
	for u := range o.begun {
		if u.Protocol == unix.IPPROTO_UDP && u.Remote.IsValid() { // it is the same one
			delete(o.found, snapshot.Use{Protocol: unix.IPPROTO_UDP, Local: u.Local})
		}
	}
}

// associations finds those of SCTP, where the kernel has it: asking loads the module. Who began them is not told.
func (o *Openings) associations() error {
	if _, err := os.Stat("/proc/thread-self/net/sctp"); err != nil {
		return nil
	}
	return eachSocket("sctp", unix.IPPROTO_SCTP, sockets.AnyState, func(s *sockets.Socket) {
		if o.isMeant(s.Local.Addr()) {
			o.add(snapshot.Use{Protocol: unix.IPPROTO_SCTP, Local: s.Local, Remote: s.Remote}, true)
		}
	})
}

// raw finds sockets of no transport, such as those of ping(8), that are bound to an address.
func (o *Openings) raw() error {
	for name, protocol := range map[string]uint8{"raw": 0, "raw6": 0, "icmp": unix.IPPROTO_ICMP, "icmp6": unix.IPPROTO_ICMPV6} {
		text, err := os.ReadFile("/proc/thread-self/net/" + name)
		if errors.Is(err, fs.ErrNotExist) { // a kernel without the family
			continue
		}
		if err != nil {
			return fmt.Errorf("list %s sockets: %w", name, err)
		}
		for _, end := range endsIn(string(text)) {
			if o.isMeant(end.Addr()) {
				o.add(snapshot.Use{Protocol: cmp.Or(protocol, uint8(end.Port())), Local: netip.AddrPortFrom(end.Addr(), 0)}, false)
			}
		}
	}
	return nil
}

// endsIn reads the own ends of a table such as /proc/net/raw: words of 32 bits of the address in hexadecimal, each in the
// byte order of this machine, and the protocol, or the identifier of ping(8) (raw_sock_seq_show() in net/ipv4/raw.c).
func endsIn(table string) (ends []netip.AddrPort) {
	for line := range strings.Lines(table) {
		words := strings.Fields(line)
		if len(words) < 2 {
			continue
		}
		address, port, _ := strings.Cut(words[1], ":")
		raw, err1 := hex.DecodeString(address)
		number, err2 := strconv.ParseUint(port, 16, 16)
		if errors.Join(err1, err2) != nil || len(raw)%4 != 0 {
			continue // the header
		}
		for n := 0; n < len(raw); n += 4 {
			binary.NativeEndian.PutUint32(raw[n:], binary.BigEndian.Uint32(raw[n:]))
		}
		if a, ok := netip.AddrFromSlice(raw); ok {
			ends = append(ends, netip.AddrPortFrom(a.Unmap(), uint16(number)))
		}
	}
	return ends
}

// ipsec finds the states by which packets leave from an address.
func (o *Openings) ipsec() error {
	states, err := netlink.XfrmStateList(netlink.FAMILY_ALL)
	if errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EPERM) { // none, or doctor says what it may not read
		return nil
	}
	for _, s := range states {
		o.outer(uint8(s.Proto), s.Src, s.Dst)
	}
	if err != nil {
		return fmt.Errorf("list ipsec states: %w", err)
	}
	return nil
}

// tunnels finds those whose outer packets this host sends from such an address: they have no socket to be seen.
func (o *Openings) tunnels() {
	for _, link := range o.known.Links {
		local, remote := tunnelEnds(link)
		o.outer(0, local, remote)
	}
}

// outer notes packets around others, by their addresses. Of protocol 0 it is any.
func (o *Openings) outer(protocol uint8, local, remote net.IP) {
	from, _ := netip.AddrFromSlice(local)
	to, _ := netip.AddrFromSlice(remote)
	if from = from.Unmap(); o.isMeant(from) {
		o.add(snapshot.Use{Protocol: protocol, Local: netip.AddrPortFrom(from, 0), Remote: netip.AddrPortFrom(to.Unmap(), 0)}, false)
	}
}

// tunnelEnds returns the outer addresses of a tunnel, nil where a device is none or leaves them to the routing table.
func tunnelEnds(link netlink.Link) (local, remote net.IP) {
	switch t := link.(type) {
	case *netlink.Gretun:
		return t.Local, t.Remote
	case *netlink.Gretap:
		return t.Local, t.Remote
	case *netlink.Iptun:
		return t.Local, t.Remote
	case *netlink.Ip6tnl:
		return t.Local, t.Remote
	case *netlink.Sittun:
		return t.Local, t.Remote
	case *netlink.Vti:
		return t.Local, t.Remote
	case *netlink.Vxlan:
		return t.SrcAddr, t.Group
	}
	return nil, nil
}

// firstChosenPort is the first of the ports that the kernel gives to sockets that ask
// for none; its default where it does not say.
func firstChosenPort() uint16 {
	text, _ := hostsettings.Read("net.ipv4.ip_local_port_range")
	first, _, _ := strings.Cut(text, "\t")
	if port, err := strconv.ParseUint(first, 10, 16); err == nil {
		return uint16(port)
	}
	return 32768
}

var seed = maphash.MakeSeed()

func digest(key any) uint64 { return maphash.Comparable(seed, key) }

// pair is of two ends, of which a port that is 0 is any.
type pair struct{ self, peer netip.AddrPort }

func anyPort(end netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(end.Addr(), 0) }

// relations are the pairs of ends that relate a use to what its peer began: the addresses, and of datagrams those with one port.
func relations(u *snapshot.Use) []any {
	self, peer := anyPort(u.Local), anyPort(u.Remote)
	if u.Protocol == unix.IPPROTO_UDP {
		return []any{pair{self, peer}, pair{u.Local, peer}, pair{self, u.Remote}}
	}
	return []any{pair{self, peer}}
}

// askingKey is what peers asked for if a use is the answer: its tuple, or of what is not connected its own end.
func askingKey(u snapshot.Use) any {
	if !u.Remote.IsValid() {
		return u.Local
	}
	u.Over = false
	return u
}

// UseOf is the tuple of a flow, seen from this host; false where it has no ports.
func UseOf(f *flows.Flow) (use snapshot.Use, ok bool) {
	self, err1 := netip.ParseAddr(f.Self)
	peer, err2 := netip.ParseAddr(f.Peer)
	protocol := map[string]uint8{"tcp": unix.IPPROTO_TCP, "udp": unix.IPPROTO_UDP}[f.Protocol]
	return snapshot.Use{
		Protocol: protocol, Local: netip.AddrPortFrom(self, f.SelfPort), Remote: netip.AddrPortFrom(peer, f.PeerPort),
	}, errors.Join(err1, err2) == nil && protocol != 0
}

// Note has a flow say what of what was found its peer asked for.
func (o *Openings) Note(f *flows.Flow) {
	u, hasPorts := UseOf(f)
	if hasPorts {
		o.note(u)
		o.note(u.Local)
	}
	switch f.Relates {
	case flows.RelatesAll:
		o.note(pair{anyPort(u.Local), anyPort(u.Remote)})
	case flows.RelatesPorts:
		o.note(pair{u.Local, anyPort(u.Remote)})
		o.note(pair{anyPort(u.Local), u.Remote})
	}
}

func (o *Openings) note(key any) {
	if _, counts := o.asked[digest(key)]; counts {
		o.asked[digest(key)] = true
	}
}

func (o *Openings) isNoted(key any) bool { return o.asked[digest(key)] }

// Uses are what was found and no peer asked for, each with whether it is related.
func (o *Openings) Uses() []snapshot.Use {
	var list []snapshot.Use
	for u, unlessAsked := range o.found {
		if unlessAsked && o.isNoted(askingKey(u)) {
			continue
		}
		u.Related = o.Relates(&u)
		list = append(list, u)
	}
	return list
}
