// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"net/netip"
	"strings"
	"testing"

	"replypath/bpf"
	"replypath/test/await"
)

// control is of a connection that the peer has opened, and that goes on.
var control = tcp{flags: "PA", seq: peerISN + 100, ack: ourISN + 200, ports: ports{peer: peerPort + 9, self: selfPort + 9}}

// question is a datagram that is answered by another socket, or to another port.
var question = udp{ports: ports{peer: peerPort + 9, self: selfPort + 9}}

// ownRelated gives the replication interface its address, in the weak host model.
func (b *bed) ownRelated(n network) {
	b.t.Helper()
	b.configure(func(s *bpf.DatapathSettings) { s.Related = 1 })
	b.own(n)
}

// relates has what the host originates go with the peer's connection by an interface, which is another's address maybe.
func (b *bed) relates(n network, via nic) {
	b.t.Helper()
	b.put(establishedFlow(b.flow(n, control, via, 0)))
	b.ownRelated(n)
	b.goesWith(n, control)
}

// goesWith has a connection of the peer's show its path, an hour ago.
func (b *bed) goesWith(n network, m message) {
	b.t.Helper()
	b.must(b.SetRecord(n.tuple(m), bpf.DatapathRecord{
		Flow: b.Seeds.Digest(n.tuple(m)), Proof: uint8(bpf.DatapathProofPROOF_CONNECTION), Heard: b.ago(3600),
	}))
}

// changeFlow writes over the peer's connection.
func (b *bed) changeFlow(n network, change func(*bpf.DatapathFlow)) {
	b.t.Helper()
	flow := b.flow(n, control, b.replication, 0)
	change(&flow)
	b.put(establishedFlow(flow))
}

// What shows by which path a peer comes, for long or since just now.
const (
	nothingShows  = ""
	itConnected   = "a connection began"
	itAsked       = "a question by UDP"
	itIsConnected = "a connection that goes on"
	datagramsGoOn = "datagrams that go on"
)

// wantShown checks what a flow shows.
func (b *bed) wantShown(n network, m message, want string) {
	b.t.Helper()
	digest := b.Seeds.Digest(n.tuple(m))
	var got []string
	if record := b.record(n, m); record != nil && record.Flow == digest {
		got = append(got, map[bpf.DatapathProof]string{
			bpf.DatapathProofPROOF_CONNECTION: itIsConnected, bpf.DatapathProofPROOF_CONVERSATION: datagramsGoOn,
		}[bpf.DatapathProof(record.Proof)])
	}
	b.must(b.Begun.Read())
	for i, place := range bpf.Recent(b.Seeds.Ends(n.tuple(m))) {
		if b.Begun.Elements[place] == digest {
			got = append(got, [...]string{itConnected, itAsked}[i])
		}
	}
	await.Same(b.t, "what shows the path", want, strings.Join(got, ", "))
}

