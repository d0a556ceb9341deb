// SPDX-License-Identifier: Apache-2.0

package flows

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/loader/config"
	"replypath/loader/sockets"
)

// Listing is what is shown of which flows.
type Listing struct {
	Filter
	Order Order // before the limit counts; "": none
	Bytes bool  // ask the sockets for them, as Order ByBytes does
	// Warn is told what is not known for an unusual reason; nil: nobody is.
	Warn func(message string)
}

// Show returns the flows of a listing in its order, each with the kernel's choice where that was another one.
func (t *Table) Show(l Listing) ([]Flow, error) {
	list, err := t.chosen(&l)
	if err != nil {
		return nil, err
	}
	if l.Bytes || l.Order == ByBytes {
		if err := l.setBytes(list); err != nil {
			return nil, err
		}
	}
	Sort(list, l.Order)
	if l.Limit > 0 {
		list = list[:min(len(list), l.Limit)]
	}
	AskKernel(list)
	return list, nil
}

// chosen returns the flows of which the first are shown. Where only few of very many are, no others are made.
func (t *Table) chosen(l *Listing) ([]Flow, error) {
	filter := l.Filter
	ranking := newRankings(l.Limit)[l.Order]
	switch {
	case l.Order == "":
		return t.List(filter)
	case l.Limit > 0 && ranking != nil && !l.Originated:
		return t.first(filter, ranking)
	}
	filter.Limit = 0
	return t.List(filter)
}

// first returns the flows that match and come first in a ranking.
func (t *Table) first(filter Filter, ranking *ranking) ([]Flow, error) {
	v, err := t.newView()
	if err != nil {
		return nil, err
	}
	for _, s := range states(t.maps) {
		_, err := s.visit(v.clock, func(digest uint64, entry *bpf.DatapathFlow) {
			if filter.matchesEntry(v, entry, s.state) {
				ranking.offer(candidate{id: life{digest, entry.Created}, state: s.state, flow: entry, age: v.clock.Since(entry.Created)})
			}
		})
		if err != nil {
			return nil, err
		}
	}
	list := make([]Flow, len(ranking.best))
	for n, c := range ranking.best {
		list[n] = v.flow(c.flow, c.state)
	}
	return list, nil
}

// bytesWithin is how long the kernel is asked for the bytes of connections.
const bytesWithin = 2 * time.Second

// fewConnections are asked for one by one: a dump goes through all sockets of the host.
const fewConnections = 64

// ends are those of a connection.
type ends struct{ self, peer netip.AddrPort }

// setBytes sets how many bytes this host sent by each TCP connection that has a socket here. One dump for a family is
// cheaper than a question for each of many flows; it ends when all are found, or after a while.
func (l *Listing) setBytes(list []Flow) error {
	until := time.Now().Add(bytesWithin)
	for _, family := range []struct {
		name   string
		number uint8
	}{{"ipv4", unix.AF_INET}, {"ipv6", unix.AF_INET6}} {
		err := setBytesOf(connections(list, family.name), family.number, until)
		switch {
		case errors.Is(err, sockets.ErrUnfinished):
			l.warn(fmt.Sprintf("the bytes of all connections could not be read within %s: choose fewer flows by --peer", bytesWithin))
		case errors.Is(err, unix.ENOENT) && l.Order == ByBytes:
			return fmt.Errorf("no bytes are known, as the kernel does not list TCP sockets (modprobe tcp_diag): %w", err)
		case errors.Is(err, unix.ENOENT): // then no bytes are known
		case err != nil:
			return err
		}
	}
	return nil
}

func (l *Listing) warn(message string) {
	if l.Warn != nil {
		l.Warn(message)
	}
}

// connections are the TCP flows of a family by their ends.
func connections(list []Flow, family string) map[ends]*Flow {
	found := make(map[ends]*Flow)
	for n := range list {
		f := &list[n]
		if f.Protocol != config.ProtocolName(config.ProtocolTCP) || f.Family != family {
			continue
		}
		self, err1 := netip.ParseAddr(f.Self)
		peer, err2 := netip.ParseAddr(f.Peer)
		if errors.Join(err1, err2) == nil {
			found[ends{netip.AddrPortFrom(self, f.SelfPort), netip.AddrPortFrom(peer, f.PeerPort)}] = f
		}
	}
	return found
}

// setBytesOf returns ENOENT where the kernel does not tell of sockets.
func setBytesOf(wanted map[ends]*Flow, family uint8, until time.Time) error {
	if len(wanted) <= fewConnections {
		if err := setBytesOfFew(wanted); err != nil || len(wanted) == 0 {
			return err
		}
	}
	set := func(s *sockets.Socket) (goOn bool) {
		of := ends{s.Local, s.Remote}
		if f := wanted[of]; f != nil {
			f.Bytes = s.Sent
			delete(wanted, of)
		}
		return len(wanted) > 0
	}
	// An IPv6 socket may serve IPv4, and is then dumped with IPv6 only.
	families := []uint8{family}
	if family == unix.AF_INET {
		families = append(families, unix.AF_INET6)
	}
	for _, family := range families {
		if err := sockets.EachOpen(family, 0, until, set); err != nil || len(wanted) == 0 {
			return err
		}
	}
	return nil
}

// setBytesOfFew asks for each connection. What is wanted then may have a socket that is bound to a device.
func setBytesOfFew(wanted map[ends]*Flow) error {
	for of, f := range wanted {
		s, err := sockets.Connection(of.self, of.peer)
		if err != nil {
			return err
		}
		isFound := s != nil && s.Local == of.self && s.Remote == of.peer
		if isFound {
			f.Bytes = s.Sent
		}
		if isFound || f.Closing || f.State != StateEstablished {
			delete(wanted, of)
		}
	}
	return nil
}
