// SPDX-License-Identifier: Apache-2.0

// Package model decides what becomes of a packet, as the datapath should: in
// plain Go, written from what the project says that it does and not from the C,
// so that the two can be held against each other. It keeps flows by tuple in Go
// maps that are never full.
//
// Where several rules apply and nothing says which of them is named in the
// counters, every one of them is right: see Witness.
package model

import (
	"math"
	"net/netip"
	"slices"

	"replypath/bpf"
)

// Names of what both sides hold.
type (
	Tuple     = bpf.DatapathTuple
	Flow      = bpf.DatapathFlow
	Event     = bpf.DatapathEvent
	Pair      = bpf.DatapathPair
	Interface = bpf.DatapathInterface
	Gateway   = bpf.DatapathGateway
	MAC       = [6]uint8
)

// Host is what the model knows about the host: what the loader writes into maps.
type Host struct {
	Interfaces   map[uint16]Interface // by id
	Gone         map[uint16]bool      // their devices, unseen by the loader
	Down         map[uint16]bool      // their links, says the kernel
	Downs        map[uint16]uint16    // how often they went down
	ShowsLinks   bool                 // the programs can ask the kernel; else they take the loader's word
	Gateways     map[uint16]Gateway
	OwnAddresses map[netip.Addr]bpf.DatapathOwnFlags
	Served       map[netip.Prefix]bpf.DatapathOwnFlags // although no interface has them; none holds another
	OnLink       map[uint32][]netip.Prefix             // by ifindex
	Routes       map[uint32][]Route                    // by ifindex
	Sources      map[netip.Addr]uint16                 // own addresses, to the gateway that takes their packets
	Exclusions   []Exclusion

	Protocols         map[uint8]bool
	Follow            bpf.DatapathFollow
	ScopeAll          bool
	LoopbackSymmetric bool
	ModeByHand        bpf.DatapathMode
	TrialOver         bool // and nobody has confirmed it
	Repair            bpf.DatapathSourceRepair
	Related           bool
	GraceUntil        uint32 // ticks: what the host sent until then may have answered what nobody recorded
}

// Route is what is routed by a gateway, 0 where several would do.
type Route struct {
	Prefix  netip.Prefix
	Gateway uint16
}

// Exclusion matches what is never recorded; the zero value of each part matches
// everything.
type Exclusion struct {
	Peer, Self netip.Prefix
	Protocol   uint8
	SelfPort   uint16
}

// Socket is a TCP socket of the host's.
type Socket struct {
	Accepted bool // the peer opened the connection
	Received uint32
	Acked    uint32
	Written  uint32 // the next sequence number that the host will use
	Window   uint32
}

// Sockets are the sockets that segments and datagrams may belong to.
type Sockets struct {
	Connections  map[Tuple]Socket
	Listeners    map[netip.AddrPort]bool
	ConnectedUDP map[Tuple]bool
	// OpenUDP are not connected. Those of the unspecified address take what is sent to any
	// address, of IPv4 as well.
	OpenUDP map[netip.AddrPort]bool
}

// Count is what was counted for an interface pair.
type Count struct{ Packets, Bytes, Flows uint64 }

// Note is that the host sent by a tuple before anything came in by it.
type Note struct {
	Sent  uint32 // ticks of its SYN, or last datagram
	Heard uint32 // ticks of the last answer; 0: none came
}

// Witness knows what the datapath did with the packet that the model decides
// about, for cases in which several things are right. Functions that are nil
// leave the choice to the model.
type Witness struct {
	Rose func(Event) bool // this event was counted
}

// Model is the state of the datapath.
type Model struct {
	Host    Host
	Sockets Sockets
	Witness Witness

	Now   uint32                      // ticks; stands still while packets are decided about
	Ticks func(seconds uint32) uint32 // how many ticks these are

	HalfOpen       map[Tuple]Flow
	Established    map[Tuple]Flow
	Connectionless map[Tuple]Flow
	Outbound       map[Tuple]Note
	Leads          map[LeadKey]Lead
	Originated     map[Ends]Originated
	Recent         map[RecentKey]Tuple
	PlaceOf        func(Ends) uint32 // in Recent
	Ways           map[Sender]Learnt
	Begun          map[Sender]Begun

	// Refused are tuples that proved to be of no flow: the datapath remembers that for a while, and need not count more of
	// what concerns them.
	Refused map[Tuple]bool

	Events map[Event]uint64
	Pairs  map[Pair]Count

	handover *handover
	replied  bool // the packet that leaves is of a flow
}

// handover is a packet on its way from one interface's egress to another's.
type handover struct {
	table   Table
	tuple   Tuple
	ifindex uint32
	pair    Pair
	packets uint64
	waits   bool // it may wait for a MAC
	first   bool // of what the host originates: of its addresses
}

// New returns a model without flows. placeOf is where the datapath keeps what began last by addresses.
func New(host Host, ticks func(seconds uint32) uint32, placeOf func(Ends) uint32) *Model {
	return &Model{
		PlaceOf:        placeOf,
		Host:           host,
		Ticks:          ticks,
		HalfOpen:       make(map[Tuple]Flow),
		Established:    make(map[Tuple]Flow),
		Connectionless: make(map[Tuple]Flow),
		Outbound:       make(map[Tuple]Note),
		Leads:          make(map[LeadKey]Lead),
		Originated:     make(map[Ends]Originated),
		Recent:         make(map[RecentKey]Tuple),
		Ways:           make(map[Sender]Learnt),
		Begun:          make(map[Sender]Begun),
		Refused:        make(map[Tuple]bool),
		Events:         make(map[Event]uint64),
		Pairs:          make(map[Pair]Count),
	}
}

