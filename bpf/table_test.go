// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"

	"github.com/cilium/ebpf"

	"replypath/bpf"
	"replypath/bpf/internal/rig"
)

// crowd is this many networks that differ in their peer.
func crowd(n network, count int) []network {
	crowd := make([]network, count)
	for i := range crowd {
		crowd[i] = n
		address := n.peer.AsSlice()
		binary.BigEndian.PutUint16(address[len(address)-2:], uint16(1000+i))
		crowd[i].peer, _ = netip.AddrFromSlice(address)
	}
	return crowd
}

const ways = int(bpf.DatapathWaysWAYS)

// fullTable is a table of one set, and the packet that enters one more flow.
type fullTable struct {
	name    string
	table   bpf.DatapathTable
	message message
	put     func(bpf.DatapathFlow) func(tables)
	flows   func(tables) entries
}

var fullTables = []fullTable{
	{"half-open", tableHalfOpen, syn, halfOpen, func(t tables) entries { return t.HalfOpen }},
	{"established", tableEstablished, finalAck, establishedFlow, func(t tables) entries { return t.Established }},
	{"connectionless", tableConnectionless, udp{}, connectionlessFlow, func(t tables) entries { return t.Connectionless }},
}

// event is what the table counts under an event of the first one.
func (t fullTable) event(first bpf.DatapathEvent) bpf.DatapathEvent {
	return first + bpf.DatapathEvent(t.table)
}

// fill enters a flow for every network, the first of them the oldest.
func (b *bed) fill(table fullTable, crowd []network, change func(i int, f *bpf.DatapathFlow)) {
	b.t.Helper()
	var changes []func(tables)
	for i, n := range crowd {
		flow := b.flow(n, table.message, b.replication, uint32(20-i))
		if change != nil {
			change(i, &flow)
		}
		changes = append(changes, table.put(flow))
	}
	if table.table == tableEstablished { // one more handshake waits for its ACK
		changes = append(changes, halfOpen(b.answered(newcomer(crowd[0]), b.replication, 0)))
	}
	b.put(changes...)
}

// newcomer is a network whose peer is in no crowd.
func newcomer(n network) network {
	n.peer = n.stranger
	return n
}

// enters is the effect of the newcomer's packet: it takes the place of the flow with this network, if any.
func (b *bed) enters(table fullTable, n network, gone *network) effect {
	b.keepPeriod() // who is pushed out may be marked
	born := b.born(n, table.message, b.replication)
	e := effect{events: once(table.event(eventAdmittedHalfOpen))}
	if gone != nil {
		e.events[table.event(eventEvictedHalfOpen)] = 1
	}
	return e.and(func(t tables) {
		if table.table == tableEstablished {
			handshake, ack := t.HalfOpen[born.Tuple], table.message.(tcp)
			born.Created, born.SndNxt = handshake.Created, handshake.SndNxt
			born.Flags |= flagNoSocket
			born.SndUna, born.RcvNxt = ack.ack, ack.end()
			delete(t.HalfOpen, born.Tuple)
		}
		if gone != nil {
			delete(table.flows(t), gone.tuple(table.message))
		}
		table.flows(t)[born.Tuple] = born
	})
}

func eachTable(t *testing.T, f func(*testing.T, *bed, network, fullTable)) {
	t.Helper()
	for _, table := range fullTables {
		t.Run(table.name, func(t *testing.T) {
			eachFamily(t, func(t *testing.T, b *bed, n network) { f(t, b, n, table) })
		})
	}
}

// TestTableEvictionConversation: what came in once and was answered once may be one packet of a flood; it goes before a
// conversation, however quiet that is. So does what was never answered.
func TestTableEvictionConversation(t *testing.T) {
	const single = 5
	table := fullTables[2]
	for _, converse := range []func(f *bpf.DatapathFlow){
		func(f *bpf.DatapathFlow) { f.Flags |= flagActive },
		func(f *bpf.DatapathFlow) { f.Created -= 10 },
	} {
		for _, unanswered := range []bool{false, true} {
			eachFamily(t, func(t *testing.T, b *bed, n network) {
				crowd, next := crowd(n, ways), newcomer(n)
				b.fill(table, crowd, func(i int, f *bpf.DatapathFlow) {
					if i != single || unanswered {
						converse(f)
					}
					if i == single && unanswered {
						f.State = 0
					}
				})
				b.arrives(next, table.message, b.enters(table, next, &crowd[single]))
			})
		}
	}
}