// TestRelatedOrNot: what it goes with has to go on, and to come by the interface of the address.
func TestRelatedOrNot(t *testing.T) {
	change := func(change func(*bpf.DatapathFlow)) setup {
		return func(b *bed, n network) { b.changeFlow(n, change) }
	}
	noGateway := func(b *bed, n network) {
		b.manage(b.replication, func(r *bpf.DatapathInterface) { r.Flags |= strong })
	}
	for _, test := range []struct {
		name   string
		change setup
		want   way
	}{
		{"it goes on", nil, byGateway},
		{"without the setting", func(b *bed, _ network) {
			b.configure(func(s *bpf.DatapathSettings) { s.Related = 0 })
		}, asRouted(outcomeWeakHost, 1)},
		{"strong, and no gateway is known", noGateway, byGateway},
		{"strong, and a gateway is known", func(b *bed, n network) {
			b.addGateway(b.replication, n, secondGateway, secondRouter)
			b.strongWith(secondGateway, secondGateway, 0)
		}, bySecond},
		{"it is forgotten", func(b *bed, _ network) { b.put() }, asRouted(outcomeWeakHost, 1)},
		{"its digest is of other addresses", func(b *bed, n network) {
			b.goesWith(n, control)
			other := n.at(n.other)
			b.put(establishedFlow(b.flow(other, control, b.replication, 0)))
			b.must(b.SetRecord(n.tuple(control), bpf.DatapathRecord{
				Flow: b.Seeds.Digest(other.tuple(control)), Proof: uint8(bpf.DatapathProofPROOF_CONNECTION),
			}))
		}, asRouted(outcomeWeakHost, 1)},
		{"to the MAC of its frames", change(func(f *bpf.DatapathFlow) {
			f.Gateway, f.Flags = 0, 0
			copy(f.Mac[:], secondRouter)
		}), bySecond},
	} {
		under(t, test.name, eachFamily, func(t *testing.T, b *bed, n network) {
			b.relates(n, b.replication)
			test.change.on(b, n)
			b.leavesBy(n, segment, test.want)
		})
	}
}

// TestRelatedBy: what proves by which way a peer comes.
func TestRelatedBy(t *testing.T) {
	const asymmetric = stateReplied | stateAsymmetric
	since := func(seconds uint32, m message, state uint8) setup {
		return func(b *bed, n network) {
			f := b.flow(n, m, b.replication, seconds)
			f.State = state
			b.put(flowOf(m, f))
		}
	}
	old := func(m message, state uint8) setup { return since(2, m, state) }
	ping, last := echo{}, tcp{flags: "A", seq: peerISN + 1, ack: ourISN + 1, ports: control.ports}
	handshake := func(state uint8) setup {
		return func(b *bed, n network) {
			f := b.answered(n, b.replication, 0)
			f.Tuple = n.tuple(control)
			f.State |= state
			b.put(halfOpen(f))
		}
	}
	for _, test := range []struct {
		name   string
		before setup
		m      message // comes in
		want   string
	}{
		{"the end of a handshake", handshake(stateAsymmetric), last, itConnected},
		{"of one that the kernel answers rightly", handshake(0), last, itConnected},
		{"a connection that goes on after a second", old(control, stateAsymmetric), control, itIsConnected},
		{"one that the kernel answers rightly", old(control, 0), control, nothingShows},
		{"one on trial", func(b *bed, n network) {
			f := b.flow(n, control, b.replication, 2)
			f.State, f.Flags = stateAsymmetric, f.Flags|uint16(bpf.DatapathFlowFlagsFLOW_ON_TRIAL)
			f.SndUna, f.SndNxt = control.ack, control.ack
			b.put(establishedFlow(f))
		}, control, nothingShows},
		{"datagrams that go on after a second", old(question, asymmetric), question, datagramsGoOn},
		{"those that the kernel answers rightly", old(question, stateReplied), question, nothingShows},
		{"datagrams that nobody has answered", old(question, 0), question, itAsked},
		{"datagrams of this second", since(0, question, asymmetric), question, nothingShows},
		{"echo requests", old(ping, asymmetric), ping, nothingShows},
		{"a SYN", nil, tcp{flags: "S", seq: peerISN, ports: control.ports}, nothingShows},
	} {
		under(t, test.name, eachFamily, func(t *testing.T, b *bed, n network) {
			for _, related := range []uint8{0, 1} {
				b.ownRelated(n)
				test.before.on(b, n)
				b.configure(func(s *bpf.DatapathSettings) { s.Related = related })
				b.exec(ingress(b.replication, n.in(b.replication, test.m)))
				if related == 0 {
					b.wantShown(n, test.m, nothingShows)
				}
			}
			b.wantShown(n, test.m, test.want)
			goes := test.want != nothingShows && test.want != itAsked
			b.leavesBy(n, segment, either(goes, byGateway, asRouted(outcomeWeakHost, 1)))
		})
	}
}