// Frame is a packet as it passes a program.
type Frame struct {
	Ifindex  uint32
	CameBy   uint32 // where what leaves came in, 0 where the host itself sends it
	Bytes    []byte
	NoHeader bool    // Bytes begin with the IP header
	Protocol uint16  // EtherType of a packet without header
	Foreign  bool    // not for this host (PACKET_HOST)
	Tag      *uint16 // of a VLAN, beside the bytes
	GSOSize  uint32
	GSOSegs  uint32
	WireLen  uint32 // 0: as many as Bytes
	Arriving bool   // carries the mark of the last hand-over
}

// Verdict is what becomes of a packet. The zero value passes it as it is.
type Verdict struct {
	Dropped  bool
	Redirect uint32 // ifindex
	Inward   bool   // comes in by the interface, instead of leaving
	Bytes    []byte // what it has become; nil: nothing else
}

// Age lets everything that has a time become older, by several seconds at least.
func (m *Model) Age(ticks uint32) {
	told := func(told *uint16) {
		if *told != 0 { // 0: never
			*told -= uint16(ticks)
		}
	}
	for _, table := range []map[Tuple]Flow{m.HalfOpen, m.Established, m.Connectionless} {
		for t, f := range table {
			f.Seen, f.Created = f.Seen-ticks, f.Created-ticks
			if t.Protocol != protoTCP { // see spoke and rival_since in types.h
				f.SndUna, f.RcvNxt = f.SndUna-ticks, f.RcvNxt-ticks
			}
			told(&f.SizeTold)
			f.Sent -= uint16(ticks)
			table[t] = f
		}
	}
	for t, kept := range m.Originated {
		kept.Seen, kept.Created, kept.Heard = kept.Seen-ticks, kept.Created-ticks, kept.Heard-ticks
		told(&kept.SizeTold)
		m.Originated[t] = kept
	}
	for t, note := range m.Outbound {
		note.Sent -= ticks
		if note.Heard != 0 {
			note.Heard -= ticks
		}
		m.Outbound[t] = note
	}
	for s, l := range m.Ways {
		l.Since, l.Heard, l.Tried = l.Since-ticks, l.Heard-ticks, l.Tried-ticks
		m.Ways[s] = l
	}
	for s, b := range m.Begun {
		b.Sent -= ticks
		m.Begun[s] = b
	}
	for key, lead := range m.Leads {
		lead.Seen -= ticks
		m.Leads[key] = lead
	}
	if m.Host.GraceUntil != 0 {
		m.Host.GraceUntil -= ticks
	}
	clear(m.Refused) // it lasts for a minute
}

func (m *Model) event(e Event) { m.Events[e]++ }

// oneOf counts one of several events that are all right, and says which.
func (m *Model) oneOf(events []Event) Event {
	counted := events[max(slices.IndexFunc(events, m.rose), 0)]
	m.event(counted)
	return counted
}

// refused counts why a packet starts nothing; false where it need not, as that is known of its tuple.
func (m *Model) refused(p *packet, w path, reasons []Event) bool {
	if m.Refused[p.inbound()] && !slices.ContainsFunc(reasons, m.rose) {
		return false
	}
	switch m.oneOf(reasons) {
	case bpf.DatapathEventEVENT_IGNORED_TUNNEL:
		m.countAtTunnel(p, w)
	case bpf.DatapathEventEVENT_IGNORED_PROTOCOL:
		m.countUnrecorded(p, w)
	}
	return true
}

// isForeign says whether nothing for the packet's own address is ours that comes in by this interface, or by 0 by any.
func (m *Model) isForeign(p *packet, ifindex uint32) bool {
	all := bpf.DatapathTakesTAKES_ALL6
	if p.family == 4 {
		all = bpf.DatapathTakesTAKES_ALL4
	}
	_, served := m.serves(p.to)
	return !served && !m.Host.ScopeAll && m.takes(ifindex)&all == 0
}

// passesForeign says whether an arriving packet is, which a processor counts of an address once in a while.
func (m *Model) passesForeign(p *packet, w path) bool {
	foreign := m.isForeign(p, w.ifindex)
	if foreign && m.rose(bpf.DatapathEventEVENT_IGNORED_NOT_OWN) {
		m.event(bpf.DatapathEventEVENT_IGNORED_NOT_OWN)
	}
	return foreign
}

// ofInterface are the reasons that hold by one interface only.
var ofInterface = []Event{bpf.DatapathEventEVENT_IGNORED_NOT_OWN, bpf.DatapathEventEVENT_IGNORED_TUNNEL}

func (m *Model) rose(e Event) bool { return m.Witness.Rose != nil && m.Witness.Rose(e) }

// since is the age of a time in ticks.
func (m *Model) since(ticks uint32) uint32 {
	if age := m.Now - ticks; age <= math.MaxUint32-uint32(bpf.DatapathTickTICKS_AHEAD) {
		return age
	}
	return 0 // for one that is not reached yet
}

// managed finds the record of an interface.
func (m *Model) managed(ifindex uint32) (id uint16, record Interface, ok bool) {
	for id, record := range m.Host.Interfaces {
		if record.Ifindex == ifindex && ifindex != 0 {
			return id, record, true
		}
	}
	return 0, Interface{}, false
}
