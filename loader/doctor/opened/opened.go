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
	"maps"
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
	IsOwn  func(netip.Addr) bool
	Askers Askers // as the flow table has them; nil: there is none
	TCP    []sockets.Socket
	UDP    []sockets.Socket
	Links  []netlink.Link
}

// Find returns what this host opened from the addresses that isMeant is true of, or may open: sockets, tunnels, IPsec
// states, and what the kernel tracks. With an error the list is what could be told.
func Find(k *Known, isMeant func(netip.Addr) bool) ([]snapshot.Use, error) {
	o := &openings{Known: k, isMeant: isMeant, begun: usesSet{}, found: usesSet{}}
	err := o.gather()
	o.suppose()
	list := slices.Collect(maps.Keys(o.found))
	for n := range list {
		list[n].Related = o.Askers.Relate(&list[n])
	}
	return list, err
}

// openings are what this host opened from some addresses.
type openings struct {
	*Known
	isMeant func(netip.Addr) bool
	begun   usesSet // tracked, with this host's side as the one that began
	found   usesSet
}

type usesSet map[snapshot.Use]bool

func (o *openings) gather() error {
	for _, family := range snapshot.Families {
		if err := netfilter.Tracked(uint8(family), o.track); err != nil {
			return err
		}
	}
	o.connections()
	o.datagrams()
	o.tunnels()
	return errors.Join(o.associations(), o.raw(), o.ipsec())
}

// Sockets lists the sockets of a protocol, none where the kernel cannot show them. Those that are not connected have no remote end.
func Sockets(name string, protocol uint8) ([]sockets.Socket, error) {
	var all []sockets.Socket
	for _, family := range snapshot.Families {
		list, err := sockets.All(protocol, uint8(family))
		if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EPROTONOSUPPORT) {
			return nil, fmt.Errorf("list %s sockets: %w", name, err)
		}
		for n := range list {
			if list[n].Remote.Port() == 0 {
				list[n].Remote = netip.AddrPort{}
			}
		}
		all = append(all, list...)
	}
	return all, nil
}

// track notes what the kernel tracks. Of a connection of this host's own by TCP that
// is over its socket is gone; without one, it only says who began.
func (o *openings) track(c netfilter.Connection) {
	u := snapshot.Use{Protocol: c.Protocol, Local: c.From, Remote: c.To}
	if !o.isMeant(u.Local.Addr()) || o.IsOwn(u.Remote.Addr()) {
		return
	}
	o.begun[u] = true
	if u.Protocol != unix.IPPROTO_TCP || !o.IsOwn(u.Local.Addr()) {
		o.found[u] = true
	}
}

// Accepts returns the test whether a TCP socket of a list accepts connections at an end of this host's.
func Accepts(list []sockets.Socket) func(netip.AddrPort) bool {
	ends := map[netip.AddrPort]bool{}
	for _, s := range list {
		if s.State == netlink.TCP_LISTEN {
			ends[s.Local] = true
		}
	}
	return func(end netip.AddrPort) bool {
		any4, any6 := netip.AddrPortFrom(netip.IPv4Unspecified(), end.Port()), netip.AddrPortFrom(netip.IPv6Unspecified(), end.Port())
		return ends[end] || ends[any6] || end.Addr().Is4() && ends[any4]
	}
}

// suppose has each accepted connection come by the interface of its own address, where no flow table tells.
func (o *openings) suppose() {
	if o.Askers != nil {
		return
	}
	o.Askers = Askers{}
	accepts := Accepts(o.TCP)
	for _, s := range o.TCP {
		if s.State == sockets.Established && accepts(s.Local) {
			o.Askers.add(pair{anyPort(s.Local), anyPort(s.Remote)})
		}
	}
}

// connections finds TCP connections that were not accepted: nobody listens at their
// end, or they are tracked as this host's. One that is over is left for a while.
func (o *openings) connections() {
	accepts := Accepts(o.TCP)
	for _, s := range o.TCP {
		use := snapshot.Use{Protocol: unix.IPPROTO_TCP, Local: s.Local, Remote: s.Remote}
		isNone := s.State == netlink.TCP_LISTEN || s.State == netlink.TCP_CLOSE
		if isNone || !o.isMeant(use.Local.Addr()) || o.IsOwn(use.Remote.Addr()) {
			continue
		}
		if o.begun[use] || !accepts(use.Local) && !o.Askers.asked(use) {
			use.Over = s.State == netlink.TCP_TIME_WAIT
			o.found[use] = true
		}
	}
}

// askingPorts are those of servers that ask others by the same port: NTP, IKE and IKE behind NAT.
var askingPorts = []uint16{123, 500, 4500}

