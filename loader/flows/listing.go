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

const (
	// pageFlows is how many flows Show makes at once: the entries that they are made of take a third of the room.
	pageFlows = 1024
	// mostRows bounds the entries that are held in memory, to four megabytes.
	mostRows = 1 << 15
	// mostSorted is how many flows an order shows: the first of more.
	mostSorted = mostRows / 2
)

// Show passes the flows of a listing to each, page by page, with the kernel's choice where that was another one. In an order there
// are mostSorted at most, which Warn is told. Without one they are in the order of their addresses, but many come as they are read.
func (t *Table) Show(l Listing, each func(page []Flow) error) error {
	const percent = 20 // garbage is a page at a time, beside many rows that stay
	defer debug.SetGCPercent(debug.SetGCPercent(percent))
	v, err := t.newView()
	if err != nil {
		return err
	}
	s := &listing{Listing: &l, view: v, kernel: newChooser(), each: each}
	defer s.kernel.close()
	filter := l.Filter
	if l.Order != "" {
		filter.Limit = 0 // it counts later
	}
	if err := t.eachRow(v, &filter, func(_ uint64, r row) { s.add(&r) }); err != nil {
		return err
	}
	if s.count == 0 && l.Asymmetric {
		l.warn(hostsettings.Unseen(slices.Sorted(maps.Values(v.interfaces))))
	}
	if s.err == nil && (s.count == len(s.rows) || l.Order != "") {
		s.err = s.sort()
	}
	if l.Order != "" && s.count > len(s.rows) && (l.Limit == 0 || l.Limit > mostSorted) {
		l.warn(fmt.Sprintf("these are the first %d of %d flows", mostSorted, s.count))
	}
	return cmp.Or(s.err, s.show())
}

// listing is one that is being shown.
type listing struct {
	*Listing
	view   *view
	kernel *chooser
	each   func(page []Flow) error
	rows   []*row
	count  int               // of all that there were
	sent   map[uint64]uint64 // by TCP connections, by digests of their ends; nil: nobody was asked
	err    error
}

// add takes a row. Where there are too many it shows them, or with an order keeps the first.
func (s *listing) add(r *row) {
	if s.err != nil {
		return
	}
	s.count++
	if s.rows = append(s.rows, r); len(s.rows) < mostRows {
		return
	}
	if s.Order != "" {
		s.err = s.sort()
		return
	}
	s.err = s.show()
}

// sort puts the rows in order, and leaves those that are shown.
func (s *listing) sort() error {
	if s.Order == ByBytes {
		if err := s.setBytes(); err != nil {
			return err
		}
	}
	sortRows(s.rows, s.Order, s.view.clock.Since)
	if s.Order != "" {
		most := mostSorted
		if s.Limit > 0 {
			most = min(most, s.Limit)
		}
		s.rows = slices.Delete(s.rows, min(len(s.rows), most), len(s.rows))
	}
	return nil
}

// show shows the rows and forgets them.
func (s *listing) show() error {
	if s.Bytes && s.Order != ByBytes {
		if err := s.setBytes(); err != nil {
			return err
		}
	}
	for part := range slices.Chunk(s.rows, pageFlows) {
		page := make([]Flow, len(part))
		for n, r := range part {
			page[n] = r.flow(s.view)
			s.kernel.set(&page[n])
		}
		if err := s.each(page); err != nil {
			return err
		}
	}
	clear(s.rows)
	s.rows = s.rows[:0]
	return nil
}

const (
	// bytesWithin is how long the kernel is asked for the bytes of connections.
	bytesWithin = 2 * time.Second
	// fewConnections are asked for one by one: a dump goes through all sockets of the host.
	fewConnections = 64
	// mostSent bounds of how many connections they are held in memory.
	mostSent = 1 << 18
)

// setBytes sets how many bytes this host sent by each TCP connection that has a socket here.
func (s *listing) setBytes() error {
	tcp := slices.DeleteFunc(slices.Clone(s.rows), func(r *row) bool { return r.entry.Tuple.Protocol != config.ProtocolTCP })
	if len(tcp) <= fewConnections {
		var err error
		if tcp, err = setBytesOfFew(tcp); err != nil {
			return err
		}
	}
	if len(tcp) > 0 && s.sent == nil {
		if err := s.askSent(); err != nil {
			return err
		}
	}
	for _, r := range tcp {
		if bytes, known := s.sent[r.ends().digest()]; known {
			r.setBytes(&bytes)
		}
	}
	return nil
}

// askSent asks all sockets for what they sent: one dump is cheaper than a question for each of many flows.
func (s *listing) askSent() error {
	s.sent = map[uint64]uint64{}
	until := time.Now().Add(bytesWithin)
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		err := sockets.EachOpen(family, 0, until, func(of *sockets.Socket) bool {
			if of.Sent != nil {
				s.sent[ends{of.Local, of.Remote}.digest()] = *of.Sent
			}
			return len(s.sent) < mostSent
		})
		switch {
		case errors.Is(err, sockets.ErrUnfinished) || len(s.sent) >= mostSent:
			s.warn(fmt.Sprintf("the bytes of all connections could not be read within %s: choose fewer flows by --peer", bytesWithin))
		case errors.Is(err, unix.ENOENT) && s.Order == ByBytes:
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

// setBytesOfFew asks for each connection, and returns those that may have a socket which is bound to a device.
func setBytesOfFew(rows []*row) (bound []*row, err error) {
	for _, r := range rows {
		of := r.ends()
		s, err := sockets.Connection(of.self, of.peer)
		if err != nil {
			return nil, err
		}
		if s != nil && s.Local == of.self && s.Remote == of.peer {
			r.setBytes(s.Sent)
		} else if r.in == bpf.DatapathTableTABLE_ESTABLISHED && !r.entry.IsClosing() {
			bound = append(bound, r)
		}
	}
	return bound, nil
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
