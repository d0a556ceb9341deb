// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"time"

	"github.com/cilium/ebpf/ringbuf"

	"replypath/bpf"
	"replypath/bpf/internal/rig"
	"replypath/test/await"
)

type tracer struct {
	*bed
	events *ringbuf.Reader
}

// trace asks to be told of these addresses, not valid ones standing for all, for a minute.
func (b *bed) trace(peer, self netip.Prefix) *tracer {
	b.t.Helper()
	events, err := ringbuf.NewReader(b.TraceEvents)
	b.must(err)
	b.t.Cleanup(func() { events.Close() })
	t := &tracer{b, events}
	t.read() // of earlier tests
	t.ask(peer, self, b.Seconds(60))
	return t
}

func (b *bed) traceAll() *tracer { return b.trace(netip.Prefix{}, netip.Prefix{}) }

// ask writes the filter; ticks is how long it holds.
func (t *tracer) ask(peer, self netip.Prefix, ticks uint32) {
	t.t.Helper()
	request := bpf.DatapathTraceRequest{Until: t.ago(0) + ticks}
	request.Peer, request.PeerMask = rig.Masked(peer)
	request.Self, request.SelfMask = rig.Masked(self)
	t.must(t.TraceFilter.Set(request))
}

// read returns the events that are there, without their times.
func (t *tracer) read() []bpf.DatapathTraceEvent {
	t.t.Helper()
	var events []bpf.DatapathTraceEvent
	t.events.SetDeadline(time.Unix(0, 1))
	for {
		record, err := t.events.Read()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return events
		}
		t.must(err)
		var event bpf.DatapathTraceEvent
		_, err = binary.Decode(record.RawSample, binary.NativeEndian, &event)
		t.must(err)
		if event.Time == 0 {
			t.t.Error("an event has no time")
		}
		event.Time = 0
		events = append(events, event)
	}
}

// want holds the events that came since the last look against these.
func (t *tracer) want(events ...bpf.DatapathTraceEvent) {
	t.t.Helper()
	await.Same(t.t, "events", events, t.read())
}

func (t *tracer) lost() uint64 {
	t.t.Helper()
	counts, err := t.EventCounts()
	t.must(err)
	return counts[bpf.DatapathEventEVENT_TRACE_LOST]
}

// event is one of a message that nothing is known of.
func (n network) event(kind uint8, m message, via nic, frame []byte) bpf.DatapathTraceEvent {
	e := bpf.DatapathTraceEvent{
		Tuple: n.tuple(m), Ifindex: via.Index, Length: uint32(len(frame)), Packets: 1,
		Kind: kind, Family: n.family, Table: noTable,
	}
	switch m := m.(type) {
	case tcp:
		e.TcpFlags = frame[ethernetSize+n.ipSize()+13]
	case echo:
		e.Form = uint8(bpf.DatapathTraceFormTRACE_ECHO_REQUEST)
		if m.reply {
			e.Form = uint8(bpf.DatapathTraceFormTRACE_ECHO_REPLY)
		}
	}
	return e
}

// incoming is one of a frame that comes in from the router there.
func (n network) incoming(m message, via nic, frame []byte) bpf.DatapathTraceEvent {
	e := n.event(tracedIn, m, via, frame)
	e.Mac = rig.MAC(via.router)
	return e
}

// outgoing is an event of a frame that the kernel sends by one interface and that leaves by another, or by the same, for
// the routers there.
func (n network) outgoing(m message, via, out nic, frame []byte) bpf.DatapathTraceEvent {
	e := n.event(tracedOut, m, via, frame)
	e.KernelMac, e.Mac, e.OutIfindex = rig.MAC(via.router), rig.MAC(out.router), out.Index
	if out.Index != via.Index {
		e.Outcome = uint8(outcomeCorrected)
	}
	return e
}

// bySource is the way that the source of what the host originates wants it to leave by.
func (n network) bySource(via nic) bpf.DatapathPath {
	return bpf.DatapathPath{Ifindex: via.Index, Interface: via.id, Gateway: via.gateway(n.family), Mac: rig.MAC(via.router), Flags: flagGateway}
}

func of(e bpf.DatapathTraceEvent, m message, via nic) bpf.DatapathTraceEvent {
	e.FlowIfindex, e.Table = via.Index, uint8(tableConnectionless)
	if _, connection := m.(tcp); connection {
		e.Table = uint8(tableEstablished)
	}
	return e
}

// wantPassed sends a packet by an interface, and wants to be told that it stays there; of a flow of the replication
// interface, or of none.
func (t *tracer) wantPassed(n network, m message, via nic, isOfFlow bool, outcome bpf.DatapathOutcome) {
	t.t.Helper()
	frame := n.out(via, m)
	t.exec(egress(via, frame))
	e := n.outgoing(m, via, via, frame)
	if isOfFlow {
		e = of(e, m, t.replication)
	}
	e.Outcome = uint8(outcome)
	t.want(e)
}
