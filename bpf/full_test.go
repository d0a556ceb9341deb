// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"encoding/binary"
	"errors"
	"maps"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/bpf/internal/rig"
)

// The flow tables, and the hash of interface pairs where it is made small, are filled in table_test.go and
// count_test.go; all rules of exclusion in admission_test.go.

// fillArray puts as many elements into an array as it has, made by number.
func fillArray[V any](b *bed, m *ebpf.Map, element func(index uint32) V) {
	b.t.Helper()
	keys, values := make([]uint32, m.MaxEntries()), make([]V, m.MaxEntries())
	for i := range keys {
		keys[i], values[i] = uint32(i), element(uint32(i))
	}
	count, err := m.BatchUpdate(keys, values, nil)
	b.must(err)
	if count != len(keys) {
		b.t.Fatalf("%d of %d elements were written", count, len(keys))
	}
}

// fillMap puts entries into a map until there is room for no more.
func fillMap[K any](b *bed, m *ebpf.Map, value any, key func(number uint32) K) {
	b.t.Helper()
	for number := uint32(0); number <= m.MaxEntries(); {
		err := m.Put(key(number), value)
		switch {
		case errors.Is(err, unix.E2BIG) || errors.Is(err, unix.ENOSPC):
			return
		case errors.Is(err, unix.ENOMEM): // until the kernel has found more (kernel/bpf/memalloc.c)
			continue
		}
		b.must(err)
		number++
	}
	b.t.Fatalf("%s takes more than %d entries", m, m.MaxEntries())
}

// wantAsEver wants packets that start a flow to start it, and answers to known flows to be moved.
func (b *bed) wantAsEver(n network) {
	b.t.Helper()
	for _, m := range starters {
		b.put()
		b.arrives(n, m.message, b.starts(n, m.message, b.replication))
	}
	for _, m := range repliers {
		b.put(flowOf(m.message, b.flow(n, m.message, b.replication, 0)))
		b.wantMoved(n, m.message)
	}
	b.put()
}

// fillMarks has every place of some kinds of marks be taken, and returns the digest that makes room for another one's.
func (b *bed) fillMarks(kinds ...bpf.DatapathMarkKind) (oldest func(digest uint64) uint64) {
	b.t.Helper()
	b.keepPeriod()
	present, err := b.Mark(0)
	b.must(errors.Join(err, b.MarkSets.Read()))
	of := func(index uint64, way int) uint64 { return uint64(way+1)<<60 | index<<1 | 1 }
	for _, kind := range kinds {
		for index, set := range b.Marked(kind) {
			for way := range set.Mark {
				b.Marked(kind)[index].Mark[way] = of(uint64(index), way) ^ present
			}
		}
	}
	b.must(b.MarkSets.Write())
	return func(digest uint64) uint64 {
		sets := b.Marked(kinds[0])
		return of(digest>>1%uint64(len(sets)), len(sets[0].Mark)-1)
	}
}

// numbered is an address that no test uses otherwise.
func (n network) numbered(number uint32) netip.Addr {
	address := n.stranger.As16()
	copy(address[8:12], []byte{0, 0, 0xff, 0xff})
	if n.family == 6 {
		address[9] = 0x77
	}
	binary.BigEndian.PutUint32(address[12:], 0xc0000000+number)
	return netip.AddrFrom16(address).Unmap()
}

// TestAskedFlood: as many peers as there is room for have asked. A newcomer's question takes the place of one of them.
func TestAskedFlood(t *testing.T) {
	eachRepair(t, repairOn, func(t *testing.T, b *bed, n network) {
		b.fillHash(b.Asked, uint64(1))
		next := newcomer(n)
		b.arrives(next, udp{}, b.admitsServed(next, b.replication))
		asked, err := b.AskedBy()
		b.must(err)
		if !slices.Contains(slices.Collect(maps.Values(asked)), b.Seeds.Digest(next.tuple(udp{}))) {
			t.Error("the newcomer's question found no room")
		}
		frame := next.out(b.production, udp{})
		known, _ := b.snapshot()
		flow := known.Connectionless[next.tuple(udp{})]
		flow.State = stateReplied | stateAsymmetric
		moved := b.moves(next, udp{}, b.production, b.replication, frame)
		moved.tables = connectionlessFlow(flow)
		b.run(egress(b.production, frame), moved)
	})
}

// fillHash puts as many entries into a hash as it has room for, by digests that no test has otherwise.
func (b *bed) fillHash(m *ebpf.Map, value any) {
	b.t.Helper()
	for number := range uint64(m.MaxEntries()) {
		b.must(m.Put(number<<1|1, value))
	}
}