// TestTableManySets: with many sets, both sides of the language border look for a flow in the same two of them.
func TestTableManySets(t *testing.T) {
	const flows = 300
	eachFamilyOn(t, manySets, func(t *testing.T, b *bed, n network) {
		for i, other := range crowd(n, flows) {
			if i%2 == 0 {
				b.exec(ingress(b.replication, other.in(b.replication, udp{})))
			} else {
				b.must(b.AddFlow(b.Connectionless, b.flow(other, udp{}, b.replication, 0)))
			}
		}
		content, counts := b.snapshot()
		if len(content.Connectionless) != flows {
			t.Errorf("%d flows in the table, want %d", len(content.Connectionless), flows)
		}
		if got := counts.Events[eventAdmittedConnectionless]; got != flows/2 {
			t.Errorf("%d flows admitted, want %d", got, flows/2)
		}
		for _, other := range crowd(n, flows) {
			verdict, _, _ := b.exec(egress(b.production, other.out(b.production, udp{})))
			if verdict != redirect {
				t.Errorf("verdict %d for the reply to %s", verdict, other.peer)
			}
		}
		for _, other := range crowd(n, flows) {
			b.forget(other, udp{}, tableConnectionless)
		}
		if content, _ := b.snapshot(); len(content.Connectionless) != 0 {
			t.Errorf("%d flows left", len(content.Connectionless))
		}
	})
}

// forget takes a flow out of a table as the loader does.
func (b *bed) forget(n network, m message, table bpf.DatapathTable) {
	b.t.Helper()
	request := binary.NativeEndian.AppendUint64(nil, b.Seeds.Digest(n.tuple(m)))
	request = binary.NativeEndian.AppendUint32(request, uint32(table))
	request = append(request, 0, 0, 0, 0)
	result, err := b.ReplypathForget.Run(&ebpf.RunOptions{Data: request})
	b.must(err)
	if result != 0 {
		b.t.Errorf("forget returned %d", result)
	}
}

func (b *bed) add(n network, m message, table bpf.DatapathTable, flow bpf.DatapathFlow) uint32 {
	b.t.Helper()
	request, err := binary.Append(nil, binary.NativeEndian, &bpf.DatapathAddRequest{
		Digest: b.Seeds.Digest(n.tuple(m)), Table: uint32(table), Flow: flow,
	})
	b.must(err)
	result, err := b.ReplypathAdd.Run(&ebpf.RunOptions{Data: request})
	b.must(err)
	return result
}

// TestAdd: what another table has recorded is found, and changes no entry of the same tuple. Nothing is counted.
func TestAdd(t *testing.T) {
	for _, replier := range repliers {
		under(t, replier.name, eachFamily, func(t *testing.T, b *bed, n network) {
			m, table := replier.message, tableConnectionless
			if _, isTCP := m.(tcp); isTCP {
				table = tableEstablished
			}
			frame := n.out(b.production, m)
			for _, from := range []nic{b.replication, b.backup} { // the second time there is an entry
				if result := b.add(n, m, table, b.flow(n, m, from, 0)); result != 0 {
					t.Errorf("add returned %d", result)
				}
			}
			if _, counts := b.snapshot(); counts.Events[eventAdmittedHalfOpen+bpf.DatapathEvent(table)] != 0 {
				t.Error("it is counted as admitted")
			}
			b.run(egress(b.production, frame), b.moves(n, m, b.production, b.replication, frame))
		})
	}
}

var tableFamily = map[string]story{
	// Where the host opens the connection anew, none of them is left.
	"two CPUs may enter a flow at once, each in another place": func(t *testing.T, b *bed, n network) {
		for range 2 {
			b.must(b.AddFlow(b.Established, b.flow(n, tcp{}, b.replication, 0)))
		}
		b.exec(egress(b.production, n.out(b.production, syn)))
		if content, _ := b.snapshot(); len(content.Established) > 0 {
			t.Errorf("still in the table: %v", content.Established)
		}
	},
	"forget": func(t *testing.T, b *bed, n network) {
		other := newcomer(n)
		b.put(
			halfOpen(b.flow(n, tcp{}, b.replication, 0)), halfOpen(b.flow(other, tcp{}, b.replication, 0)),
			establishedFlow(b.flow(n, tcp{}, b.replication, 0)), establishedFlow(b.flow(other, tcp{}, b.replication, 0)),
			connectionlessFlow(b.flow(n, udp{}, b.replication, 0)), connectionlessFlow(b.flow(other, udp{}, b.replication, 0)),
		)
		count := func() (counts [3]int) {
			content, err := b.Tables()
			b.must(err)
			return [3]int{len(content.HalfOpen), len(content.Established), len(content.Connectionless)}
		}
		for _, step := range []struct {
			m     message
			table bpf.DatapathTable
			left  [3]int
		}{
			{udp{}, tableHalfOpen, [3]int{2, 2, 2}},
			{tcp{}, tableHalfOpen, [3]int{1, 2, 2}},
			{tcp{}, tableHalfOpen, [3]int{1, 2, 2}},
			{tcp{}, tableEstablished, [3]int{1, 1, 2}},
			{tcp{}, tableConnectionless, [3]int{1, 1, 2}},
			{udp{}, tableConnectionless, [3]int{1, 1, 1}},
		} {
			b.forget(n, step.m, step.table)
			if got := count(); got != step.left {
				t.Errorf("after forgetting in table %d: %v entries, want %v", step.table, got, step.left)
			}
		}
	},
}

