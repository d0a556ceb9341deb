// SPDX-License-Identifier: Apache-2.0

package flows

import (
	"cmp"
	"errors"
	"fmt"
	"hash/maphash"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/loader/config"
	"replypath/loader/datapath"
	"replypath/loader/pins"
)

// Filter selects flows; the zero Filter selects all.
type Filter struct {
	Peer       netip.Prefix     // not valid: any
	Interface  string           // "": any
	Protocol   *uint8           // nil: any
	Asymmetric bool             // only those that the kernel would have sent another way
	Originated bool             // instead of flows: what the host originated by another interface than that of its source
	Func       func(*Flow) bool // only those that it is true of; nil: all
	Limit      int              // at most so many; 0: no limit
}

// Table gives access to the flow tables of a pin directory.
type Table struct {
	dir  string
	maps *bpf.Maps
}

// Open opens the flow tables that are pinned in the directory. The error matches pins.ErrNone
// where there are none, and pins.ErrForeignNamespace where they are those of another network
// namespace.
func Open(dir string) (*Table, error) {
	if _, err := pins.ReadJournal(dir); err != nil {
		return nil, err
	}
	maps, err := datapath.OpenMaps(dir)
	if err != nil {
		return nil, err
	}
	return &Table{dir, maps}, nil
}

// renew goes on with the tables of the datapath that is in place now.
func (t *Table) renew() error {
	maps, err := datapath.OpenMaps(t.dir)
	if err != nil {
		return err
	}
	before := t.maps
	t.maps = maps
	return before.Close()
}

// Maps are those that the tables belong to, until Close or Follow.
func (t *Table) Maps() *bpf.Maps { return t.maps }

// Close closes the tables.
func (t *Table) Close() error { return t.maps.Close() }

// stateTable is where the flows of one state are.
type stateTable struct {
	bpf.FlowTable
	state string
}

// stateNames are those of the flows in a table.
var stateNames = map[bpf.DatapathTable]string{
	bpf.DatapathTableTABLE_HALF_OPEN:      StateHalfOpen,
	bpf.DatapathTableTABLE_ESTABLISHED:    StateEstablished,
	bpf.DatapathTableTABLE_CONNECTIONLESS: StateConnectionless,
}

func states(maps *bpf.Maps) (all []stateTable) {
	for _, table := range bpf.FlowTables(&maps.DatapathMaps) {
		all = append(all, stateTable{table, stateNames[table.ID]})
	}
	return all
}

// view is what an entry's numbers refer to, read once for a whole listing.
type view struct {
	clock      datapath.Clock
	maps       *bpf.Maps
	journal    *pins.Journal
	interfaces map[uint16]string                // by ID, those that are there
	known      map[uint16]bpf.DatapathInterface // by ID
	gateways   map[uint16]*bpf.DatapathGateway  // by ID, those that were asked for
	owners     map[[16]uint8]uint16             // ids of the interfaces that alone have own addresses, of those that were asked for
	downs      map[uint16]uint16                // by ID of interfaces: how often they went down, of those that were asked for
}

// gateway returns one, which is read when it is first needed. One that cannot be read is not there: the inbound MAC is shown.
func (v *view) gateway(id uint16) *bpf.DatapathGateway {
	if v.gateways[id] == nil {
		v.gateways[id] = new(bpf.DatapathGateway)
		_ = v.maps.Gateways.Lookup(uint32(id), v.gateways[id])
	}
	return v.gateways[id]
}

func (t *Table) newView() (*view, error) {
	clock, err := datapath.ReadClock(t.dir)
	if err != nil {
		return nil, err
	}
	journal, err := pins.ReadJournal(t.dir)
	if err != nil {
		return nil, err
	}
	v := &view{
		clock:      clock,
		maps:       t.maps,
		journal:    journal,
		interfaces: make(map[uint16]string),
		known:      make(map[uint16]bpf.DatapathInterface),
		gateways:   make(map[uint16]*bpf.DatapathGateway),
		owners:     make(map[[16]uint8]uint16),
		downs:      make(map[uint16]uint16),
	}
	for _, record := range journal.Interfaces {
		if record.Index != 0 && !record.Catches {
			var entry bpf.DatapathInterface
			_ = t.maps.Interfaces.Lookup(bpf.PlaceOf(record.Index), &entry)
			v.interfaces[record.ID], v.known[entry.Id] = record.Name, entry
		}
	}
	return v, nil
}

// digest is that of an entry in any table, wherever it stands there.
func (v *view) digest(entry *bpf.DatapathFlow) uint64 {
	return bpf.Seeds(v.journal.Seeds).Digest(entry.Tuple)
}

