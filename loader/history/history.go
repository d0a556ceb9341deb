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
)

// MostRows bounds a history. Of more the rarest make room, and of these the oldest.
const MostRows = 10000

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
}

// None is the interface of no route.
const None = "none"

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
	rows            map[Key]*row
	counted         map[uint64]count // of the conversations that were there at Gathered, by their id
	loaded          bool             // it is not known which those were
}

// row is a Row with what only gathering needs.
type row struct {
	Row
	fresh bool // it is of the gathering that is going on
}

// count is what a conversation had sent, 0 where it was not counted.
type count struct{ packets, bytes uint64 }

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
	at      time.Time
	counted map[uint64]count
}

func (h *History) begin(at time.Time) *gathering {
	if h.Since.IsZero() {
		h.Since = at
	}
	return &gathering{History: h, at: at, counted: map[uint64]count{}}
}

// add counts a conversation once, and what it sent since it was seen last.
func (g *gathering) add(c *conversation) {
	r := g.rows[c.Key]
	if r == nil {
		r = &row{Row: Row{Key: c.Key, FirstSeen: g.at}, fresh: true}
		g.rows[c.Key] = r
	}
	before, known := g.History.counted[c.id]
	_, again := g.counted[c.id]
	isNew := !known && (r.fresh || c.begun.After(g.Gathered) || c.begun.IsZero() && !g.loaded)
	if isNew && !again {
		r.Flows++
		if !c.begun.IsZero() && c.begun.Before(r.FirstSeen) {
			r.FirstSeen = c.begun
		}
	}
	if known || isNew { // of another it is not known how much was counted before a restart
		r.Packets += Count(c.sent.packets - min(before.packets, c.sent.packets))
		r.Bytes += Count(c.sent.bytes - min(before.bytes, c.sent.bytes))
	}
	r.LastSeen = g.at
	g.counted[c.id] = c.sent
}

// end takes what was gathered for what was there, and bounds the history.
func (g *gathering) end() {
	g.Gathered, g.History.counted, g.loaded = g.at, g.counted, false
	for _, r := range g.rows {
		r.fresh = false
	}
	if len(g.rows) <= MostRows {
		return
	}
	all := g.List(time.Time{})
	slices.SortFunc(all, func(a, b Row) int { return cmp.Or(cmp.Compare(a.Flows, b.Flows), a.LastSeen.Compare(b.LastSeen)) })
	for _, r := range all[:len(all)-MostRows+spare] {
		delete(g.rows, r.Key)
	}
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
		cmp.Compare(k.ToInterface, other.ToInterface), cmp.Compare(k.FromInterface, other.FromInterface))
}
