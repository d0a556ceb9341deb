// SPDX-License-Identifier: Apache-2.0

package product

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/loader/datapath"
	"replypath/test/await"
	"replypath/test/topology"
)

// Age makes everything that is recorded of flows older, as if nothing had come in or gone out for so long: tests cannot
// wait for hours. Nothing may be under way meanwhile. It reads the whole tables, so that SmallTables is a good idea.
func (p *Product) Age(by time.Duration) {
	p.t.Helper()
	maps := await.Must1[*bpf.Maps](p.t)(datapath.OpenMaps(p.PinDir))
	defer maps.Close()
	hertz := await.Must1[uint32](p.t)(datapath.Hertz())
	ticks := uint32(by.Seconds() * float64(hertz) / float64(bpf.DatapathTickJIFFIES_PER_TICK))
	for _, table := range bpf.FlowTables(&maps.DatapathMaps) {
		aged := make(map[uint64]bpf.DatapathFlow)
		await.Must(p.t, table.Each(func(digest uint64, flow *bpf.DatapathFlow) bool {
			flow.Seen, flow.Created = flow.Seen-ticks, flow.Created-ticks
			if flow.Tuple.Protocol != unix.IPPROTO_TCP { // what has no connection keeps times there
				flow.SndUna, flow.RcvNxt = flow.SndUna-ticks, flow.RcvNxt-ticks
			}
			flow.Sent -= uint16(ticks)
			aged[digest] = *flow
			return true
		}))
		for digest, flow := range aged {
			await.Must(p.t, table.Put(digest, &flow))
		}
	}
	notes, known := bpf.Notes{Table: bpf.TableOf(&maps.DatapathMaps)}, []bpf.DatapathNote(nil)
	await.Must(p.t, notes.Each(func(note *bpf.DatapathNote) { known = append(known, *note) }))
	for _, note := range known {
		note.Sent -= ticks
		if note.Heard != 0 {
			note.Heard -= ticks
		}
		await.Must(p.t, notes.Put(&note))
	}
	records, of := bpf.Records{Table: bpf.TableOf(&maps.DatapathMaps)}, make(map[uint64]bpf.DatapathRecord)
	await.Must(p.t, records.Each(func(digest uint64, record *bpf.DatapathRecord) bool {
		record.Seen, record.Heard, record.Created = record.Seen-ticks, record.Heard-ticks, record.Created-ticks
		of[digest] = *record
		return true
	}))
	for digest, record := range of {
		await.Must(p.t, records.Put(digest, &record))
	}
	for sender, l := range entries[bpf.DatapathSender, bpf.DatapathLearnt](p.t, maps.Ways) {
		l.Since, l.Heard, l.Tried = l.Since-ticks, l.Heard-ticks, l.Tried-ticks
		await.Must(p.t, maps.Ways.Put(sender, l))
	}
}

// entries are those of a map.
func entries[K comparable, V any](t testing.TB, m *ebpf.Map) map[K]V {
	t.Helper()
	var (
		read  = make(map[K]V)
		key   K
		value V
	)
	all := m.Iterate()
	for all.Next(&key, &value) {
		read[key] = value
	}
	await.Must(t, all.Err())
	return read
}

// ForgetBeginnings empties what is known of tuples that are no flows: those in which the host spoke first, and those
// that were asked about in vain. So do many others, and time.
func (p *Product) ForgetBeginnings() {
	p.t.Helper()
	maps := await.Must1[*bpf.Maps](p.t)(datapath.OpenMaps(p.PinDir))
	defer maps.Close()
	rewrite(p.t, maps.Buckets, func(bucket *bpf.DatapathBucket) (changed bool) {
		for i, place := range bucket.Place {
			kind := bpf.DatapathKind(place >> bpf.DatapathPlacePLACE_KIND_SHIFT & 15)
			if kind == bpf.DatapathKindKIND_MARK || kind == bpf.DatapathKindKIND_NOTE {
				bucket.Place[i] &= uint64(bpf.DatapathPlacePLACE_SPILLED)
				changed = true
			}
		}
		return changed
	})
}

// Event returns how often something was counted, of what no metric shows.
func (p *Product) Event(event bpf.DatapathEvent) (sum uint64) {
	p.t.Helper()
	maps := await.Must1[*bpf.Maps](p.t)(datapath.OpenMaps(p.PinDir))
	defer maps.Close()
	var cpus []uint64
	await.Must(p.t, maps.Events.Lookup(uint32(event), &cpus))
	for _, count := range cpus {
		sum += count
	}
	return sum
}

// SmallTables is a configuration with which Age takes no time.
const SmallTables = "flow_table: {max_entries: 1024}\n"

// rewrite puts back the sets of a table that the change says are not empty.
func rewrite[Set any](t testing.TB, table *ebpf.Map, change func(*Set) bool) {
	t.Helper()
	for index := range table.MaxEntries() {
		var set Set
		await.Must(t, table.Lookup(index, &set))
		if change(&set) {
			await.Must(t, table.Put(index, &set))
		}
	}
}

// WaitGrace returns when the time after the first start is over in which nothing can be known of who spoke first.
func (p *Product) WaitGrace() {
	p.t.Helper()
	maps := await.Must1[*bpf.Maps](p.t)(datapath.OpenMaps(p.PinDir))
	defer maps.Close()
	var until uint32
	await.Must(p.t, maps.Grace.Get(&until))
	await.Eventually(p.t, "the time of grace is over", func() error {
		clock := await.Must1[datapath.Clock](p.t)(datapath.ReadClock(p.PinDir))
		if left := int32(until - clock.Now()); left >= 0 {
			return fmt.Errorf("%d ticks left", left)
		}
		return nil
	})
}

// AwaitOwn returns how long after a moment the programs know that an address is the host's, or that it is not any more.
func (p *Product) AwaitOwn(address netip.Addr, own bool, since time.Time) time.Duration {
	p.t.Helper()
	maps := await.Must1[*bpf.Maps](p.t)(datapath.OpenMaps(p.PinDir))
	defer maps.Close()
	await.Eventually(p.t, fmt.Sprintf("%s is the host's: %t", address, own), func() error {
		var flags uint32
		err := maps.OwnAddresses.Lookup(address.As16(), &flags)
		if (err == nil) != own {
			return fmt.Errorf("flags %d, error %v", flags, err)
		}
		return nil
	})
	return time.Since(since)
}

// AwaitAddress returns when an interface has an address, or has it no more.
func AwaitAddress(t testing.TB, i *topology.Interface, address netip.Addr, there bool) time.Time {
	t.Helper()
	await.Eventually(t, fmt.Sprintf("%s has %s: %t", i.Name, address, there), func() error {
		link := await.Must1[netlink.Link](t)(i.Link())
		list := await.Must1[[]netlink.Addr](t)(i.Host.Netlink().AddrList(link, netlink.FAMILY_ALL))
		has := slices.ContainsFunc(list, func(a netlink.Addr) bool { return a.IP.Equal(address.AsSlice()) })
		if has != there {
			return fmt.Errorf("it has %v", list)
		}
		return nil
	})
	return time.Now()
}