func TestTableFamily(t *testing.T) { tell(t, eachFamily, tableFamily) }

// TestTableEviction: a full set forgets what has been quiet longest, but a connection that ends before that. With an
// idle entry, which counts as none, nothing is lost, even if others have been quiet for longer. Where a flood has filled
// the set in less than a tick, the one goes whose place the new one would prefer.
func TestTableEviction(t *testing.T) {
	const chosen = 5
	for name, test := range map[string]struct {
		crowd  int
		change func(b *bed, i int, f *bpf.DatapathFlow)
		gone   func(b *bed, table fullTable, crowd []network, next network) int // -1: none
		isLost bool
	}{
		"free way": {ways - 1, nil, func(*bed, fullTable, []network, network) int { return -1 }, false},
		"quietest": {ways, nil, func(*bed, fullTable, []network, network) int { return 0 }, true},
		"closing": {ways, func(_ *bed, i int, f *bpf.DatapathFlow) {
			f.State = either(i == chosen, stateClosing, f.State)
		}, func(*bed, fullTable, []network, network) int { return chosen }, true},
		"idle": {ways, func(b *bed, i int, f *bpf.DatapathFlow) {
			f.Seen = b.ago(either(i == chosen, idleEstablished+1, 90))
		}, func(*bed, fullTable, []network, network) int { return chosen }, false},
		"same moment": {ways, func(b *bed, _ int, f *bpf.DatapathFlow) {
			f.Seen = b.ago(0) + b.Seconds(10) // what is still to come has no age
			f.Created = f.Seen
			f.Flags |= flagActive // a conversation
		}, (*bed).preferred, true},
	} {
		under(t, name, eachTable, func(t *testing.T, b *bed, n network, table fullTable) {
			crowd, next := crowd(n, test.crowd), newcomer(n)
			b.fill(table, crowd, func(i int, f *bpf.DatapathFlow) {
				if test.change != nil {
					test.change(b, i, f)
				}
			})
			var gone *network
			if i := test.gone(b, table, crowd, next); i >= 0 {
				gone = &crowd[i]
			}
			want := b.enters(table, next, gone)
			if !test.isLost {
				delete(want.events, table.event(eventEvictedHalfOpen))
			}
			b.arrives(next, table.message, want)
		})
	}
}

// preferred tells which flow of a crowd has the place that another's would prefer.
func (b *bed) preferred(table fullTable, crowd []network, next network) int {
	b.t.Helper()
	var set bpf.DatapathFlowSet
	b.must([]*rig.Table{b.HalfOpen, b.Established, b.Connectionless}[table.table].Lookup(uint32(0), &set))
	way, _ := rig.FreeWay([ways]uint64{}, b.Seeds.Digest(next.tuple(table.message)))
	return slices.IndexFunc(crowd, func(n network) bool { return n.tuple(table.message) == set.Flow[way].Tuple })
}

// TestTableCollision: another flow has the digest. It keeps its place, and neither is taken for the other.
func TestTableCollision(t *testing.T) {
	eachTable(t, func(t *testing.T, b *bed, n network, table fullTable) {
		next, old := newcomer(n), b.flow(n, table.message, b.replication, 0)
		b.fill(table, crowd(n, 1), nil)
		content, err := b.Tables()
		b.must(err)
		table.flows(content)[next.tuple(table.message)] = old // under the newcomer's digest
		b.must(b.SetTables(content))

		b.arrives(next, table.message, unread(table.event(eventInsertFailedHalfOpen)))
		reply := either(table.table == tableConnectionless, message(udp{}), message(tcp{flags: "A"}))
		if verdict, _, _ := b.exec(egress(b.production, next.out(b.production, reply))); verdict != pass {
			t.Errorf("verdict %d for the other flow's reply", verdict)
		}
	})
}
