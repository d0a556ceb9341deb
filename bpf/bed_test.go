package bpf_test

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/bpf/internal/rig"
)

// nic is one managed interface of the host under test.
type nic struct {
	rig.Device
	interfaceIndex uint16 // in the array of interfaces
	router         net.HardwareAddr
}

// gateway is the index of the interface's gateway of a family.
func (i nic) gateway(family uint8) uint16 {
	if family == 4 {
		return i.interfaceIndex * 2
	}
	return i.interfaceIndex*2 + 1
}

// bed is a host with three managed interfaces whose kernel prefers the first.
type bed struct {
	*rig.Datapath
	t *testing.T

	production, replication, backup nic
	settings                        bpf.DatapathSettings
}

// Protocols of an empty configuration.
var defaultProtocols = rig.Listed(1, 6, 17, 58, 132)

func newBed(t *testing.T, v variant) *bed {
	t.Helper()
	d, err := load(v)
	if err != nil {
		t.Fatal(err)
	}
	b := &bed{Datapath: d, t: t}
	for i, to := range []*nic{&b.production, &b.replication, &b.backup} {
		*to = nic{
			Device:         host.Devices[i],
			interfaceIndex: uint16(i + 1),
			router:         net.HardwareAddr{2, 0, 0, 0, 1, byte(i + 1)},
		}
		b.manage(*to, nil)
		b.addGateway(*to, networks[0], uint32(to.gateway(4)), to.router)
		b.addGateway(*to, networks[1], uint32(to.gateway(6)), to.router)
	}
	for _, n := range networks {
		b.must(b.SetOwnAddress(n.self, bpf.DatapathOwnFlagsOWN_ADDRESS))
		b.must(b.SetOwnAddress(n.other, bpf.DatapathOwnFlagsOWN_ADDRESS))
	}
	b.configure(func(s *bpf.DatapathSettings) {
		s.Protocols = defaultProtocols
	})
	return b
}

func (b *bed) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

// configure changes the settings.
func (b *bed) configure(change func(*bpf.DatapathSettings)) {
	b.t.Helper()
	change(&b.settings)
	b.must(b.SetSettings(b.settings))
}

// manage writes an interface's record, with what change makes of the usual one.
// switchMode is what `replypath mode` does.
func (b *bed) switchMode(mode bpf.DatapathMode) {
	b.t.Helper()
	b.must(b.ModeByHand.Put(uint32(0), mode))
}

func (b *bed) manage(i nic, change func(*bpf.DatapathInterface)) {
	b.t.Helper()
	record := rig.Record(i.Device, 0)
	record.Gateway4, record.Gateway6 = i.gateway(4), i.gateway(6)
	if change != nil {
		change(&record)
	}
	b.must(b.SetInterface(uint32(i.interfaceIndex), record))
}

// addGateway enters a usable gateway under this index.
func (b *bed) addGateway(i nic, n network, index uint32, mac net.HardwareAddr) {
	b.t.Helper()
	b.must(b.SetGateway(index, bpf.DatapathGateway{
		Address: n.stranger.As16(),
		Ifindex: i.Index,
		Mac:     rig.MAC(mac),
		Usable:  1,
	}))
}

// ago is the time in ticks so many seconds ago.
func (b *bed) ago(seconds uint32) uint32 {
	b.t.Helper()
	now, err := b.Now()
	b.must(err)
	return now - b.Seconds(seconds)
}

// flow is an entry as the programs make it for a peer behind the interface's
// only gateway, last seen so many seconds ago, and answered if it is no connection.
func (b *bed) flow(n network, m message, via nic, age uint32) bpf.DatapathFlow {
	b.t.Helper()
	seen := b.ago(age)
	state := stateAnswered
	if _, connection := m.(tcp); connection {
		state = 0
	}
	return bpf.DatapathFlow{
		Tuple:     n.tuple(m),
		Seen:      seen,
		Created:   seen,
		Ifindex:   via.Index,
		Interface: via.interfaceIndex,
		Gateway:   via.gateway(n.family),
		Mac:       rig.MAC(via.router),
		Flags:     flagGateway,
		State:     state,
	}
}