// TestRelatedElsewhere: what comes by an interface that does not have the address shows nothing.
func TestRelatedElsewhere(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		b.ownRelated(n)
		ownedByBackup(b, n)
		b.outdate()
		f := b.flow(n, control, b.replication, 2)
		f.State = stateAsymmetric
		b.put(establishedFlow(f))
		b.exec(ingress(b.replication, n.in(b.replication, control)))
		b.wantShown(n, control, nothingShows)
	})
}

// TestRelatedEnded: for 15 minutes after a connection has ended, what the host opens goes as that went; and only for as long as
// a flow goes on, as datagrams do.
func TestRelatedEnded(t *testing.T) {
	for _, test := range []struct {
		name    string
		proof   bpf.DatapathProof
		minutes uint32
		want    way
	}{
		{"a connection, 14 minutes ago", bpf.DatapathProofPROOF_CONNECTION, 14, byGateway},
		{"a connection, 16 minutes ago", bpf.DatapathProofPROOF_CONNECTION, 16, asRouted(outcomeWeakHost, 1)},
		{"answers, 59 minutes ago", bpf.DatapathProofPROOF_ANSWERS, 59, byGateway},
		{"answers, 61 minutes ago", bpf.DatapathProofPROOF_ANSWERS, 61, asRouted(outcomeWeakHost, 1)},
		{"datagrams", bpf.DatapathProofPROOF_CONVERSATION, 0, asRouted(outcomeWeakHost, 1)},
	} {
		under(t, test.name, eachFamily, func(t *testing.T, b *bed, n network) {
			b.ownRelated(n)
			f := b.flow(n, control, b.replication, 0)
			b.must(b.SetRecord(f.Tuple, bpf.DatapathRecord{
				Flow: b.Seeds.Digest(f.Tuple), Proof: uint8(test.proof), Heard: b.ago(60 * test.minutes),
				Path: bpf.DatapathPath{Ifindex: f.Ifindex, Interface: f.Interface, Gateway: f.Gateway, Mac: f.Mac, Flags: f.Flags},
			}))
			b.leavesBy(n, segment, test.want)
		})
	}
}

// TestRelatedForged: datagrams that were made to go on by another interface take nothing from answers, for three minutes.
func TestRelatedForged(t *testing.T) {
	for name, test := range map[string]struct {
		minutes uint32
		want    way
	}{
		"the peer answers":                 {2, byGateway},
		"its last answer is 4 minutes old": {4, asRouted(outcomeWeakHost, 1)},
	} {
		under(t, name, eachFamily, func(t *testing.T, b *bed, n network) {
			b.ownRelated(n)
			b.put(flowOf(question, b.flow(n, question, b.backup, 0)))
			f := b.flow(n, question, b.replication, 0)
			b.must(b.SetRecord(f.Tuple, bpf.DatapathRecord{
				Flow: b.Seeds.Digest(f.Tuple), Proof: uint8(bpf.DatapathProofPROOF_ANSWERS), Heard: b.ago(60 * test.minutes), To: b.replication.id,
				Path: bpf.DatapathPath{Ifindex: f.Ifindex, Interface: f.Interface, Gateway: f.Gateway, Mac: f.Mac, Flags: f.Flags},
			}))
			b.leavesBy(n, segment, test.want)
		})
	}
}

