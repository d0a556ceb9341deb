// SPDX-License-Identifier: Apache-2.0

// Package history keeps what a host was asked and what it opened by which interfaces, for longer than the flow
// tables do. It is gathered from the tables now and then; no packet waits for it.
package history

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"replypath/loader/kernelroute"
)

// MostRows bounds a history. Of more the rarest make room, and of these the oldest, those of replies first: what the host
// opens itself is rarer, and others cannot push it out.
const MostRows = 10000

// slack is more than the begins of a flow differ by that are told at different times.
const slack = time.Second

// spare is how many rows make room at once, so that this is rare.
const spare = MostRows / 16

// Row is what had the same own end and came from the same network. The JSON names are fixed.
type Row struct {
	Key
	Flows     uint64    `json:"flows"`
	Packets   Count     `json:"packets"` // sent by the host
	Bytes     Count     `json:"bytes"`   // of TCP's payload among it
	FirstSeen time.Time `json:"first_seen"`
	LastSeen  time.Time `json:"last_seen"`
}

// Count is null in JSON where nothing was counted.
type Count uint64

// MarshalJSON writes the number or null.
func (c Count) MarshalJSON() ([]byte, error) {
	if c == 0 {
		return []byte("null"), nil
	}
	return strconv.AppendUint(nil, uint64(c), 10), nil
}

// Key is what rows are told apart by.
type Key struct {
	// Originated tells what the host opened, or spoke first in, from replies.
	Originated bool         `json:"originated"`
	Self       netip.Addr   `json:"self"`
	SelfPort   uint16       `json:"self_port"` // 0 of what the host opened: its port is chance
	Protocol   string       `json:"protocol"`
	Peer       netip.Prefix `json:"peer"`      // a /24 or a /64
	PeerPort   uint16       `json:"peer_port"` // of what the host opened; else 0
	// FromInterface is that of the route to the peer which regards neither source nor mark: None without a route.
	FromInterface string `json:"from_interface"`
	ToInterface   string `json:"to_interface"` // that the peer asked by, or that has the own address
	// Related tells of what the host opened that its peer had come by that interface, by itself.
	Related bool `json:"related,omitempty"`
}

// Interfaces of no route, and of one that refuses.
const (
	None    = kernelroute.None
	Refused = kernelroute.Refused
)

// NetworkOf is the network that a peer is counted with.
func NetworkOf(peer netip.Addr) netip.Prefix {
	bits := 24
	if peer.Is6() {
		bits = 64
	}
	network, _ := peer.Prefix(bits) // these lengths are of any address
	return network
}

// History is a bounded set of rows. It is for one goroutine.
type History struct {
	// Since is when it began, Gathered when it was gathered last; zero for never.
	Since, Gathered time.Time
	// Watched is for how long somebody gathered in turns.
	Watched time.Duration
	// Incomplete tells that something that this host opened had no room, or was too much to look at.
	Incomplete bool

	rows    map[Key]*row
	counted map[uint64]count // of the conversations that were there lately, by their id
	loaded  bool             // it is not known which those were
	changed bool             // more than when something was seen last, since it was saved
}

// row is a Row with what only gathering needs.
type row struct {
	Row
	fresh bool // it is of the gathering that is going on
}

// count is what a conversation had sent, 0 where it was not counted.
type count struct {
	packets, bytes uint64
	missed         int // by so many gatherings in turn
}

// A conversation is remembered while few gatherings miss it: what ended looks the same. Many are not remembered at all.
const (
	mostMisses     = 10
	mostRemembered = 1 << 17
)

// New returns an empty history.
func New() *History { return &History{rows: map[Key]*row{}, counted: map[uint64]count{}} }

// conversation is a flow, or what the host opened.
type conversation struct {
	Key
	id    uint64    // what tells it from others, a digest
	begun time.Time // zero: not known
	sent  count
}

// gathering adds what is there at a moment.
type gathering struct {
	*History
	at    time.Time
	found map[uint64]count // what becomes counted
}

func (h *History) begin(at time.Time) *gathering {
	if h.Since.IsZero() {
		h.Since = at
	}
	return &gathering{History: h, at: at, found: map[uint64]count{}}
}

// add counts a conversation once, and what it sent since it was seen last.
func (g *gathering) add(c *conversation) {
	r := g.rows[c.Key]
	if r == nil {
		r = &row{Row: Row{Key: c.Key, FirstSeen: g.at}, fresh: true}
		g.rows[c.Key] = r
	}
	before, known := g.counted[c.id]
	isLater := c.begun.After(g.Gathered.Add(slack))
	if known && isLater { // another one by the same tuple
		before, known = count{}, false
	}
	_, again := g.found[c.id]
	isNew := !known && (r.fresh || !g.loaded || isLater)
	if (isNew || r.Flows == 0) && !again { // of a pair that is known another conversation may be the last
		r.Flows++
		g.changed = true
		if !c.begun.IsZero() && c.begun.Before(r.FirstSeen) {
			r.FirstSeen = c.begun
		}
	}
	// A socket that could not be asked this time, or is gone, takes nothing back.
	sent := count{packets: max(before.packets, c.sent.packets), bytes: max(before.bytes, c.sent.bytes)}
	if known || isNew { // of another it is not known how much was counted before a restart
		r.Packets += Count(sent.packets - before.packets)
		r.Bytes += Count(sent.bytes - before.bytes)
	}
	r.LastSeen = g.at
	g.found[c.id] = sent
}

// end takes what was gathered for what was there, and bounds the history.
func (g *gathering) end() {
	g.remember()
	g.Gathered, g.counted, g.loaded = g.at, g.found, false
	for _, r := range g.rows {
		r.fresh = false
	}
	if len(g.rows) <= MostRows {
		return
	}
	all := g.List(time.Time{})
	slices.SortFunc(all, func(a, b Row) int {
		return cmp.Or(compareBools(a.Originated, b.Originated), cmp.Compare(a.Flows, b.Flows), a.LastSeen.Compare(b.LastSeen))
	})
	for _, r := range all[:len(all)-MostRows+spare] {
		g.Incomplete = g.Incomplete || r.Originated
		delete(g.rows, r.Key)
	}
}

// remember keeps what this gathering did not find, so that the next one does not take it for new.
func (g *gathering) remember() {
	for id, before := range g.counted {
		if _, isFound := g.found[id]; !isFound && before.missed < mostMisses && len(g.found) < mostRemembered {
			before.missed++
			g.found[id] = before
		}
	}
}

// compareBools puts false first.
func compareBools(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// List returns the rows that were last seen at a time or later, those of most flows first.
func (h *History) List(since time.Time) []Row {
	list := []Row{}
	for _, r := range h.rows {
		if !r.LastSeen.Before(since) {
			list = append(list, r.Row)
		}
	}
	slices.SortFunc(list, func(a, b Row) int {
		return cmp.Or(cmp.Compare(b.Flows, a.Flows), b.LastSeen.Compare(a.LastSeen), a.compare(&b.Key))
	})
	return list
}

// compare orders rows that are alike otherwise.
func (k *Key) compare(other *Key) int {
	return cmp.Or(k.Self.Compare(other.Self), cmp.Compare(k.SelfPort, other.SelfPort), k.Peer.Addr().Compare(other.Peer.Addr()),
		cmp.Compare(k.PeerPort, other.PeerPort), cmp.Compare(k.Protocol, other.Protocol),
		cmp.Compare(k.ToInterface, other.ToInterface), cmp.Compare(k.FromInterface, other.FromInterface), compareBools(k.Related, other.Related))
}