// Bits of an entry that ingress writes, and bits that egress writes.
const (
	flagGateway    = uint16(bpf.DatapathFlowFlagsFLOW_NEXT_HOP_GATEWAY)
	flagEnforceMAC = uint16(bpf.DatapathFlowFlagsFLOW_ENFORCE_MAC)
	flagActive     = uint16(bpf.DatapathFlowFlagsFLOW_ACTIVE)
	flagReset      = uint16(bpf.DatapathFlowFlagsFLOW_RESET)
	flagStray      = uint16(bpf.DatapathFlowFlagsFLOW_STRAY)
	flagNoSocket   = uint16(bpf.DatapathFlowFlagsFLOW_NO_SOCKET)

	stateClosing    = uint8(bpf.DatapathFlowStateFLOW_CLOSING)
	stateAnswered   = uint8(bpf.DatapathFlowStateFLOW_ANSWERED)
	stateAsymmetric = uint8(bpf.DatapathFlowStateFLOW_ASYMMETRIC)
	stateCorrected  = uint8(bpf.DatapathFlowStateFLOW_CORRECTED)
)

// justNow stands for the time of the run in expected entries.
const justNow = math.MaxUint32

// born is an entry that the run is expected to make.
func (b *bed) born(n network, m message, via nic) bpf.DatapathFlow {
	b.t.Helper()
	f := b.flow(n, m, via, 0)
	f.Seen, f.Created, f.State = justNow, justNow, 0
	return f
}

// Names of what Tables holds.
type tables = *rig.Tables

func establishedFlow(f bpf.DatapathFlow) func(tables) {
	return func(t tables) { t.Established[f.Tuple] = f }
}

func connectionlessFlow(f bpf.DatapathFlow) func(tables) {
	return func(t tables) { t.Connectionless[f.Tuple] = f }
}

// put enters flows.
func (b *bed) put(changes ...func(tables)) {
	b.t.Helper()
	t := newTables()
	for _, change := range changes {
		change(t)
	}
	b.must(b.SetTables(t))
}

func newTables() tables {
	return &rig.Tables{
		HalfOpen:       make(map[bpf.DatapathTuple]bpf.DatapathFlow),
		Established:    make(map[bpf.DatapathTuple]bpf.DatapathFlow),
		Connectionless: make(map[bpf.DatapathTuple]bpf.DatapathFlow),
		Outbound:       make(map[uint64]uint32),
		Marks:          make(map[uint64]bool),
	}
}

// run is one packet given to one program.
type run struct {
	program string
	via     nic
	frame   []byte
	probe   rig.Probe // asks for the wrapped program where it is not empty
	cpu     int
	linear  uint32 // bytes that a program can read directly; 0: all
	wireLen uint32
	gsoSegs uint32
	gsoSize uint32
}

func ingress(via nic, frame []byte) run {
	return run{program: bpf.DatapathProgReplypathIngress, via: via, frame: frame}
}

func egress(via nic, frame []byte) run {
	return run{program: bpf.DatapathProgReplypathEgress, via: via, frame: frame}
}

// Verdicts of <linux/pkt_cls.h>.
const (
	pass     = -1
	redirect = 7
)

// effect is everything that a run is expected to change. The zero value is a
// packet that passes as it is and leaves no trace.
type effect struct {
	redirect bool
	frame    []byte // nil: as it was
	events   events
	pairs    pairs
	tables   func(tables) // nil: nothing
	probed   *rig.Probed  // nil: not asked
}

type (
	events map[bpf.DatapathEvent]uint64
	pairs  map[bpf.DatapathPair]count
)

type count struct{ Packets, Bytes, Flows uint64 }

// outcome is everything that can be seen of a run.
type outcome struct {
	verdict          int32
	frame            []byte
	context          rig.Context
	before, after    tables
	counted          rig.Counts // before
	counts           rig.Counts // after
	earliest, latest uint32     // ticks
}

// run runs a program on a packet and holds everything that it did against what
// was expected: verdict, packet, context, tables and every counter.
func (b *bed) run(r run, want effect) {
	b.t.Helper()
	b.compare(r, want, b.perform(r))
}

