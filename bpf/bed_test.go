// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"errors"
	"math"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/bpf/internal/rig"
	"replypath/test/await"
	"replypath/test/product"
)

// nic is one managed interface of the host under test.
type nic struct {
	rig.Device
	id     uint16
	router net.HardwareAddr
}

func (i nic) gateway(family uint8) uint16 {
	if family == 4 {
		return i.id * 2
	}
	return i.id*2 + 1
}

// bed is a host with three managed interfaces whose kernel prefers the first.
type bed struct {
	*rig.Datapath
	t *testing.T

	production, replication, backup nic
	settings                        bpf.DatapathSettings
	cut                             bool   // setInterface has taken a carrier away
	marksVary                       bool   // no test looks at them
	ran                             uint32 // when the run ended that is compared, in ticks
}

// Protocols of an empty configuration.
var defaultProtocols = rig.Listed(1, 6, 17, 58, 132)

func routerOf(device int) net.HardwareAddr {
	return net.HardwareAddr{2, 0, 0, 0, 1, byte(device + 1)}
}

func newBed(t *testing.T, v variant) *bed {
	t.Helper()
	if loaded[v] == nil { // pauses may be judged in other processes meanwhile
		defer product.Starting(t)()
	}
	d, err := load(v)
	await.Must(t, err)
	b := &bed{Datapath: d, t: t}
	for i, to := range []*nic{&b.production, &b.replication, &b.backup} {
		*to = nic{
			Device: host.Devices[i],
			id:     uint16(i + 1),
			router: routerOf(i),
		}
		b.manage(*to, nil)
		b.addGateway(*to, networks[0], uint32(to.gateway(4)), to.router)
		b.addGateway(*to, networks[1], uint32(to.gateway(6)), to.router)
	}
	for _, n := range networks {
		b.must(b.SetOwnAddress(n.self, ownAddress))
		b.must(b.SetOwnAddress(n.other, ownAddress))
	}
	b.configure(func(s *bpf.DatapathSettings) {
		s.Protocols = defaultProtocols
	})
	return b
}

func (b *bed) must(err error) {
	b.t.Helper()
	await.Must(b.t, err)
}

func (b *bed) configure(change func(*bpf.DatapathSettings)) {
	b.t.Helper()
	change(&b.settings)
	b.must(b.SetSettings(b.settings))
}

// switchMode is what `replypath mode` does.
func (b *bed) switchMode(mode uint8) {
	b.t.Helper()
	b.must(b.ModeByHand.Set(uint32(mode)))
}

func (b *bed) renew() {
	b.t.Helper()
	b.configure(func(s *bpf.DatapathSettings) { s.Generation++ })
}

// repair says whether sockets are made to answer from the address that was asked.
func (b *bed) repair(how bpf.DatapathSourceRepair) {
	b.t.Helper()
	b.configure(func(s *bpf.DatapathSettings) { s.Repair = uint8(how) })
}

// manage writes an interface's record, with what change makes of the usual one.
func (b *bed) manage(i nic, change func(*bpf.DatapathInterface)) {
	b.t.Helper()
	record := rig.Record(i.Device, 0)
	record.Gateway4, record.Gateway6 = i.gateway(4), i.gateway(6)
	if change != nil {
		change(&record)
	}
	b.setInterface(i, record)
}

// setInterface writes an interface's record, and takes its carrier away while that says so.
func (b *bed) setInterface(i nic, record bpf.DatapathInterface) {
	b.t.Helper()
	switch down := record.Ifindex != 0 && record.Flags&interfaceUp == 0; {
	case down:
		b.cutCable(i)
		b.cut = true
	case b.cut:
		b.setCarrier(i, true)
		b.cut = false
	}
	b.must(host.Do(func() error { return b.SetInterface(i.id, record) }))
}

const interfaceUp = uint8(bpf.DatapathInterfaceFlagsINTERFACE_UP)

func (b *bed) cutCable(i nic) {
	b.t.Helper()
	b.t.Cleanup(func() { b.setCarrier(i, true) })
	b.setCarrier(i, false)
}

func (b *bed) setCarrier(i nic, on bool) {
	b.t.Helper()
	b.must(host.Do(func() error { return i.SetCarrier(on) }))
	b.must(b.ForgetProof())
}

