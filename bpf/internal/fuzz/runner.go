// SPDX-License-Identifier: Apache-2.0

package fuzz

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/bpf/internal/model"
	"replypath/bpf/internal/rig"
)

// Runner runs programs through a datapath and the model of it.
type Runner struct {
	// Whole leaves out packets of several segments: bpf_check_mtu finds every one of
	// them too large in a test run, where they have no transport header.
	Whole bool
	// Packets is how many packets were run, Events and Outcomes what was counted
	// about them.
	Packets  int
	Events   map[bpf.DatapathEvent]uint64
	Outcomes map[bpf.DatapathOutcome]uint64
	// Remembered is how much there was to compare at the ends of programs, by map.
	Remembered map[string]int
	Leads      map[bpf.DatapathLeadKind]int // of it, by kind

	h       *rig.Host
	d       *rig.Datapath
	devices []rig.Device
	sockets Sockets
	cpu     int

	ways      uint32                       // of the settings
	down      [devices]bool                // who has no carrier now
	prefixes  prefixes                     // in the map
	events    map[bpf.DatapathEvent]uint64 // at the beginning of the program
	pairs     map[model.Pair]model.Count
	lastPairs map[model.Pair]model.Count // after the last packet that was run; nil: not known
	buffer    []byte
	context   rig.Context
}

// Sockets are the real ones that the programs meet.
type Sockets struct {
	model.Sockets
	// Begin says where the numbers of a connection begin, for those that have a
	// socket.
	Begin map[model.Tuple][2]uint32
}

// Options are how the datapath has to be loaded for a runner: with what the kernel
// has, or with what 5.10 has.
func Options(oldKernel bool) rig.Options {
	return rig.Options{OldKernel: oldKernel, Probes: true, Seeds: &rig.KnownSeeds}
}

// NewRunner runs programs on a host that has three devices and a datapath that
// was loaded with Options. It uses one CPU.
func NewRunner(h *rig.Host, d *rig.Datapath, sockets Sockets, cpu int) *Runner {
	return &Runner{
		h: h, d: d, devices: h.Devices[:devices], sockets: sockets, cpu: cpu,
		Events:     make(map[bpf.DatapathEvent]uint64),
		Outcomes:   make(map[bpf.DatapathOutcome]uint64),
		Remembered: make(map[string]int),
		Leads:      make(map[bpf.DatapathLeadKind]int),
		buffer:     make([]byte, 1<<16),
	}
}

// Difference is where datapath and model part.
type Difference struct {
	Step int // -1: before the first one
	What string
}

// errClock says that the clock went on so far that times cannot be told.
var errClock = errors.New("the machine is too slow to tell times")

// Run runs a program from empty tables on. It returns nil if both sides agree.
// Thorough compares everything after every packet, else most of it at the end.
func (r *Runner) Run(data []byte, thorough bool) (*Difference, error) {
	return r.RunProgram(Decode(data), thorough)
}

// RunProgram is Run for a program that was read.
func (r *Runner) RunProgram(p Program, thorough bool) (difference *Difference, err error) {
	for range 50 { // times that a loaded machine gets
		err := r.h.Do(func() error {
			if err := rig.Pin(r.cpu); err != nil {
				return err
			}
			var err error
			difference, err = r.attempt(p, thorough)
			return err
		})
		if !errors.Is(err, errClock) {
			return difference, err
		}
	}
	return nil, errClock
}

// run is one attempt to run a program.
type run struct {
	*Runner
	m       *model.Model
	what    strings.Builder      // where the two sides differ
	start   uint32               // ticks
	late    uint32               // ticks since then
	tuples  map[model.Tuple]bool // that were seen
	bare    uint32               // ifindex of the device without header
	tcIndex uint16               // what the last packet that was moved carries
}

