// SPDX-License-Identifier: Apache-2.0

package flows

import (
	"errors"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"replypath/loader/config"
	"replypath/loader/sockets"
)

// Listing is what is shown of which flows.
type Listing struct {
	Filter
	Order Order // before the limit counts; "": none
	Bytes bool  // ask the sockets for them, as Order ByBytes does
}

// Show returns the flows of a listing in its order, each with the kernel's choice where that was another one.
func (t *Table) Show(l Listing) ([]Flow, error) {
	filter := l.Filter
	if l.Order != "" {
		filter.Limit = 0
	}
	list, err := t.List(filter)
	if err != nil {
		return nil, err
	}
	if l.Bytes || l.Order == ByBytes {
		if err := setBytes(list); err != nil {
			return nil, err
		}
	}
	Sort(list, l.Order)
	if l.Limit > 0 {
		list = list[:min(len(list), l.Limit)]
	}
	c := newChooser()
	defer c.close()
	for n := range list {
		c.set(&list[n])
	}
	return list, nil
}

// bytesWithin is how long the kernel is asked for the bytes of connections.
const bytesWithin = 2 * time.Second

// ends are those of a connection.
type ends struct{ self, peer netip.AddrPort }

// setBytes sets how many bytes this host sent by each TCP connection that has a socket here. One dump for a family is
// cheaper than a question for each of many flows; it ends when all are found, or after a while.
func setBytes(list []Flow) error {
	until := time.Now().Add(bytesWithin)
	for name, number := range map[string]uint8{"ipv4": unix.AF_INET, "ipv6": unix.AF_INET6} {
		if err := setBytesOf(connections(list, name), number, until); err != nil {
			return err
		}
	}
	return nil
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

func setBytesOf(wanted map[ends]*Flow, family uint8, until time.Time) error {
	if len(wanted) == 0 {
		return nil
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
		err := sockets.EachOpen(family, 0, until, set)
		unknown := errors.Is(err, sockets.ErrUnfinished) || errors.Is(err, unix.ENOENT)
		if err != nil && !unknown {
			return err
		}
		if len(wanted) == 0 {
			return nil
		}
	}
	return nil
}
