// SPDX-License-Identifier: Apache-2.0

package flows

import (
	"errors"
	"fmt"
	"maps"
	"runtime/debug"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/loader/config"
	"replypath/loader/hostsettings"
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

// pageFlows is how many flows Show makes at once: the entries that they are made of take a third of the room.
const pageFlows = 1024

// Show passes the flows of a listing to each, page by page in its order, with the kernel's choice where that was another one.
func (t *Table) Show(l Listing, each func(page []Flow) error) error {
	const percent = 20 // garbage is a page at a time, beside many rows that stay
	defer debug.SetGCPercent(debug.SetGCPercent(percent))
	v, err := t.newView()
	if err != nil {
		return err
	}
	rows, err := t.rows(v, &l)
	if err != nil {
		return err
	}
	if l.Asymmetric && len(rows) == 0 {
		l.warn(hostsettings.Unseen(slices.Sorted(maps.Values(v.interfaces))))
	}
	if l.Bytes || l.Order == ByBytes {
		if err := l.setBytes(rows); err != nil {
			return err
		}
	}
	sortRows(rows, l.Order, v.clock.Since)
	if l.Limit > 0 {
		rows = rows[:min(len(rows), l.Limit)]
	}
	kernel := newChooser()
	defer kernel.close()
	for part := range slices.Chunk(rows, pageFlows) {
		page := make([]Flow, len(part))
		for n, r := range part {
			page[n] = r.flow(v)
			kernel.set(&page[n])
		}
		if err := each(page); err != nil {
			return err
		}
	}
	return nil
}

// rows returns those that match. With an order the limit counts later.
func (t *Table) rows(v *view, l *Listing) (rows []*row, err error) {
	filter := l.Filter
	if l.Order != "" {
		filter.Limit = 0
	}
	err = t.eachRow(v, &filter, func(_ bpf.DatapathTable, _ uint64, r row) { rows = append(rows, &r) })
	return rows, err
}

// bytesWithin is how long the kernel is asked for the bytes of connections.
const bytesWithin = 2 * time.Second

// fewConnections are asked for one by one: a dump goes through all sockets of the host.
const fewConnections = 64

// setBytes sets how many bytes this host sent by each TCP connection that has a socket here. One dump for a family is
// cheaper than a question for each of many flows; it ends when all are found, or after a while.
func (l *Listing) setBytes(rows []*row) error {
	until := time.Now().Add(bytesWithin)
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		err := setBytesOf(connections(rows, family), family, until)
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
	if l.Warn != nil && message != "" {
		l.Warn(message)
	}
}

// connections are the TCP flows of a family by the digests of their ends.
func connections(rows []*row, family uint8) map[uint64]*row {
	found := make(map[uint64]*row)
	for _, r := range rows {
		of := r.ends()
		if r.entry.Tuple.Protocol == config.ProtocolTCP && of.peer.Addr().Is4() == (family == unix.AF_INET) {
			found[of.digest()] = r
		}
	}
	return found
}

// setBytesOf returns ENOENT where the kernel does not tell of sockets.
func setBytesOf(wanted map[uint64]*row, family uint8, until time.Time) error {
	if len(wanted) <= fewConnections {
		if err := setBytesOfFew(wanted); err != nil || len(wanted) == 0 {
			return err
		}
	}
	set := func(s *sockets.Socket) (goOn bool) {
		of := ends{s.Local, s.Remote}.digest()
		if r := wanted[of]; r != nil {
			r.setBytes(s.Sent)
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
func setBytesOfFew(wanted map[uint64]*row) error {
	for digest, r := range wanted {
		of := r.ends()
		s, err := sockets.Connection(of.self, of.peer)
		if err != nil {
			return err
		}
		isFound := s != nil && s.Local == of.self && s.Remote == of.peer
		if isFound {
			r.setBytes(s.Sent)
		}
		if isFound || r.in != bpf.DatapathTableTABLE_ESTABLISHED || isClosing(&r.entry) {
			delete(wanted, digest)
		}
	}
	return nil
}