func (r *Runner) attempt(p Program, thorough bool) (*Difference, error) {
	x := &run{Runner: r, tuples: make(map[model.Tuple]bool)}
	if err := x.begin(p.Setup); err != nil {
		return nil, err
	}
	defer x.end()
	for i, s := range p.Steps {
		if err := x.step(s); err != nil {
			return nil, fmt.Errorf("step %d, %s: %w", i, s, err)
		}
		isLast := i == len(p.Steps)-1
		if x.what.Len() == 0 && (thorough || isLast) {
			if err := x.compareAll(); err != nil {
				return nil, err
			}
		}
		differs := x.what.Len() > 0
		if differs || isLast {
			if err := x.checkClock(differs); err != nil {
				return nil, err
			}
		}
		if differs {
			return &Difference{Step: i, What: x.what.String()}, nil
		}
	}
	return nil, nil
}

// begin empties tables and writes the setup.
func (x *run) begin(setup Setup) (err error) {
	if x.start, err = x.d.Now(); err != nil {
		return err
	}
	host := setup.host(x.devices)
	if setup.bare < devices {
		x.bare = x.devices[setup.bare].Index
	}
	if setup.grace {
		host.GraceUntil = x.start + x.d.Seconds(60)
	}
	if err := errors.Join(x.d.ForgetTable(), x.d.ForgetLeads(), x.d.ForgetWays(), x.d.ForgetScratch(), x.install(host)); err != nil {
		return err
	}
	if x.events, err = x.d.EventCounts(); err != nil {
		return err
	}
	if x.pairs = x.lastPairs; x.pairs == nil {
		if x.pairs, err = x.readPairs(); err != nil {
			return err
		}
	}
	x.lastPairs = nil
	host.ShowsLinks = x.d.Features.ProbeRead
	x.m = model.New(host, x.d.Seconds, func(e model.Ends) uint32 {
		return bpf.Recent(x.d.Seeds.Ends(model.Tuple{Peer: e.Peer, Self: e.Self}))[0]
	})
	x.m.Now = x.start
	x.m.Sockets = x.sockets.Sockets
	return x.installBegun()
}

// installBegun enters flows that are over, of peers to whom a socket is connected: they began while one
// listened that was not. Those of IPv6 have none, so that without one is tried as well.
func (x *run) installBegun() error {
	over := x.start - x.d.Seconds(uint32(bpf.DatapathIdleSecondsIDLE_CONNECTIONLESS)+1)
	var errs []error
	for t := range x.m.Sockets.ConnectedUDP {
		if !netip.AddrFrom16(t.Peer).Is4In6() {
			continue
		}
		f := model.Flow{
			Tuple: t, Seen: over, Created: over,
			Ifindex: x.devices[0].Index, Interface: interfaceID(0), Mac: model.MAC{2, 0, 0, 0, 0, 1},
		}
		x.m.Connectionless[t] = f
		errs = append(errs, x.d.AddFlow(x.d.Connectionless, f))
	}
	return errors.Join(errs...)
}

// checkClock makes sure that what takes no time in the model took less than a second, by far.
// A difference counts only within one tick: a flow that is heard in the tick after its first counts as a conversation.
func (x *run) checkClock(differs bool) error {
	limit := x.d.Seconds(1) / 3
	if differs {
		limit = 0
	}
	now, err := x.d.Now()
	if err != nil {
		return err
	}
	if now-x.start > limit {
		return errClock
	}
	return nil
}

// end takes note of what was seen.
func (x *run) end() {
	for e, count := range x.m.Events {
		x.Events[e] += count
	}
	for p, count := range x.m.Pairs {
		x.Outcomes[bpf.DatapathOutcome(p.Outcome)] += count.Packets + count.Flows
	}
	for key := range x.m.Leads {
		x.Leads[key.Kind]++
	}
	x.Remembered["marks"] += len(x.m.Refused)
	x.Remembered["records"] += len(x.m.Originated)
	x.Remembered[bpf.DatapathMapWays] += len(x.m.Ways)
}