// TestRelatedBegan: before its first second is over, a connection shows a path that goes on, or that has ended within 15 minutes.
func TestRelatedBegan(t *testing.T) {
	for _, test := range []struct {
		name    string
		closing bool
		minutes uint32
		other   bool // the addresses
		want    way
	}{
		{name: "it goes on", minutes: 60, want: byGateway},
		{name: "it ended 14 minutes ago", closing: true, minutes: 14, want: byGateway},
		{name: "it ended 16 minutes ago", closing: true, minutes: 16, want: asRouted(outcomeWeakHost, 1)},
		{name: "it is of other addresses", other: true, want: asRouted(outcomeWeakHost, 1)},
	} {
		under(t, test.name, eachFamily, func(t *testing.T, b *bed, n network) {
			b.ownRelated(n)
			of := n
			if test.other {
				of = n.at(n.other)
			}
			f := b.flow(of, control, b.replication, 60*test.minutes)
			f.State = either(test.closing, stateClosing, 0)
			b.put(establishedFlow(f))
			b.Begun.Elements[bpf.Recent(b.Seeds.Ends(n.tuple(control)))[0]] = b.Seeds.Digest(f.Tuple)
			b.must(b.Begun.Write())
			b.leavesBy(n, segment, test.want)
		})
	}
}

// TestRelatedTransfers: two questions of one peer at one port are each answered from another port (TFTP).
func TestRelatedTransfers(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		b.ownRelated(n)
		defer closeSocket(t, listenUDP(t, netip.AddrPortFrom(n.self, question.ports.self)))
		second := udp{ports: ports{peer: question.ports.peer + 1, self: question.ports.self}}
		b.put()
		for _, m := range []udp{question, second} {
			b.exec(ingress(b.replication, n.in(b.replication, m)))
		}
		for i, m := range []udp{question, second} {
			b.wantRelated(n, udp{payload: 100, ports: ports{peer: m.ports.peer, self: selfPort + uint16(i)}})
		}
		b.wantRouted(n, udp{payload: 100, ports: ports{peer: question.ports.peer + 2, self: selfPort}}, outcomeWeakHost)
	})
}

// TestRelatedStays: what shows a path takes the place only of what proves less, or is over.
func TestRelatedStays(t *testing.T) {
	connection, answers, conversation := bpf.DatapathProofPROOF_CONNECTION, bpf.DatapathProofPROOF_ANSWERS,
		bpf.DatapathProofPROOF_CONVERSATION
	for _, test := range []struct {
		name      string
		before    bpf.DatapathProof
		minutes   uint32 // ago
		goesOn    bool   // the flow that showed it
		shows     bpf.DatapathProof
		takesOver bool
		elsewhere bool // by another interface than that of the address
	}{
		{"a connection beside one that moved away", connection, 0, true, connection, true, true},
		{"datagrams beside some that moved away", conversation, 0, true, conversation, true, true},
		{"datagrams beside a connection that moved away", connection, 0, true, conversation, false, true},
		{"a connection beside one", connection, 0, true, connection, false, false},
		{"a connection beside one that is over", connection, 0, false, connection, true, false},
		{"a connection beside answers", answers, 0, false, connection, true, false},
		{"datagrams beside a connection", connection, 100, true, conversation, false, false},
		{"datagrams after a connection", connection, 14, false, conversation, false, false},
		{"datagrams long after a connection", connection, 16, false, conversation, true, false},
		{"datagrams beside answers", answers, 2, false, conversation, false, false},
		{"datagrams beside silence", answers, 4, false, conversation, true, false},
		{"datagrams after others, beside answers", conversation | answers, 2, false, conversation, false, false},
		{"datagrams after others, beside silence", conversation | answers, 4, false, conversation, true, false},
		{"datagrams beside others", conversation, 0, true, conversation, false, false},
		{"datagrams after others", conversation, 0, false, conversation, true, false},
	} {
		under(t, test.name, eachFamily, func(t *testing.T, b *bed, n network) {
			before, m := message(tcp{ports: ports{peer: 7, self: 7}}), message(control)
			if test.before != connection {
				before = udp{ports: ports{peer: 7, self: 7}}
			}
			if test.shows != connection {
				m = question
			}
			b.ownRelated(n)
			f := b.flow(n, m, b.replication, 2)
			f.State = stateReplied | stateAsymmetric
			flows := []func(tables){flowOf(m, f)}
			if test.goesOn {
				flows = append(flows, flowOf(before, b.flow(n, before, either(test.elsewhere, b.backup, b.replication), 0)))
			}
			b.put(flows...)
			record := bpf.DatapathRecord{Proof: uint8(test.before), Heard: b.ago(60 * test.minutes)}
			if test.before != answers {
				record.Flow = b.Seeds.Digest(n.tuple(before))
			}
			b.must(b.SetRecord(f.Tuple, record))
			b.exec(ingress(b.replication, n.in(b.replication, m)))
			got := b.record(n, m)
			if isNew := got.Flow == b.Seeds.Digest(f.Tuple); isNew != test.takesOver || isNew && bpf.DatapathProof(got.Proof) != test.shows {
				t.Errorf("%+v", got)
			}
		})
	}
}