// fillRing does something until what it writes into a ring finds no more room.
func (b *bed) fillRing(ring *ebpf.Map, write func(number uint32)) {
	b.t.Helper()
	reader, err := ringbuf.NewReader(ring)
	b.must(err)
	defer reader.Close()
	before := -1
	for number := uint32(0); reader.AvailableBytes() != before; number++ {
		before = reader.AvailableBytes()
		write(number)
	}
	if before < int(ring.MaxEntries())/2 {
		b.t.Fatalf("%d bytes are in a ring of %d", before, ring.MaxEntries())
	}
}

// TestFullTraceEvents: nobody reads what is traced. Packets go their way, and how many events were lost is counted.
func TestFullTraceEvents(t *testing.T) {
	eachFamilyOn(t, cramped, func(t *testing.T, b *bed, n network) {
		tracer := b.traceAll()
		b.fillRing(b.TraceEvents, func(uint32) { b.exec(egress(b.replication, n.out(b.replication, udp{}))) })
		lost := tracer.lost()
		if lost == 0 {
			t.Error("no event was lost")
		}
		b.wantAsEver(n)
		if now, want := tracer.lost(), lost+uint64(len(starters)+len(repliers)); now != want {
			t.Errorf("%d events were lost, want %d", now, want)
		}
	})
}

// TestFullPairs: there are as many other pairs as can be. Packets are moved all the same, and that they
// are missing is counted.
func TestFullPairs(t *testing.T) {
	b := newBed(t, normal)
	cpus := ebpf.MustPossibleCPU()
	other := func(number uint32) bpf.DatapathPair {
		return bpf.DatapathPair{From: uint16(number), To: 4000, Family: 4}
	}
	fillMap(b, b.Pairs, make([]bpf.DatapathPairCount, cpus), other)
	for _, n := range networks {
		for _, m := range repliers {
			b.put(flowOf(m.message, b.flow(n, m.message, b.replication, 0)))
			frame := n.out(b.production, m.message)
			want := b.moves(n, m.message, b.production, b.replication, frame)
			maps.DeleteFunc(want.pairs, func(bpf.DatapathPair, count) bool { return true })
			b.must(b.ForgetHandover()) // it would be counted as lost
			want.events = once(eventInsertFailedCounter)
			b.run(egress(b.production, frame), want)
		}
	}
}