func (b *bed) addGateway(i nic, n network, index uint32, mac net.HardwareAddr) {
	b.t.Helper()
	b.must(b.SetGateway(index, bpf.DatapathGateway{
		Address: n.stranger.As16(),
		Ifindex: i.Index,
		Mac:     rig.MAC(mac),
		Usable:  1,
	}))
}

func (b *bed) ago(seconds uint32) uint32 {
	b.t.Helper()
	now, err := b.Now()
	b.must(err)
	return now - b.Seconds(seconds)
}

// flow is an entry as the programs make it for a peer behind the interface's only gateway, last seen so many seconds
// ago, and a conversation if it is no connection.
func (b *bed) flow(n network, m message, via nic, age uint32) bpf.DatapathFlow {
	seen := b.ago(age)
	state, flags, rcvNxt := stateReplied, flagGateway|assured(m), uint32(0)
	if segment, connection := m.(tcp); connection {
		state, flags = 0, flagGateway
		if strings.Contains(segment.flags, "S") && !strings.Contains(segment.flags, "A") {
			rcvNxt = segment.end() + 1
		}
	}
	return bpf.DatapathFlow{
		Tuple:     n.tuple(m),
		Seen:      seen,
		Created:   seen,
		Ifindex:   via.Index,
		Interface: via.id,
		Gateway:   via.gateway(n.family),
		Mac:       rig.MAC(via.router),
		Flags:     flags,
		State:     state,
		RcvNxt:    rcvNxt,
	}
}

// assured is the flag of conversations, for messages that may be of one.
func assured(m message) uint16 {
	if _, isPing := m.(echo); isPing {
		return 0
	}
	return flagAssured
}

// Bits of an entry that ingress writes, and bits that egress writes.
const (
	flagGateway    = uint16(bpf.DatapathFlowFlagsFLOW_NEXT_HOP_GATEWAY)
	flagEnforceMAC = uint16(bpf.DatapathFlowFlagsFLOW_ENFORCE_MAC)
	flagActive     = uint16(bpf.DatapathFlowFlagsFLOW_ACTIVE)
	flagReset      = uint16(bpf.DatapathFlowFlagsFLOW_RESET)
	flagStray      = uint16(bpf.DatapathFlowFlagsFLOW_STRAY)
	flagNoSocket   = uint16(bpf.DatapathFlowFlagsFLOW_NO_SOCKET)
	flagAssured    = uint16(bpf.DatapathFlowFlagsFLOW_ASSURED)

	flagLastHop  = uint16(bpf.DatapathFlowFlagsFLOW_LAST_HOP)
	flagAsRouted = uint16(bpf.DatapathFlowFlagsFLOW_AS_ROUTED)
	flagOnTrial  = uint16(bpf.DatapathFlowFlagsFLOW_ON_TRIAL)
	flagSettled  = uint16(bpf.DatapathFlowFlagsFLOW_SETTLED)

	attemptSent   = uint8(bpf.DatapathAttemptATTEMPT_SENT)
	attemptChoice = uint8(bpf.DatapathAttemptATTEMPT_CHOICE)
	attemptAgain  = uint8(bpf.DatapathAttemptATTEMPT_AGAIN)
	attemptAstray = uint8(bpf.DatapathAttemptATTEMPT_ASTRAY)

	attemptUnheard = uint8(bpf.DatapathAttemptATTEMPT_UNHEARD)
	attemptFirst   = uint8(bpf.DatapathAttemptATTEMPT_FIRST)
	attemptRefused = uint8(bpf.DatapathAttemptATTEMPT_REFUSED)

	stateClosing    = uint8(bpf.DatapathFlowStateFLOW_CLOSING)
	stateReplied    = uint8(bpf.DatapathFlowStateFLOW_REPLIED)
	stateAsymmetric = uint8(bpf.DatapathFlowStateFLOW_ASYMMETRIC)
	stateCorrected  = uint8(bpf.DatapathFlowStateFLOW_CORRECTED)
)

// yearsAgo is further back than half of all ticks, so that a signed difference would have it in the future.
const yearsAgo = 1<<31 + 100_000