func (v *view) flow(entry *bpf.DatapathFlow, state string) Flow {
	flow := v.of(&entry.Tuple, entry.Created, entry.Seen, entry.Interface)
	flow.State, flow.CorrectedPackets = state, entry.Corrected
	flow.Asymmetric = isAsymmetric(entry)
	flow.Closing = state == StateEstablished && entry.IsClosing()
	flow.Relates = v.relation(entry, state)
	flow.Sender = v.senderOf(entry)
	const sent = uint8(bpf.DatapathAttemptATTEMPT_SENT | bpf.DatapathAttemptATTEMPT_CHOICE)
	flow.Unanswered = state == StateHalfOpen && entry.Attempt&sent == sent && flow.GoesOn()
	flow.Retried = entry.Attempt&uint8(bpf.DatapathAttemptATTEMPT_AGAIN) != 0
	if way := wayOf(entry.Flags); way != WayRule {
		flow.Verdict = &way
	}
	v.setNextHop(&flow, entry)
	return flow
}

// relation is what bpf/src/originate.h makes of a flow: a connection relates until 15 minutes after its end. What came by another interface than that of the own address relates nothing.
func (v *view) relation(f *bpf.DatapathFlow, state string) Relation {
	const noSocket = uint16(bpf.DatapathFlowFlagsFLOW_NO_SOCKET)
	protocol := f.Tuple.Protocol
	isEcho := protocol == unix.IPPROTO_ICMP || protocol == unix.IPPROTO_ICMPV6
	goesOn := v.clock.Since(f.Created)-v.clock.Since(f.Seen) >= time.Second // as Flow.GoesOn
	switch {
	case v.ownerOf(f.Tuple.Self) != f.Interface, state == StateHalfOpen, isEcho:
	case state == StateEstablished, state == StateConnectionless && f.Flags&noSocket == 0 && isAnswered(f) && isAsymmetric(f) && goesOn:
		return RelatesAll
	case protocol == unix.IPPROTO_UDP && f.Flags&noSocket == 0:
		return RelatesPorts
	}
	return RelatesNothing
}

// ownerOf returns the id of the interface that alone has an own address, 0 for none.
func (v *view) ownerOf(self [16]uint8) uint16 {
	id, known := v.owners[self]
	if !known {
		var flags uint32
		_ = v.maps.OwnAddresses.Lookup(self, &flags) // an address that has just gone relates nothing
		id = uint16(flags >> bpf.DatapathOwnFlagsOWN_INTERFACE_SHIFT)
		v.owners[self] = id
	}
	return id
}

// of is what is shown of a tuple, with the ticks of its begin and of its last packet, and the id of its interface.
func (v *view) of(key *bpf.DatapathTuple, created, seen uint32, id uint16) Flow {
	peer, self := datapath.Address(key.Peer), datapath.Address(key.Self)
	flow := Flow{
		Protocol: config.ProtocolName(key.Protocol), Family: family(peer),
		Peer: peer.String(), PeerPort: datapath.Port(key.PeerPort),
		Self: self.String(), SelfPort: datapath.Port(key.SelfPort),
		AgeSeconds:  v.clock.Since(created).Seconds(),
		IdleSeconds: v.clock.Since(seen).Seconds(),
		InterfaceID: id,
	}
	if name, ok := v.interfaces[id]; ok {
		flow.Interface = &name
	}
	return flow
}

// setNextHop mirrors next_hop_mac() in bpf/src/path.h.
func (v *view) setNextHop(flow *Flow, entry *bpf.DatapathFlow) {
	if flow.IsDirect() {
		return // the kernel's
	}
	mac := entry.Mac
	target := v.known[entry.Interface]
	for _, id := range datapath.GatewaysOf(entry, &target) {
		if gateway := v.gateway(id); gateway.Usable != 0 && gateway.Ifindex == entry.Ifindex {
			mac = gateway.Mac
			flow.Gateway = new(datapath.Address(gateway.Address).String())
			break
		}
	}
	if mac != [6]uint8{} {
		flow.NextHopMAC = new(net.HardwareAddr(mac[:]).String())
	}
}

// row is a flow before it is shown, in 112 bytes: a full table has 200,000.
type row struct {
	entry bpf.DatapathFlow
	in    bpf.DatapathTable
	more  *more // nil: there is nothing more
}

// more is what few rows have.
type more struct {
	bytes *uint64 // of TCP payload that this host sent; nil: not known
	// originated is what is shown of what is in no flow table, whose entry is there to be put in order.
	originated *Flow
}

func (r *row) setBytes(sent *uint64) {
	if r.more == nil {
		r.more = new(more)
	}
	r.more.bytes = sent
}

func (r *row) bytes() *uint64 {
	if r.more == nil {
		return nil
	}
	return r.more.bytes
}