var fullFamily = map[string]story{
	"packets of which more fragments are to come fill the map": func(t *testing.T, b *bed, n network) {
		b.put(connectionlessFlow(b.flow(n, udp{}, b.replication, 0)))
		b.fillHash(b.Fragments, bpf.DatapathFragment{Seen: b.ago(0)})
		frames := n.inPieces(b.production, 1)
		b.run(egress(b.production, frames.later), unread(notFirst))
		b.run(egress(b.production, frames.first), b.moves(n, udp{}, b.production, b.replication, frames.first))
		want := b.moves(n, udp{}, b.production, b.replication, frames.later).again()
		b.run(egress(b.production, frames.later), want)
	},
	// What needs no mark is as ever.
	"of a tuple that is marked, another one takes the place": func(t *testing.T, b *bed, n network) {
		b.fillMarks(bpf.DatapathMarkKindMARK_NO_FLOW)
		for _, m := range starters {
			b.arrives(n, m.message, b.starts(n, m.message, b.replication))
		}
		b.put() // which forgets all marks
		oldest := b.fillMarks(bpf.DatapathMarkKindMARK_NO_FLOW)
		want := b.meetsStranger(n, b.replication).and(func(t tables) {
			delete(t.Marks, oldest(b.Seeds.Digest(n.tuple(tcp{}))))
		})
		segment := ingress(b.replication, n.in(b.replication, tcp{flags: "A"}))
		b.run(segment, want)
		b.run(segment, nothing)
		b.leaves(n, udp{}, b.notes(n, udp{}))
	},
	"what is none of ours takes the place of something else": func(t *testing.T, b *bed, n network) {
		oldest := b.fillMarks(bpf.DatapathMarkKindMARK_NO_FLOW, bpf.DatapathMarkKindMARK_FOREIGN)
		b.wantAsEver(n)
		b.leaves(n, udp{}, b.notes(n, udp{}))
		forwarded := ingress(b.replication, n.at(n.stranger).in(b.replication, udp{}))
		b.run(forwarded, unread(eventIgnoredNotOwn))
		b.run(forwarded, nothing)
		own := n.at(n.stranger)
		b.leaves(own, udp{}, effect{tables: func(t tables) {
			digest := b.Seeds.Digest(own.tuple(udp{}))
			t.Marks[digest] = true
			delete(t.Marks, oldest(digest))
		}})
	},
	"a gateway that finds no room is none, the last one serves": func(t *testing.T, b *bed, n network) {
		b.setGateways(b.replication, n, auto, 2)
		last := uint32(b.Gateways.MaxEntries() - 1)
		known := net.HardwareAddr{2, 0, 0, 0, 2, 2}
		b.addGateway(b.replication, n, last, known)
		t.Cleanup(func() {
			fillArray(b, b.Gateways, func(uint32) (none bpf.DatapathGateway) { return none })
		})
		fillArray(b, b.Gateways, func(uint32) bpf.DatapathGateway {
			return bpf.DatapathGateway{Address: n.stranger.As16(), Ifindex: b.replication.Index, Mac: [6]uint8(known), Usable: 1}
		})
		fillMap(b, b.GatewayMacs, last, func(number uint32) bpf.DatapathGatewayMac {
			mac := [6]uint8{2, 1}
			binary.BigEndian.PutUint32(mac[2:], number)
			return bpf.DatapathGatewayMac{Ifindex: b.replication.Index, Mac: mac, Family: n.family}
		})
		for _, test := range []struct {
			mac     net.HardwareAddr
			gateway uint16
			flags   uint16
		}{{neighbour, 0, 0}, {known, uint16(last), flagGateway | flagEnforceMAC}} {
			b.put()
			via := b.replication
			via.router = test.mac
			b.beginsBy(n, via, test.gateway, test.flags)
			b.exec(egress(b.production, n.out(b.production, udp{})))
			known, _ := b.snapshot()
			flow := known.Connectionless[n.tuple(udp{})]
			frame := n.out(b.production, udp{})
			want := b.moves(n, udp{}, b.production, via, frame)
			want.pairs[pair(b.production, via, n, udp{}, outcomeAsymmetric)] =
				count{Packets: 1, Bytes: uint64(len(frame))}
			want.tables = connectionlessFlow(flow)
			b.run(egress(b.production, frame), want)
		}
	},
	"a route that finds no room names nobody's gateway": func(t *testing.T, b *bed, n network) {
		via := b.replication
		via.router = neighbour
		gateway := uint32(via.gateway(n.family))
		b.routes(via, n, map[netip.Prefix]uint32{prefix(n.peer): gateway})
		fillMap(b, b.GatewayRoutes, gateway, func(number uint32) bpf.DatapathRouteKey {
			return rig.RouteKey(via.Index, prefix(n.numbered(number)))
		})
		late := newcomer(n)
		if err := b.SetRoute(via.Index, prefix(late.peer), gateway); !errors.Is(err, unix.ENOSPC) {
			t.Errorf("one more: %v", err)
		}
		b.run(ingress(via, n.in(via, udp{})), b.admits(n, udp{}, via))
		b.beginsBy(late, via, 0, flagEnforceMAC)
	},
	"a network that finds no room is behind the gateway": func(t *testing.T, b *bed, n network) {
		b.must(b.SetOnLink(b.replication.Index, prefix(n.stranger)))
		fillMap(b, b.OnLink, uint32(1), func(number uint32) bpf.DatapathOnLinkKey {
			address := n.numbered(number).As16()
			return bpf.DatapathOnLinkKey{PrefixLength: 32 + 128, Ifindex: b.replication.Index, Address: address}
		})
		if err := b.SetOnLink(b.replication.Index, prefix(n.peer)); !errors.Is(err, unix.ENOSPC) {
			t.Errorf("one more: %v", err)
		}
		b.wantAsEver(n)
		neighbour := newcomer(n)
		b.beginsBy(neighbour, b.replication, 0, 0)
	},
	"an address that finds no room is not the host's": func(t *testing.T, b *bed, n network) {
		fillMap(b, b.OwnAddresses, uint32(ownAddress), func(number uint32) bpf.DatapathAddress {
			return bpf.DatapathAddress{Bytes: n.numbered(number).As16()}
		})
		b.wantAsEver(n)
		if err := b.SetOwnAddress(n.stranger, ownAddress); !errors.Is(err, unix.E2BIG) {
			t.Errorf("one more: %v", err)
		}
		b.run(ingress(b.replication, n.at(n.stranger).in(b.replication, udp{})), unread(eventIgnoredNotOwn))
		b.refuses(n.at(n.stranger), udp{})
	},
	// None is about the packet. Nor is one of a set that is not in force, or that does not exist.
	"more rules of exclusion are said to be there than can be": func(t *testing.T, b *bed, n network) {
		set := bpf.DatapathExclusionSet{Count: 1000}
		for i := range set.Rule {
			set.Rule[i].Protocol = 200
		}
		b.must(b.Exclusions.Put(uint32(0), set))
		b.wantAsEver(n)
		b.exclude(bpf.DatapathExclusion{})
		for _, other := range []uint32{1, 1000} {
			b.configure(func(s *bpf.DatapathSettings) { s.Exclusions = other })
			b.wantAsEver(n)
		}
	},
}

func TestFullFamily(t *testing.T) { tell(t, eachFamily, fullFamily) }
