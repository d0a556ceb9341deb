// SPDX-License-Identifier: Apache-2.0

package flows

import (
	"cmp"
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
	err = t.eachRow(v, &filter, func(_ uint64, r row) { rows = append(rows, &r) })
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
		if isFound || r.in != bpf.DatapathTableTABLE_ESTABLISHED || r.entry.IsClosing() {
			delete(wanted, digest)
		}
	}
	return nil
}

// SortOrders are those that a listing can be put in.
var SortOrders = []Order{ByCorrected, ByBytes, ByAge}

// sortRows puts flows in order. Flows that are equal by it stand in the order of their tuples, which is the same in every
// look. Without an order that is the only one.
func sortRows(rows []*row, order Order, since func(tick uint32) time.Duration) {
	first := map[Order]func(a, b *row) int{
		"":          func(_, _ *row) int { return 0 },
		ByCorrected: func(a, b *row) int { return cmp.Compare(b.entry.Corrected, a.entry.Corrected) },
		ByBytes:     compareBytes,
		ByAge:       func(a, b *row) int { return cmp.Compare(since(a.entry.Created), since(b.entry.Created)) },
	}[order]
	slices.SortFunc(rows, func(a, b *row) int { return cmp.Or(first(a, b), compareTuples(a, b)) })
}

// compareTuples looks at what differs least often last.
func compareTuples(a, b *row) int {
	s, t := &a.entry.Tuple, &b.entry.Tuple
	if order := cmp.Compare(s.Protocol, t.Protocol); order != 0 {
		return order
	}
	x, y := a.ends(), b.ends()
	return cmp.Or(x.peer.Compare(y.peer), x.self.Compare(y.self), cmp.Compare(a.in, b.in))
}

// compareBytes puts the largest first, and at the end what is not known.
func compareBytes(a, b *row) int {
	switch {
	case a.bytes() != nil && b.bytes() != nil:
		return cmp.Compare(*b.bytes(), *a.bytes())
	case a.bytes() != nil:
		return -1
	case b.bytes() != nil:
		return 1
	}
	return 0
}

// Entry is what a flow table holds, as the programs read it.
type Entry struct {
	Flow
	Raw  bpf.DatapathFlow
	Idle bool // the programs take it for none
	Left Left
}

// Left is how the last packet of this host was seen leaving.
type Left struct {
	At     *time.Time // to a second; nil: none was
	Moved  bool       // replypath moved it
	Astray bool       // it left otherwise than its flow asks
}

func (v *view) left(tick uint32) Left {
	const ticks = uint32(bpf.DatapathTickLEFT_TICKS)
	if tick == 0 {
		return Left{}
	}
	at, outcome := tick&^(ticks-1), bpf.DatapathOutcome(tick%ticks)
	return Left{
		At:     new(time.Now().Add(-v.clock.Since(at))),
		Moved:  outcome == bpf.DatapathOutcomeOUTCOME_CORRECTED,
		Astray: outcome > bpf.DatapathOutcomeOUTCOME_CORRECTED,
	}
}

// Entries returns the flows whose tuple matches, idle ones included, in no
// particular order.
func (t *Table) Entries(matches func(*bpf.DatapathTuple) bool) ([]Entry, error) {
	v, err := t.newView()
	if err != nil {
		return nil, err
	}
	var entries []Entry
	for _, s := range states(t.maps) {
		err := s.Each(func(_ uint64, raw *bpf.DatapathFlow) bool {
			if matches(&raw.Tuple) && !isStray(raw) {
				entries = append(entries, Entry{Flow: v.flow(raw, s.state), Raw: *raw, Idle: isIdle(raw, s.state, v.clock), Left: v.left(raw.Left)})
			}
			return true
		})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.state, err)
		}
	}
	return entries, nil
}

// Originated is what a flow that is in no table would be, of what the host originates from an own address to a peer.
func (t *Table) Originated(raw bpf.DatapathFlow) (*Entry, error) {
	v, err := t.newView()
	if err != nil {
		return nil, err
	}
	entry := &Entry{Flow: v.flow(&raw, StateOriginated), Raw: raw}
	records := bpf.Records{Table: bpf.TableOf(&t.maps.DatapathMaps)}
	record, err := records.Find(bpf.Seeds(v.journal.Seeds).Ends(raw.Tuple))
	if err != nil {
		return nil, fmt.Errorf("read what the host originated: %w", err)
	}
	if record != nil && record.To != 0 {
		entry.Left = v.left(record.Seen)
		entry.Left.Moved = bpf.DatapathOutcome(record.Outcome) == bpf.DatapathOutcomeOUTCOME_CORRECTED
		entry.Left.Astray = false // a record's time has no outcome
	}
	return entry, nil
}
