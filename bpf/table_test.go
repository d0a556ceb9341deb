// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"

	"github.com/cilium/ebpf"

	"replypath/bpf"
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
	name              string
	admitted, evicted bpf.DatapathEvent
	message           message
	put               func(bpf.DatapathFlow) func(tables)
	entry             func(*bed, network) run
	flows             func(tables) map[bpf.DatapathTuple]bpf.DatapathFlow
}

var fullTables = []fullTable{
	{
		"half-open", bpf.DatapathEventEVENT_ADMITTED_HALF_OPEN, bpf.DatapathEventEVENT_EVICTED_HALF_OPEN, syn, halfOpen,
		func(b *bed, n network) run { return ingress(b.replication, n.in(b.replication, syn)) },
		func(t tables) map[bpf.DatapathTuple]bpf.DatapathFlow { return t.HalfOpen },
	},
	{
		"established", bpf.DatapathEventEVENT_ADMITTED_ESTABLISHED, bpf.DatapathEventEVENT_EVICTED_ESTABLISHED, finalAck, establishedFlow,
		func(b *bed, n network) run { return ingress(b.replication, n.in(b.replication, finalAck)) },
		func(t tables) map[bpf.DatapathTuple]bpf.DatapathFlow { return t.Established },
	},
	{
		"connectionless", bpf.DatapathEventEVENT_ADMITTED_CONNECTIONLESS, bpf.DatapathEventEVENT_EVICTED_CONNECTIONLESS, udp{}, connectionlessFlow,
		func(b *bed, n network) run { return ingress(b.replication, n.in(b.replication, udp{})) },
		func(t tables) map[bpf.DatapathTuple]bpf.DatapathFlow { return t.Connectionless },
	},
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
	if table.name == "established" { // one more handshake waits for its ACK
		next := b.answered(newcomer(crowd[0]), b.replication, 0)
		changes = append(changes, halfOpen(next))
	}
	b.put(changes...)
}

// newcomer is a network whose peer is in no crowd.
func newcomer(n network) network {
	n.peer = n.stranger
	return n
}

// enters is the effect of the newcomer's packet: it takes the place of the flow
// with this network, if any.
func (b *bed) enters(table fullTable, n network, gone *network) effect {
	b.t.Helper()
	b.keepPeriod() // who is pushed out may be marked
	born := b.born(n, table.message, b.replication)
	e := effect{events: once(table.admitted)}
	if gone != nil {
		e.events[table.evicted] = 1
	}
	e.tables = func(t tables) {
		if table.name == "established" {
			handshake := t.HalfOpen[born.Tuple]
			ack := table.message.(tcp)
			born.Created, born.SndNxt = handshake.Created, handshake.SndNxt
			born.Flags |= flagNoSocket
			born.SndUna, born.RcvNxt = ack.ack, ack.end()
			delete(t.HalfOpen, born.Tuple)
		}
		if gone != nil {
			delete(table.flows(t), gone.tuple(table.message))
			if table.name == "connectionless" && e.events[table.evicted] != 0 {
				t.Marks[b.Seeds.Digest(gone.tuple(table.message))] = true
			}
		}
		table.flows(t)[born.Tuple] = born
	}
	return e
}

func eachTable(t *testing.T, f func(*testing.T, *bed, network, fullTable)) {
	t.Helper()
	for _, table := range fullTables {
		t.Run(table.name, func(t *testing.T) {
			for _, n := range networks {
				t.Run(n.name, func(t *testing.T) { f(t, newBed(t, noNursery), n, table) })
			}
		})
	}
}

func TestTableFreeWay(t *testing.T) {
	eachTable(t, func(t *testing.T, b *bed, n network, table fullTable) {
		b.fill(table, crowd(n, ways-1), nil)
		next := newcomer(n)
		b.run(table.entry(b, next), b.enters(table, next, nil))
	})
}