// inOneTick is run for effects that depend on the very tick: setup enters what
// the tables hold and says what is expected. It begins again when the clock
// went on meanwhile.
func (b *bed) inOneTick(r run, setup func() effect) {
	b.t.Helper()
	for {
		tick := b.ago(0)
		want := setup()
		if got := b.perform(r); got.latest == tick {
			b.compare(r, want, got)
			return
		}
	}
}

func (b *bed) perform(r run) (o outcome) {
	b.t.Helper()
	o.before, o.counted = b.snapshot()
	o.earliest = b.ago(0)
	o.verdict, o.frame, o.context = b.exec(r)
	o.latest = b.ago(0)
	o.after, o.counts = b.snapshot()
	return o
}

func (b *bed) compare(r run, want effect, got outcome) {
	b.t.Helper()
	defer func(failed bool) {
		if b.t.Failed() && !failed {
			b.t.Logf("the first to fail: %s on %s, probe %+v, packet\n%x", r.program, r.via.Name, r.probe, r.frame)
		}
	}(b.t.Failed())
	wantVerdict := int32(pass)
	if want.redirect {
		wantVerdict = redirect
	}
	if got.verdict != wantVerdict {
		b.t.Errorf("verdict %d, want %d", got.verdict, wantVerdict)
	}
	wantFrame := want.frame
	if wantFrame == nil {
		wantFrame = r.frame
	}
	if !bytes.Equal(got.frame, wantFrame) {
		b.t.Errorf("packet afterwards (-want +got):\n%s", cmp.Diff(wantFrame, got.frame))
	}
	wantTables := got.before
	if want.tables != nil {
		want.tables(wantTables)
	}
	settle(got.after, wantTables, got.earliest, got.latest)
	if diff := cmp.Diff(wantTables, got.after); diff != "" {
		b.t.Errorf("tables afterwards (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(eventSet.text(want.events), eventSet.text(eventDelta(got.counted, got.counts))); diff != "" {
		b.t.Errorf("events (-want +got):\n%s", diff)
	}
	wantPairs := want.pairs
	if wantPairs == nil {
		wantPairs = pairs{}
	}
	if diff := cmp.Diff(wantPairs, pairDelta(got.counted, got.counts)); diff != "" {
		b.t.Errorf("pairs (-want +got):\n%s", diff)
	}
	b.compareContext(r, want, got.context)
}

func (b *bed) snapshot() (tables, rig.Counts) {
	b.t.Helper()
	t, err := b.Tables()
	b.must(err)
	c, err := b.Counts()
	b.must(err)
	return t, c
}

// exec runs the program once.
func (b *bed) exec(r run) (verdict int32, frame []byte, out rig.Context) {
	b.t.Helper()
	in := rig.Context{Ifindex: r.via.Index, Mark: 0xabcd, Priority: 3, WireLen: r.wireLen,
		GSOSegs: r.gsoSegs, GSOSize: r.gsoSize, DataEnd: r.linear}
	program := b.program(r.program)
	if r.probe != (rig.Probe{}) {
		program = b.Probes[r.program]
		r.probe.Set(&in)
	}
	opts := &ebpf.RunOptions{
		Data:       r.frame,
		DataOut:    make([]byte, len(r.frame)+256),
		Context:    in,
		ContextOut: &out,
	}
	err := host.Do(func() error {
		if err := rig.Pin(r.cpu); err != nil { // the word for the target is per CPU
			return err
		}
		result, err := program.Run(opts)
		verdict = int32(result)
		return err
	})
	if r.linear != 0 && errors.Is(err, unix.EINVAL) {
		b.t.Skip("the kernel cannot make packets that are not linear: it takes no data_end in the context (Linux 6.19)")
	}
	b.must(err)
	return verdict, opts.DataOut, out
}

func (b *bed) program(name string) *ebpf.Program {
	switch name {
	case bpf.DatapathProgReplypathIngress:
		return b.ReplypathIngress
	case bpf.DatapathProgReplypathEgress:
		return b.ReplypathEgress
	case bpf.DatapathProgReplypathIngressL3:
		return b.ReplypathIngressL3
	default:
		return b.ReplypathEgressL3
	}
}

// compareContext makes sure that nothing of the packet's metadata was touched.
func (b *bed) compareContext(r run, want effect, got rig.Context) {
	b.t.Helper()
	if got.Mark != 0xabcd || got.Priority != 3 || got.Ifindex != r.via.Index {
		b.t.Errorf("context afterwards: mark %#x, priority %d, ifindex %d", got.Mark, got.Priority, got.Ifindex)
	}
	if r.probe == (rig.Probe{}) {
		if got.CB != [5]uint32{} {
			b.t.Errorf("control block afterwards: %x", got.CB)
		}
		return
	}
	if want.probed != nil {
		if diff := cmp.Diff(*want.probed, rig.ReadProbed(&got)); diff != "" {
			b.t.Errorf("probed (-want +got):\n%s", diff)
		}
	}
}

// toldNow is justNow for when a sender was told of its size: an entry has the low
// bits of that time only.
const toldNow = math.MaxUint16

// settle writes justNow for every time that was expected to be it and lies
// within the run.
func settle(got, want tables, earliest, latest uint32) {
	within := func(time *uint32, expected uint32) {
		if expected == justNow && *time-earliest <= latest-earliest {
			*time = justNow
		}
	}
	told := func(time *uint16, expected uint16) {
		if expected == toldNow && *time-uint16(earliest) <= uint16(latest-earliest) {
			*time = toldNow
		}
	}
	settleFlows(got.HalfOpen, want.HalfOpen, within, told)
	settleFlows(got.Established, want.Established, within, told)
	settleFlows(got.Connectionless, want.Connectionless, within, told)
	for digest, sent := range got.Outbound {
		within(&sent, want.Outbound[digest])
		got.Outbound[digest] = sent
	}
}

func settleFlows(got, want map[bpf.DatapathTuple]bpf.DatapathFlow, within func(*uint32, uint32), told func(*uint16, uint16)) {
	for tuple, f := range got {
		within(&f.Seen, want[tuple].Seen)
		within(&f.Created, want[tuple].Created)
		told(&f.Told, want[tuple].Told)
		got[tuple] = f
	}
}

func eventDelta(before, after rig.Counts) events {
	delta := events{}
	for event, n := range after.Events {
		if n -= before.Events[event]; n != 0 {
			delta[event] = n
		}
	}
	return delta
}

func pairDelta(before, after rig.Counts) pairs {
	delta := pairs{}
	for pair, n := range after.Pairs {
		old := before.Pairs[pair]
		d := count{n.Packets - old.Packets, n.Bytes - old.Bytes, n.Flows - old.Flows}
		if d != (count{}) {
			delta[pair] = d
		}
	}
	return delta
}

// eventNames are the names of enum event.
type eventNames map[bpf.DatapathEvent]string

func readEventNames() (eventNames, error) {
	spec, err := bpf.LoadDatapath()
	if err != nil {
		return nil, err
	}
	var enum *btf.Enum
	if err := spec.Types.TypeByName("event", &enum); err != nil {
		return nil, fmt.Errorf("read event names: %w", err)
	}
	names := make(eventNames)
	for _, v := range enum.Values {
		names[bpf.DatapathEvent(v.Value)] = v.Name
	}
	return names, nil
}

func (n eventNames) text(e events) map[string]uint64 {
	text := make(map[string]uint64)
	for event, count := range e {
		name, ok := n[event]
		if !ok {
			name = fmt.Sprintf("%s + %d", n[bpf.DatapathEventEVENT_MOVED], event-bpf.DatapathEventEVENT_MOVED)
		}
		text[name] = count
	}
	return text
}

// once is one event.
func once(event bpf.DatapathEvent) events {
	return events{event: 1}
}

// pair is a counter's key.
func pair(from, to nic, n network, m message, outcome bpf.DatapathOutcome) bpf.DatapathPair {
	return bpf.DatapathPair{
		From:     from.interfaceIndex,
		To:       to.interfaceIndex,
		Family:   n.family,
		Protocol: uint8(class(m.protocol(n))),
		Outcome:  uint8(outcome),
	}
}

// prefix is a whole address as a prefix.
func prefix(address netip.Addr) netip.Prefix {
	return netip.PrefixFrom(address, address.BitLen())
}