// step does one step on both sides.
func (x *run) step(s Step) error {
	id := interfaceID(s.Device)
	record, managed := x.m.Host.Interfaces[id]
	switch s.Kind {
	case inbound, outbound:
		return x.packet(s)
	case age:
		return x.age(x.d.Seconds(ages[s.Amount%len(ages)]))
	case switchMode:
		x.m.Host.ModeByHand = bpf.DatapathMode(s.Amount % 3)
		return x.d.ModeByHand.Set(uint32(x.m.Host.ModeByHand))
	case endGrace: // before anything of this moment
		x.m.Host.GraceUntil = x.start - 1
		return x.d.Grace.Set(x.m.Host.GraceUntil)
	case decide:
		return x.decide(s)
	case toggleGateway, replaceGateway:
		return x.changeGateway(s)
	}
	switch {
	case !managed:
		return nil
	case s.Kind == toggleDevice:
		x.m.Host.Gone[id] = !x.m.Host.Gone[id]
		return x.setDevice(s.Device, !x.m.Host.Gone[id])
	}
	var err error
	if s.toldByKernel() {
		x.m.Host.Down[id] = !x.m.Host.Down[id]
		if x.m.Host.Down[id] {
			x.m.Host.Downs[id]++
		}
	}
	if s.toldByLoader() {
		record.Flags ^= uint8(bpf.DatapathInterfaceFlagsINTERFACE_UP)
		err = x.setInterface(id, record)
	}
	return errors.Join(err, x.setLink(s.Device, !x.m.Host.Down[id]))
}

// setInterface changes an interface on both sides, and has what was decided before be void.
func (x *run) setInterface(id uint16, record model.Interface) error {
	x.m.Host.Interfaces[id] = record
	return errors.Join(x.d.Interfaces.Put(record.Ifindex, record), x.outdate())
}

// changeGateway makes a gateway usable or not, or gives it another MAC.
func (x *run) changeGateway(s Step) error {
	id := gatewayID(s.Device, s.Amount%gatewaysPerDevice)
	g, ok := x.m.Host.Gateways[id]
	if !ok {
		return nil
	}
	if s.Kind == toggleGateway {
		g.Usable ^= 1
	} else {
		g.Mac[3] ^= 0x40
	}
	x.m.Host.Gateways[id] = g
	return errors.Join(x.d.Gateways.Put(uint32(id), g), x.installPrefixes(x.m.Host))
}

// age makes all entries older, on both sides.
func (x *run) age(ticks uint32) error {
	x.m.Age(ticks)
	tables := rig.NewTables()
	err := errors.Join(x.d.ForgetMarks(), x.ageNotes(ticks), x.ageOriginated(ticks), x.ageWays(ticks), x.d.ChangeLeads(func(l *bpf.DatapathLead) { l.Seen -= ticks }),
		x.d.Grace.Set(x.m.Host.GraceUntil), x.d.ReadFlows(tables))
	for table, flows := range map[*bpf.FlowTable]rig.Flows{
		x.d.HalfOpen: tables.HalfOpen, x.d.Established: tables.Established, x.d.Connectionless: tables.Connectionless,
	} {
		for _, flow := range flows {
			ageFlow(&flow, ticks)
			err = errors.Join(err, x.d.AddFlow(table, flow))
		}
	}
	return err
}

func ageFlow(f *bpf.DatapathFlow, ticks uint32) {
	f.Seen -= ticks
	f.Created -= ticks
	if f.Tuple.Protocol != unix.IPPROTO_TCP { // see spoke and rival_since in types.h
		f.SndUna, f.RcvNxt = f.SndUna-ticks, f.RcvNxt-ticks
	}
	if f.SizeTold != 0 {
		f.SizeTold -= uint16(ticks)
	}
	f.Sent -= uint16(ticks)
}

// ageWays makes what was learnt from handshakes older.
func (x *run) ageWays(ticks uint32) error {
	ways, err := x.d.LearntWays()
	for sender, l := range ways {
		l.Since, l.Heard, l.Tried = l.Since-ticks, l.Heard-ticks, l.Tried-ticks
		err = errors.Join(err, x.d.Ways.Put(sender, l))
	}
	begun, failed := x.d.BegunWays()
	for sender, b := range begun {
		b.Sent -= ticks
		failed = errors.Join(failed, x.d.BegunBy.Put(sender, b))
	}
	return errors.Join(err, failed)
}

// ageNotes makes what is known of who spoke first older.
func (x *run) ageNotes(ticks uint32) error {
	notes, err := x.d.Notes()
	for _, note := range notes {
		note.Sent -= ticks
		if note.Heard != 0 {
			note.Heard -= ticks
		}
		err = errors.Join(err, x.d.Outbound.Put(&note))
	}
	return err
}