// TestTableEviction: a full set forgets what has been quiet longest.
func TestTableEviction(t *testing.T) {
	eachTable(t, func(t *testing.T, b *bed, n network, table fullTable) {
		crowd := crowd(n, ways)
		b.fill(table, crowd, nil)
		next := newcomer(n)
		b.run(table.entry(b, next), b.enters(table, next, &crowd[0]))
	})
}

// TestTableEvictionClosing: a connection that ends makes room before any other.
func TestTableEvictionClosing(t *testing.T) {
	const closing = 5
	eachTable(t, func(t *testing.T, b *bed, n network, table fullTable) {
		crowd := crowd(n, ways)
		b.fill(table, crowd, func(i int, f *bpf.DatapathFlow) {
			if i == closing {
				f.State = stateClosing
			}
		})
		next := newcomer(n)
		b.run(table.entry(b, next), b.enters(table, next, &crowd[closing]))
	})
}

// TestTableEvictionConversation: what came in once and was answered once may be
// one packet of a flood; it goes before a conversation, however quiet that is.
func TestTableEvictionConversation(t *testing.T) {
	const single = 5
	table := fullTables[2]
	for _, change := range []func(f *bpf.DatapathFlow){
		func(f *bpf.DatapathFlow) { f.Flags |= flagActive },
		func(f *bpf.DatapathFlow) { f.Created -= 10 },
	} {
		eachFamily(t, func(t *testing.T, b *bed, n network) {
			crowd, next := crowd(n, ways), newcomer(n)
			b.fill(table, crowd, func(i int, f *bpf.DatapathFlow) {
				if i != single {
					change(f)
				}
			})
			b.run(table.entry(b, next), b.enters(table, next, &crowd[single]))
		})
		eachFamily(t, func(t *testing.T, b *bed, n network) {
			crowd, next := crowd(n, ways), newcomer(n)
			b.fill(table, crowd, func(i int, f *bpf.DatapathFlow) {
				change(f)
				if i == single {
					f.State = 0 // never answered
				}
			})
			b.run(table.entry(b, next), b.enters(table, next, &crowd[single]))
		})
	}
}

// TestTableEvictionSameMoment: a flood fills a set in less than a tick. A new flow takes the
// place of one of the others all the same.
func TestTableEvictionSameMoment(t *testing.T) {
	eachTable(t, func(t *testing.T, b *bed, n network, table fullTable) {
		crowd, next := crowd(n, ways), newcomer(n)
		b.fill(table, crowd, func(_ int, f *bpf.DatapathFlow) {
			f.Seen = b.ago(0) + b.Seconds(10) // what is still to come has no age
			f.Created = f.Seen
			f.Flags |= flagActive // a conversation
		})
		gone := b.preferred(table, crowd, next)
		b.run(table.entry(b, next), b.enters(table, next, &gone))
	})
}

// preferred is the network whose flow has the place that another's would prefer.
func (b *bed) preferred(table fullTable, crowd []network, next network) network {
	b.t.Helper()
	maps := map[string]*ebpf.Map{"half-open": b.HalfOpen, "established": b.Established, "connectionless": b.Connectionless}
	var set bpf.DatapathFlowSet
	if err := maps[table.name].Lookup(uint32(0), &set); err != nil {
		b.t.Fatal(err)
	}
	way, _ := bpf.FreeWay([ways]uint64{}, b.Seeds.Digest(next.tuple(table.message)))
	i := slices.IndexFunc(crowd, func(n network) bool { return n.tuple(table.message) == set.Flow[way].Tuple })
	return crowd[i]
}

// TestTableEvictionIdle: an idle entry counts as none, so nothing is lost with it,
// even if others have been quiet for longer.
func TestTableEvictionIdle(t *testing.T) {
	const idle = 5
	eachTable(t, func(t *testing.T, b *bed, n network, table fullTable) {
		crowd := crowd(n, ways)
		b.fill(table, crowd, func(i int, f *bpf.DatapathFlow) {
			f.Seen = b.ago(90)
			if i == idle {
				f.Seen = b.ago(uint32(bpf.DatapathIdleSecondsIDLE_ESTABLISHED) + 1)
			}
		})
		next := newcomer(n)
		want := b.enters(table, next, &crowd[idle])
		delete(want.events, table.evicted)
		b.run(table.entry(b, next), want)
	})
}