func (r *row) ends() ends {
	t := &r.entry.Tuple
	return ends{
		self: netip.AddrPortFrom(datapath.Address(t.Self), datapath.Port(t.SelfPort)),
		peer: netip.AddrPortFrom(datapath.Address(t.Peer), datapath.Port(t.PeerPort)),
	}
}

func (r *row) flow(v *view) Flow {
	if r.more != nil && r.more.originated != nil {
		return *r.more.originated
	}
	flow := v.flow(&r.entry, stateNames[r.in])
	flow.Bytes = r.bytes()
	return flow
}

// ends are those of a connection.
type ends struct{ self, peer netip.AddrPort }

var endsSeed = maphash.MakeSeed()

// digest tells connections apart in less room than their ends take.
func (e ends) digest() uint64 { return maphash.Comparable(endsSeed, e) }

// each visits the flows that match, up to the limit.
func (t *Table) each(filter Filter, visit func(digest uint64, flow Flow)) error {
	v, err := t.newView()
	if err != nil {
		return err
	}
	return t.eachRow(v, &filter, func(digest uint64, r row) { visit(digest, r.flow(v)) })
}

// eachRow visits the live entries that match, up to the limit.
func (t *Table) eachRow(v *view, filter *Filter, visit func(digest uint64, r row)) error {
	count := 0
	isFull := func() bool { return filter.Limit > 0 && count >= filter.Limit }
	if filter.Originated {
		return t.eachOriginated(v, filter, func(digest uint64, r row) bool {
			if filter.matches(r.more.originated) {
				count++
				visit(digest, r)
			}
			return !isFull()
		})
	}
	for _, s := range states(t.maps) {
		err := s.Each(func(_ uint64, entry *bpf.DatapathFlow) bool {
			if !isNone(entry, s.state, v.clock) && filter.matchesEntry(v, entry, s.state) {
				count++
				visit(v.digest(entry), row{entry: *entry, in: s.ID})
			}
			return !isFull()
		})
		if err != nil {
			return fmt.Errorf("%s: %w", s.state, err)
		}
		if isFull() {
			break
		}
	}
	return nil
}

// matchesTuple looks at what costs no conversion, for large tables.
func (f *Filter) matchesTuple(tuple *bpf.DatapathTuple) bool {
	if f.Protocol != nil && *f.Protocol != tuple.Protocol {
		return false
	}
	return !f.Peer.IsValid() || f.Peer.Contains(datapath.Address(tuple.Peer))
}

func (f *Filter) matches(flow *Flow) bool {
	if f.Interface != "" && (flow.Interface == nil || *flow.Interface != f.Interface) {
		return false
	}
	return (!f.Asymmetric || flow.Asymmetric) && (f.Func == nil || f.Func(flow))
}

// matchesEntry is matchesTuple and matches of an entry of which no Flow is made, unless somebody looks at that.
func (f *Filter) matchesEntry(v *view, entry *bpf.DatapathFlow, state string) bool {
	switch {
	case !f.matchesTuple(&entry.Tuple), f.Interface != "" && v.interfaces[entry.Interface] != f.Interface, f.Asymmetric && !isAsymmetric(entry):
		return false
	case f.Func == nil:
		return true
	}
	flow := v.flow(entry, state)
	return f.Func(&flow)
}

// ErrInterface is what it is to ask for the flows of an interface that has none, as replypath does not manage it.
var ErrInterface = errors.New("unknown interface")

// Interfaces names those that are managed, sorted.
func (t *Table) Interfaces() ([]string, error) {
	v, err := t.newView()
	if err != nil {
		return nil, err
	}
	return slices.Sorted(maps.Values(v.interfaces)), nil
}

// CheckInterface returns an error that matches ErrInterface for an interface that is not managed.
func (t *Table) CheckInterface(name string) error {
	managed, err := t.Interfaces()
	if err != nil {
		return err
	}
	if slices.Contains(managed, name) {
		return nil
	}
	return fmt.Errorf("%w %s: replypath manages %s", ErrInterface, name, cmp.Or(strings.Join(managed, ", "), "none"))
}

// List returns the flows that match, in no particular order.
func (t *Table) List(filter Filter) ([]Flow, error) {
	list := []Flow{}
	err := t.each(filter, func(_ uint64, flow Flow) { list = append(list, flow) })
	return list, err
}

// Flushed is how much was forgotten. The JSON names are fixed.
type Flushed struct {
	Flows   int `json:"flushed"`
	Senders int `json:"senders"`
}