// datagrams finds UDP sockets that may send first: connected ones whose peer did not ask and whose port no server has, and
// bound ones with a port that the kernel chose and nobody has asked, or of a server that asks as well.
func (o *openings) datagrams() {
	serving, chosen := map[uint16]bool{}, firstChosenPort()
	for _, s := range o.UDP {
		if !s.Remote.IsValid() && s.Local.Port() < chosen {
			serving[s.Local.Port()] = true
		}
	}
	for _, s := range o.UDP {
		use := snapshot.Use{Protocol: unix.IPPROTO_UDP, Local: s.Local, Remote: s.Remote}
		isServer := (serving[s.Local.Port()] || o.Askers.serves(s.Local)) && !slices.Contains(askingPorts, s.Local.Port())
		if s.Remote.IsValid() {
			isServer = serving[s.Local.Port()] || o.Askers.asked(use) || o.IsOwn(s.Remote.Addr())
		}
		if o.isMeant(s.Local.Addr()) && !isServer {
			o.found[use] = true
		}
	}
	for u := range o.begun {
		if u.Protocol == unix.IPPROTO_UDP && u.Remote.IsValid() { // it is the same one
			delete(o.found, snapshot.Use{Protocol: unix.IPPROTO_UDP, Local: u.Local})
		}
	}
}

// associations finds those of SCTP, where the kernel has it: asking loads the module. Who began them is not told.
func (o *openings) associations() error {
	if _, err := os.Stat("/proc/thread-self/net/sctp"); err != nil {
		return nil
	}
	list, err := Sockets("sctp", unix.IPPROTO_SCTP)
	for _, s := range list {
		if use := (snapshot.Use{Protocol: unix.IPPROTO_SCTP, Local: s.Local, Remote: s.Remote}); o.isMeant(s.Local.Addr()) && !o.Askers.asked(use) {
			o.found[use] = true
		}
	}
	return err
}

// raw finds sockets of no transport, such as those of ping(8), that are bound to an address.
func (o *openings) raw() error {
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
				use := snapshot.Use{Protocol: cmp.Or(protocol, uint8(end.Port())), Local: netip.AddrPortFrom(end.Addr(), 0)}
				o.found[use] = true
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
func (o *openings) ipsec() error {
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
func (o *openings) tunnels() {
	for _, link := range o.Links {
		local, remote := tunnelEnds(link)
		o.outer(0, local, remote)
	}
}

// outer notes packets around others, by their addresses. Of protocol 0 it is any.
func (o *openings) outer(protocol uint8, local, remote net.IP) {
	from, _ := netip.AddrFromSlice(local)
	to, _ := netip.AddrFromSlice(remote)
	if from = from.Unmap(); o.isMeant(from) {
		o.found[snapshot.Use{Protocol: protocol, Local: netip.AddrPortFrom(from, 0), Remote: netip.AddrPortFrom(to.Unmap(), 0)}] = true
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

// Askers have the flows of peers that asked this host, by digest: there may be very many.
type Askers map[uint64]bool

var seed = maphash.MakeSeed()

// AskersIn are those of a list.
func AskersIn(list []flows.Flow) Askers {
	a := Askers{}
	for n := range list {
		a.Note(&list[n])
	}
	return a
}

func (a Askers) add(key any)      { a[maphash.Comparable(seed, key)] = true }
func (a Askers) has(key any) bool { return a[maphash.Comparable(seed, key)] }

// pair is of two ends, of which a port that is 0 is any.
type pair struct{ self, peer netip.AddrPort }

func anyPort(end netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(end.Addr(), 0) }

func addressesOf(u *snapshot.Use) pair { return pair{anyPort(u.Local), anyPort(u.Remote)} }

// UseOf is the tuple of a flow, seen from this host; false where it has no ports.
func UseOf(f *flows.Flow) (use snapshot.Use, ok bool) {
	self, err1 := netip.ParseAddr(f.Self)
	peer, err2 := netip.ParseAddr(f.Peer)
	protocol := map[string]uint8{"tcp": unix.IPPROTO_TCP, "udp": unix.IPPROTO_UDP}[f.Protocol]
	return snapshot.Use{
		Protocol: protocol, Local: netip.AddrPortFrom(self, f.SelfPort), Remote: netip.AddrPortFrom(peer, f.PeerPort),
	}, errors.Join(err1, err2) == nil && protocol != 0
}

// Note adds a flow.
func (a Askers) Note(f *flows.Flow) {
	u, hasPorts := UseOf(f)
	if hasPorts {
		a.add(u)
		a.add(u.Local)
	}
	switch f.Relates {
	case flows.RelatesAll:
		a.add(addressesOf(&u))
	case flows.RelatesPorts:
		a.add(pair{u.Local, anyPort(u.Remote)})
		a.add(pair{anyPort(u.Local), u.Remote})
	}
}

// asked tells whether the peer began, serves whether a peer asked this end.
func (a Askers) asked(u snapshot.Use) bool      { return a.has(u) }
func (a Askers) serves(end netip.AddrPort) bool { return a.has(end) }

// Relate tells whether what this host opened is related to what its peer asked for, by the interface of the own address.
func (a Askers) Relate(u *snapshot.Use) bool {
	isOfPort := a.has(pair{u.Local, anyPort(u.Remote)}) || a.has(pair{anyPort(u.Local), u.Remote})
	return a.has(addressesOf(u)) || u.Protocol == unix.IPPROTO_UDP && isOfPort
}