// TestTableKnownFlow: a packet of a flow that is known pushes nobody out, and
// neither does a new life of it.
func TestTableKnownFlow(t *testing.T) {
	eachTable(t, func(t *testing.T, b *bed, n network, table fullTable) {
		crowd := crowd(n, ways)
		b.fill(table, crowd, func(i int, f *bpf.DatapathFlow) {
			if i == 3 {
				f.Seen -= b.Seconds(100_000)
			}
		})
		before, _ := b.snapshot()
		b.exec(table.entry(b, crowd[3]))
		after, _ := b.snapshot()
		for tuple := range table.flows(before) {
			if _, ok := table.flows(after)[tuple]; !ok {
				t.Errorf("flow %+v is gone", tuple)
			}
		}
		t.Logf("a full table of %d: after a packet of a known flow %d of them are there", len(table.flows(before)), len(table.flows(after)))
	})
}

// TestTableCollision: another flow has the digest. It keeps its place, and
// neither is taken for the other.
func TestTableCollision(t *testing.T) {
	eachTable(t, func(t *testing.T, b *bed, n network, table fullTable) {
		next, old := newcomer(n), b.flow(n, table.message, b.replication, 0)
		b.fill(table, crowd(n, 1), nil)
		content, err := b.Tables()
		b.must(err)
		table.flows(content)[next.tuple(table.message)] = old // under the newcomer's digest
		b.must(b.SetTables(content))

		failed := table.admitted - bpf.DatapathEventEVENT_ADMITTED_HALF_OPEN + bpf.DatapathEventEVENT_INSERT_FAILED_HALF_OPEN
		want := unread(failed)
		if table.message == (udp{}) { // whose answer is no beginning
			b.keepPeriod()
			want.tables = func(t tables) { t.Marks[b.Seeds.Digest(next.tuple(udp{}))] = true }
		}
		b.run(table.entry(b, next), want)
		for _, m := range []message{tcp{flags: "A"}, udp{}} {
			if m.protocol(n) == table.message.protocol(n) {
				verdict, _, _ := b.exec(egress(b.production, next.out(b.production, m)))
				if verdict != pass {
					t.Errorf("verdict %d for the other flow's reply", verdict)
				}
				if content, _ := b.snapshot(); len(content.Outbound) > 0 {
					t.Error("the answer was noted as a beginning")
				}
			}
		}
	})
}

// TestTableForgetsEveryCopy: two CPUs may enter a flow at once, each in another place. Where the
// host opens the connection anew, none of them is left.
func TestTableForgetsEveryCopy(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		for range 2 {
			b.must(b.AddFlow(b.Established, b.flow(n, tcp{}, b.replication, 0)))
		}
		b.exec(egress(b.production, n.out(b.production, syn)))
		if content, _ := b.snapshot(); len(content.Established) > 0 {
			t.Errorf("still in the table: %v", content.Established)
		}
	})
}

// TestTableManySets: with many sets, both sides of the language border look for
// a flow in the same two of them.
func TestTableManySets(t *testing.T) {
	const flows = 300
	for _, n := range networks {
		t.Run(n.name, func(t *testing.T) {
			b := newBed(t, manySets)
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
			if got := counts.Events[bpf.DatapathEventEVENT_ADMITTED_CONNECTIONLESS]; got != flows/2 {
				t.Errorf("%d flows admitted, want %d", got, flows/2)
			}
			for _, other := range crowd(n, flows) {
				verdict, _, _ := b.exec(egress(b.production, other.out(b.production, udp{})))
				if verdict != redirect {
					t.Errorf("verdict %d for the reply to %s", verdict, other.peer)
				}
			}
			for _, other := range crowd(n, flows) {
				b.forget(other, udp{}, bpf.DatapathTableTABLE_CONNECTIONLESS)
			}
			if content, _ := b.snapshot(); len(content.Connectionless) != 0 {
				t.Errorf("%d flows left", len(content.Connectionless))
			}
		})
	}
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

func TestForget(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
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
			{udp{}, bpf.DatapathTableTABLE_HALF_OPEN, [3]int{2, 2, 2}},
			{tcp{}, bpf.DatapathTableTABLE_HALF_OPEN, [3]int{1, 2, 2}},
			{tcp{}, bpf.DatapathTableTABLE_HALF_OPEN, [3]int{1, 2, 2}},
			{tcp{}, bpf.DatapathTableTABLE_ESTABLISHED, [3]int{1, 1, 2}},
			{tcp{}, bpf.DatapathTableTABLE_CONNECTIONLESS, [3]int{1, 1, 2}},
			{udp{}, bpf.DatapathTableTABLE_CONNECTIONLESS, [3]int{1, 1, 1}},
		} {
			b.forget(n, step.m, step.table)
			if got := count(); got != step.left {
				t.Errorf("after forgetting in table %d: %v entries, want %v", step.table, got, step.left)
			}
		}
	})
}

