// SPDX-License-Identifier: Apache-2.0

package opened

import (
	"errors"
	"hash/maphash"
	"net/netip"

	"golang.org/x/sys/unix"

	"replypath/loader/doctor/snapshot"
	"replypath/loader/flows"
)

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