// TestRelatedQuestion: datagrams with a port of the peer's question go as its answer does, if somebody takes it: those by its
// own port as long as it lasts, those to the peer's for ten seconds.
func TestRelatedQuestion(t *testing.T) {
	for _, test := range []struct {
		name         string
		m            message
		bySame, last bool
	}{
		{"by another port", udp{payload: 100, ports: ports{peer: question.ports.peer, self: selfPort}}, true, false},
		{"to another port", udp{payload: 100, ports: ports{peer: peerPort, self: question.ports.self}}, true, true},
		{"by other ports", udp{payload: 100}, false, false},
		{"no datagram", tcp{flags: "PA", ports: ports{peer: question.ports.peer, self: selfPort}}, false, false},
	} {
		under(t, test.name, eachFamily, func(t *testing.T, b *bed, n network) {
			b.ownRelated(n)
			b.exec(ingress(b.replication, n.in(b.replication, question)))
			b.wantRouted(n, test.m, outcomeWeakHost)
			b.put()
			defer closeSocket(t, listenUDP(t, netip.AddrPortFrom(n.self, question.ports.self)))
			b.exec(ingress(b.replication, n.in(b.replication, question)))
			if !test.bySame {
				b.wantRouted(n, test.m, outcomeWeakHost)
				return
			}
			b.wantRelated(n, test.m)
			b.put(connectionlessFlow(b.flow(n, question, b.replication, 9)))
			b.wantRelated(n, test.m)
			b.put(connectionlessFlow(b.flow(n, question, b.replication, 11)))
			if test.last {
				b.wantRelated(n, test.m)
			} else {
				b.wantRouted(n, test.m, outcomeWeakHost)
			}
		})
	}
}

// wantRelated wants a packet to go by the gateway of the replication interface, whatever else is noted of it.
func (b *bed) wantRelated(n network, m message) {
	b.t.Helper()
	verdict, frame, _ := b.exec(egress(b.production, n.out(b.production, m)))
	await.Same(b.t, "verdict", redirect, verdict)
	b.wantFrame(frame, readdressed(n.out(b.production, m), b.replication.router, b.replication.MAC))
}

// wantRouted wants a packet to be left as the kernel has routed it, for a reason.
func (b *bed) wantRouted(n network, m message, reason bpf.DatapathOutcome) {
	b.t.Helper()
	if verdict, _, _ := b.exec(egress(b.production, n.out(b.production, m))); verdict != pass {
		b.t.Errorf("verdict %d", verdict)
	}
	if record := b.record(n, m); record == nil || bpf.DatapathOutcome(record.Outcome) != reason {
		b.t.Errorf("what is kept: %+v, want outcome %d", record, reason)
	}
}

// TestRelatedTraced: the tracer is told that it goes as the answers go.
func TestRelatedTraced(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		b.relates(n, b.replication)
		tracer := b.traceAll()
		frame := n.out(b.production, segment)
		b.exec(egress(b.production, frame))
		moved := n.outgoing(segment, b.production, b.replication, frame)
		moved.Table = uint8(bpf.DatapathTableTABLE_RELATED)
		moved.Path = n.bySource(b.replication)
		tracer.want(moved)
	})
}