// justNow stands for the time of the run in expected entries.
const justNow = math.MaxUint32

// born is an entry that the run is expected to make; no UDP socket takes the packet.
func (b *bed) born(n network, m message, via nic) bpf.DatapathFlow {
	f := b.flow(n, m, via, 0)
	f.Seen, f.Created, f.State = justNow, justNow, 0
	f.Flags &^= flagAssured
	if _, datagram := m.(udp); datagram && b.isOwn(n.self) {
		f.Flags |= flagNoSocket
	}
	return f
}

func (b *bed) isOwn(address netip.Addr) bool {
	b.t.Helper()
	var flags uint32
	err := b.OwnAddresses.Lookup(address.As16(), &flags)
	if !errors.Is(err, ebpf.ErrKeyNotExist) {
		b.must(err)
	}
	return flags != 0
}

// Names of what Tables holds.
type tables = *rig.Tables

func establishedFlow(f bpf.DatapathFlow) func(tables) {
	return func(t tables) { t.Established[f.Tuple] = f }
}

func connectionlessFlow(f bpf.DatapathFlow) func(tables) {
	return func(t tables) { t.Connectionless[f.Tuple] = f }
}

func (b *bed) put(changes ...func(tables)) {
	b.t.Helper()
	t := rig.NewTables()
	for _, change := range changes {
		change(t)
	}
	b.must(b.SetTables(t))
}

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
	ingress nic // where a packet came in that the host forwards
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
	shot     = 2
	redirect = 7
)

// run runs a program on a packet and holds everything that it did against what was expected: verdict, packet,
// context, tables and every counter.
func (b *bed) run(r run, want effect) {
	b.t.Helper()
	b.compare(r, want, b.perform(r))
}

// inOneTick is run for effects that depend on the very tick: setup enters what the tables hold and says what is
// expected. It begins again when the clock went on meanwhile.
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

// perform performs a run, and others at once, of which only what they leave behind is told: to read large tables in
// between may take a second.
func (b *bed) perform(r run, then ...run) (o outcome) {
	b.t.Helper()
	o.before, o.counted = b.snapshot()
	o.earliest = b.ago(0)
	o.verdict, o.frame, o.context = b.exec(r)
	for _, r := range then {
		b.exec(r)
	}
	o.latest = b.ago(0)
	o.after, o.counts = b.snapshot()
	return o
}

func (b *bed) snapshot() (tables, rig.Counts) {
	b.t.Helper()
	t, err := b.Tables()
	b.must(err)
	c, err := b.Counts()
	delete(c.Events, bpf.DatapathEventEVENT_TRACE_LOST) // of the tracer, not of the packet: see lost()
	b.must(err)
	return t, c
}

func (b *bed) exec(r run) (verdict int32, frame []byte, out rig.Context) {
	b.t.Helper()
	in := rig.Context{Ifindex: r.via.Index, Mark: 0xabcd, Priority: 3, WireLen: r.wireLen,
		GSOSegs: r.gsoSegs, GSOSize: r.gsoSize, DataEnd: r.linear, IngressIfindex: r.ingress.Index}
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
	return map[string]*ebpf.Program{
		bpf.DatapathProgReplypathIngress: b.ReplypathIngress, bpf.DatapathProgReplypathIngressL3: b.ReplypathIngressL3,
		bpf.DatapathProgReplypathEgress: b.ReplypathEgress, bpf.DatapathProgReplypathEgressL3: b.ReplypathEgressL3,
		bpf.DatapathProgReplypathFallback: b.ReplypathFallback, bpf.DatapathProgReplypathHeld: b.ReplypathHeld,
	}[name]
}

func prefix(address netip.Addr) netip.Prefix {
	return netip.PrefixFrom(address, address.BitLen())
}

const (
	auto    = bpf.DatapathNextHopModeNEXT_HOP_AUTO
	lastHop = bpf.DatapathNextHopModeNEXT_HOP_LAST
)

// A second router beside the interface's first one, and a neighbour that is none.
var (
	secondRouter = net.HardwareAddr{2, 0, 0, 0, 1, 0x22}
	neighbour    = net.HardwareAddr{2, 0, 0, 0, 1, 0x99}
)

const secondGateway = 40 // index of the second router