// Flush forgets the flows that match, and what handshakes taught of their senders, or of all senders by the interface, or by
// any, where nothing else is asked for. What Func chooses leaves that as it is. For a moment after that nothing that the host
// sends is taken for a beginning (datapath.Grace).
func (t *Table) Flush(filter Filter) (flushed Flushed, err error) {
	type place struct {
		table  bpf.DatapathTable
		digest uint64
	}
	var found []place
	senders, pairs := make(map[bpf.DatapathSender]bool), make(map[uint64]bool)
	v, err := t.newView()
	if err != nil {
		return flushed, err
	}
	err = t.eachRow(v, &filter, func(digest uint64, r row) {
		found = append(found, place{r.in, digest})
		pairs[bpf.Seeds(v.journal.Seeds).Ends(r.entry.Tuple)] = true
		senders[v.senderOf(&r.entry)] = true
	})
	if filter.Func == nil {
		isAll := !filter.Peer.IsValid() && filter.Protocol == nil && !filter.Asymmetric && filter.Limit == 0
		var sendersErr error
		flushed.Senders, sendersErr = ForgetSenders(t.maps, func(s bpf.DatapathSender) bool {
			return senders[s] || isAll && (filter.Interface == "" || v.interfaces[s.Interface] == filter.Interface)
		})
		err = errors.Join(err, sendersErr)
	}
	if len(found) == 0 {
		return flushed, errors.Join(err, t.forgetPaths(v, &filter, pairs))
	}
	// The answer to a question that is on its way now must not pass for a
	// beginning.
	if graceErr := t.grace(); graceErr != nil {
		return flushed, errors.Join(err, graceErr)
	}
	deleteErr := bpf.TableOf(&t.maps.DatapathMaps).AtOnce(func(table bpf.Table) error {
		tables := table.Flows()
		var errs []error
		for _, f := range found {
			if err := tables[f.table].Delete(f.digest); err != nil {
				errs = append(errs, err)
				continue
			}
			flushed.Flows++
		}
		return errors.Join(errs...)
	})
	return flushed, errors.Join(err, deleteErr, t.forgetPaths(v, &filter, pairs))
}

// forgetPaths forgets by which paths peers come, as flows showed that are forgotten, or were over before: of these pairs of
// addresses, and of all that match where the filter asks for no single flows.
func (t *Table) forgetPaths(v *view, filter *Filter, pairs map[uint64]bool) error {
	records := bpf.Records{Table: bpf.TableOf(&t.maps.DatapathMaps)}
	isAll := filter.Func == nil && !filter.Asymmetric && filter.Limit == 0 && filter.Protocol == nil
	errs := []error{records.Each(func(_ uint64, r *bpf.DatapathRecord) bool {
		tuple := bpf.DatapathTuple{Peer: r.Peer, Self: r.Self}
		if isAll && filter.matchesTuple(&tuple) && (filter.Interface == "" || v.interfaces[r.Path.Interface] == filter.Interface) {
			pairs[bpf.Seeds(v.journal.Seeds).Ends(tuple)] = true
		}
		return true
	})}
	for digest := range pairs {
		errs = append(errs, records.ForgetPath(digest), bpf.ForgetRecent(t.maps.Recent, digest))
	}
	if isAll && !filter.Peer.IsValid() && filter.Interface == "" { // connections that are over as well, whose entries are still there
		errs = append(errs, bpf.ClearRecent(t.maps.Recent))
	}
	return errors.Join(errs...)
}

func (t *Table) grace() error {
	clock, err := datapath.ReadClock(t.dir)
	if err != nil {
		return err
	}
	return datapath.Grace(t.maps, clock, datapath.GracePeriod)
}

// TableUsage is how full a table is. The JSON names are fixed.
type TableUsage struct {
	ID       bpf.DatapathTable `json:"-"`
	Name     string            `json:"table"`    // as the metrics name it
	Flows    uint64            `json:"flows"`    // that are not idle
	Lasting  uint64            `json:"lasting"`  // of these, handshakes, open connections and conversations
	Capacity uint64            `json:"capacity"` // for how many of those there is room
}

// Usage counts the live flows of every table, and visits them, with their states. gathering gets those that are over as well;
// nil: nobody does.
func Usage(maps *bpf.Maps, clock datapath.Clock, gathering *Gathering, visit func(flow *bpf.DatapathFlow, state string)) (tables []TableUsage, err error) {
	for _, s := range states(maps) {
		usage := TableUsage{ID: s.ID, Name: datapath.TableName(s.ID), Capacity: s.Capacity()}
		err := s.Each(func(_ uint64, flow *bpf.DatapathFlow) bool {
			if gathering != nil {
				gathering.Add(flow, s.ID)
			}
			if !isNone(flow, s.state, clock) {
				usage.Flows++
				if s.Lasts(flow) {
					usage.Lasting++
				}
				visit(flow, s.state)
			}
			return true
		})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.state, err)
		}
		tables = append(tables, usage)
	}
	return tables, nil
}