// add enters a flow as the loader does.
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
		t.Run(replier.name, func(t *testing.T) {
			eachFamily(t, func(t *testing.T, b *bed, n network) {
				m, table := replier.message, bpf.DatapathTableTABLE_CONNECTIONLESS
				if _, isTCP := m.(tcp); isTCP {
					table = bpf.DatapathTableTABLE_ESTABLISHED
				}
				frame := n.out(b.production, m)
				for _, from := range []nic{b.replication, b.backup} { // the second time there is an entry
					if result := b.add(n, m, table, b.flow(n, m, from, 0)); result != 0 {
						t.Errorf("add returned %d", result)
					}
				}
				if _, counts := b.snapshot(); counts.Events[bpf.DatapathEventEVENT_ADMITTED_HALF_OPEN+bpf.DatapathEvent(table)] != 0 {
					t.Error("it is counted as admitted")
				}
				b.run(egress(b.production, frame), b.moves(n, m, b.production, b.replication, frame))
			})
		})
	}
}

// TestAddNothing: a table that holds no flows takes none, and a request may not be short.
func TestAddNothing(t *testing.T) {
	b, n := newBed(t, normal), networks[0]
	for _, table := range []bpf.DatapathTable{bpf.DatapathTableTABLE_OUTBOUND, bpf.DatapathTableTABLE_END, 1 << 31} {
		if result := b.add(n, udp{}, table, b.flow(n, udp{}, b.replication, 0)); result == 0 {
			t.Errorf("table %d took it", table)
		}
	}
	if result, err := b.ReplypathAdd.Run(&ebpf.RunOptions{Data: make([]byte, 64)}); err != nil || result == 0 {
		t.Errorf("a short request: %d, %v", result, err)
	}
	if content, _ := b.snapshot(); len(content.Connectionless)+len(content.Outbound) > 0 {
		t.Errorf("in the tables: %+v", content)
	}
}

// TestForgetNothing: a request that makes no sense changes nothing.
func TestForgetNothing(t *testing.T) {
	b, n := newBed(t, normal), networks[0]
	b.put(connectionlessFlow(b.flow(n, udp{}, b.replication, 0)), b.sent(n, udp{}, 0))
	digest := binary.NativeEndian.AppendUint64(nil, b.Seeds.Digest(n.tuple(udp{})))
	for _, table := range []uint32{uint32(bpf.DatapathTableTABLE_OUTBOUND), uint32(bpf.DatapathTableTABLE_END), 1 << 31} {
		request := binary.NativeEndian.AppendUint32(digest, table)
		for _, request := range [][]byte{append(request, 0, 0, 0, 0), append(request, 0, 0)} { // the second is too short
			before, _ := b.snapshot()
			result, err := b.ReplypathForget.Run(&ebpf.RunOptions{Data: request})
			b.must(err)
			after, _ := b.snapshot()
			if result == 0 || len(before.Connectionless) != len(after.Connectionless) || len(before.Outbound) != len(after.Outbound) {
				t.Errorf("table %d: forget returned %d", table, result)
			}
		}
	}
}