// ageOriginated makes what is kept of addresses older, which the model has aged.
func (x *run) ageOriginated(ticks uint32) error {
	for ends := range x.m.Originated { // those of damaged frames as well, which are of no tuple yet
		t := model.Tuple{Peer: ends.Peer, Self: ends.Self}
		record, err := x.d.Record(t)
		if err != nil {
			return err
		}
		if record == nil {
			continue
		}
		record.Created -= ticks
		record.Seen -= ticks
		record.Heard -= ticks
		if record.SizeTold != 0 {
			record.SizeTold -= uint16(ticks)
		}
		if err := x.d.SetRecord(t, *record); err != nil {
			return err
		}
	}
	return nil
}

// packet runs a packet, and where it is moved, what follows at its target.
func (x *run) packet(s Step) error {
	if x.Whole {
		s.Packet.segment, s.Packet.segments = 0, 0
	}
	frame, cut := s.Packet.frame(s.Kind, x.devices[s.Device], s.Device, x.isns)
	x.tuples[s.Packet.tuple()] = true
	f := model.Frame{Ifindex: x.devices[s.Device].Index, Bytes: frame, Tag: s.Packet.tag,
		GSOSize: s.Packet.segment, GSOSegs: s.Packet.segments,
		WireLen: s.Packet.wireLength(frame),
		Foreign: !bytes.Equal(frame[:6], x.devices[s.Device].MAC)}
	if s.Kind == outbound && s.Packet.forwarded {
		f.CameBy = x.devices[cameBy].Index
	}
	if f.Ifindex == x.bare {
		if cut != 0 {
			return nil
		}
		f.Bytes = append(frame[ethernetSize:], make([]byte, ethernetSize)...) // the test run wants so many more
		f.NoHeader, f.Foreign = true, false
		f.Protocol = binary.BigEndian.Uint16(f.Bytes[12:])
	}
	after, err := x.both(s.Kind, f, cut, 0)
	if err != nil || after.Ifindex == 0 || s.Packet.fate == isLost {
		return err
	}
	if !after.Arriving {
		_, err = x.both(inbound, after, 0, 0)
		return err
	}
	mark := x.tcIndex
	if _, err = x.both(outbound, after, 0, mark); err == nil && s.Packet.fate == arrivesTwice {
		_, err = x.both(outbound, after, 0, mark)
	}
	return err
}

// land makes of a packet that is redirected what the device's program sees: the
// kernel takes the header off where it has none.
func (x *run) land(f *model.Frame, wasBare bool) {
	f.NoHeader = f.Ifindex == x.bare
	if f.NoHeader && !wasBare {
		f.Bytes = f.Bytes[ethernetSize:]
		if f.WireLen != 0 {
			f.WireLen -= ethernetSize
		}
	}
	if f.NoHeader {
		f.Protocol = binary.BigEndian.Uint16(f.Bytes[12:])
	}
}

func (x *run) isns(peer, self netip.AddrPort) (uint32, uint32) {
	if begin, ok := x.sockets.Begin[rig.Tuple(uint8(layers.IPProtocolTCP), peer, self)]; ok {
		return begin[0], begin[1]
	}
	return peerISN, ourISN
}

// tuple is that of a packet, as far as it is what it says.
func (p Packet) tuple() model.Tuple {
	n := networks[p.family]
	peer, self := netip.AddrPortFrom(n.peers[p.peer], peerPorts[p.peerPort]), netip.AddrPortFrom(n.selves[p.self], selfPorts[p.selfPort])
	protocol := uint8(p.ipProtocol())
	switch p.protocol {
	case tcp, udp, sctp:
	case echo:
		peer, self = netip.AddrPortFrom(peer.Addr(), echoIdentifier+uint16(p.peerPort)), netip.AddrPortFrom(self.Addr(), 0)
	default:
		peer, self = netip.AddrPortFrom(peer.Addr(), 0), netip.AddrPortFrom(self.Addr(), 0)
	}
	return rig.Tuple(protocol, peer, self)
}
