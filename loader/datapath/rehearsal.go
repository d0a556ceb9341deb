// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
	"github.com/cilium/ebpf/rlimit"

	"replypath/bpf"
)

// Rehearsal runs the programs on packets that nobody sends (BPF_PROG_TEST_RUN). What the programs only read is what is
// pinned. What they write is the rehearsal's own: nothing changes on the host, and no counter moves.
type Rehearsal struct {
	dir       string
	pinned    *bpf.DatapathMaps
	maps      bpf.DatapathMaps
	spec      *ebpf.CollectionSpec
	Seeds     bpf.Seeds     // those of the pinned tables
	in, out   *ebpf.Program // nil until they are needed
	events    *ringbuf.Reader
	different uint32 // each look has a generation of its own: what earlier ones marked is void
}

// onlyRead are the maps that the programs only read.
var onlyRead = []string{
	bpf.DatapathMapInterfaces, bpf.DatapathMapManaged, bpf.DatapathMapDevices, bpf.DatapathMapGateways, bpf.DatapathMapGatewayMacs,
	bpf.DatapathMapGatewayRoutes, bpf.DatapathMapHeldGateways, bpf.DatapathMapSourceGateways, bpf.DatapathMapOnLink,
	bpf.DatapathMapOwnAddresses, bpf.DatapathMapServedAddresses, bpf.DatapathMapExclusions, bpf.DatapathMapModeByHand, bpf.DatapathMapGrace,
}

// rehearsed is for how many pairs of addresses, and tuples in which the host spoke first, there is room.
const rehearsed = 1024

// OpenRehearsal makes one of what is pinned in the directory, whose tables are read by these seeds.
func OpenRehearsal(dir string, pinned *bpf.DatapathMaps, seeds bpf.Seeds) (*Rehearsal, error) {
	r := &Rehearsal{dir: dir, pinned: pinned, Seeds: seeds}
	if err := inLittleMemory(r.open); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

func (r *Rehearsal) open() error {
	if err := rlimit.RemoveMemlock(); err != nil {
		return fmt.Errorf("raise the limit of locked memory: %w", err)
	}
	features, err := bpf.ProbeFeatures()
	if err != nil {
		return err
	}
	if r.spec, err = (&Options{Features: features, Seeds: r.Seeds}).spec(); err != nil {
		return err
	}
	one := [bpf.DatapathTableTABLE_END]uint32{1, 1, 1}
	if err := r.spec.Variables[bpf.DatapathVarSets].Set(one); err != nil {
		return err
	}
	for _, name := range []string{bpf.DatapathMapOriginated, bpf.DatapathMapQuestions, bpf.DatapathMapOutbound} {
		r.spec.Maps[name].MaxEntries = rehearsed
	}
	shared, pinned := make(map[string]*ebpf.Map), byTag[*ebpf.Map](r.pinned)
	for _, name := range onlyRead {
		shared[name] = pinned[name]
	}
	err = whileGCPaused(func() error {
		return r.spec.LoadAndAssign(&r.maps, &ebpf.CollectionOptions{MapReplacements: shared})
	})
	if err != nil {
		return fmt.Errorf("make maps: %w", blameKernel(err))
	}
	r.events, err = ringbuf.NewReader(r.maps.TraceEvents)
	return err
}

// load loads a program when it is first needed.
func (r *Rehearsal) load(into **ebpf.Program, name string) error {
	if *into != nil {
		return nil
	}
	spec := *r.spec
	spec.Programs = map[string]*ebpf.ProgramSpec{name: r.spec.Programs[name]}
	return inLittleMemory(func() error {
		loaded, err := ebpf.NewCollectionWithOptions(&spec, ebpf.CollectionOptions{MapReplacements: byTag[*ebpf.Map](&r.maps)})
		if err != nil {
			return fmt.Errorf("load programs: %w", blameKernel(err))
		}
		*into = loaded.DetachProgram(name)
		loaded.Close()
		return nil
	})
}

// Set has the programs know what the pinned tables have of what this host sends by a tuple: whether the host spoke first, by
// which way its peer comes, and, where that is wanted, its flow, idle or not. Whatever was there before is gone.
func (r *Rehearsal) Set(tuple bpf.DatapathTuple, withFlow bool) error {
	digest, ends := r.Seeds.Digest(tuple), bpf.DatapathEnds{Peer: tuple.Peer, Self: tuple.Self}
	var (
		settings bpf.DatapathSettings
		record   bpf.DatapathRecord
		asked    uint64
		note     bpf.DatapathNote
	)
	if err := errors.Join(
		r.pinned.Configuration.Lookup(uint32(0), &settings),
		copyEntry(r.maps.Originated, r.pinned.Originated, ends, &record),
		copyEntry(r.maps.Questions, r.pinned.Questions, ends, &asked),
		copyEntry(r.maps.Outbound, r.pinned.Outbound, digest, &note)); err != nil {
		return fmt.Errorf("read what is known of a packet: %w", err)
	}
	r.different++
	settings.Generation += r.different
	digests := []uint64{record.Flow, asked}
	if withFlow {
		digests = append(digests, digest)
	}
	slices.Sort(digests)
	err := errors.Join(r.maps.Configuration.Put(uint32(0), settings), r.copyFlows(slices.Compact(digests)))
	if err != nil {
		return fmt.Errorf("write what is known of a packet: %w", err)
	}
	return nil
}

// copyEntry copies what a map has by a key; where it has nothing, the other has not, either.
func copyEntry(to, from *ebpf.Map, key, value any) error {
	err := from.Lookup(key, value)
	if err == nil {
		return to.Put(key, value)
	}
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		err = to.Delete(key)
	}
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil
	}
	return err
}

// copyFlows copies the flows with these digests; of 0 there is none.
func (r *Rehearsal) copyFlows(digests []uint64) error {
	from, to := byTag[*ebpf.Map](r.pinned), byTag[*ebpf.Map](&r.maps)
	for _, table := range tableNames {
		var set bpf.DatapathFlowSet
		for way, digest := range digests {
			flow, err := FindFlow(from[table], digest)
			if err != nil {
				return err
			}
			if flow != nil && digest != 0 {
				set.Digest[way], set.Flow[way] = digest, *flow
			}
		}
		if err := errors.Join(to[table].Put(uint32(0), set), to[bpf.TagsMap(table)].Put(uint32(0), bpf.Tags(set.Digest))); err != nil {
			return err
		}
	}
	return nil
}

// In has a frame come in by a device, and returns what the programs tell of it.
func (r *Rehearsal) In(frame []byte, device int) (*bpf.DatapathTraceEvent, error) {
	return r.run(&r.in, bpf.DatapathProgReplypathIngress, frame, device)
}

// Out has a frame leave by a device.
func (r *Rehearsal) Out(frame []byte, device int) (*bpf.DatapathTraceEvent, error) {
	return r.run(&r.out, bpf.DatapathProgReplypathEgress, frame, device)
}

// run runs a program on a frame with an Ethernet header. The test run wants one on any device.
func (r *Rehearsal) run(program **ebpf.Program, name string, frame []byte, device int) (*bpf.DatapathTraceEvent, error) {
	if err := r.load(program, name); err != nil {
		return nil, err
	}
	clock, err := ReadClock(r.dir)
	if err != nil {
		return nil, err
	}
	if err := r.maps.TraceFilter.Put(uint32(0), bpf.DatapathTraceRequest{Until: clock.After(time.Minute)}); err != nil {
		return nil, fmt.Errorf("write what is traced: %w", err)
	}
	context := [11]uint32{10: uint32(device)} // the begin of struct __sk_buff, up to its ifindex
	if _, err := (*program).Run(&ebpf.RunOptions{Data: frame, Context: context}); err != nil {
		return nil, fmt.Errorf("run %s: %w", name, err)
	}
	event, err := ReadTraced(r.events, time.Now().Add(time.Second))
	if err == nil && event == nil {
		err = fmt.Errorf("%s told nothing", name)
	}
	return event, err
}

// Recorded returns the flow that a question by a tuple has begun.
func (r *Rehearsal) Recorded(tuple bpf.DatapathTuple) (*bpf.DatapathFlow, error) {
	for _, table := range []*ebpf.Map{r.maps.HalfOpen, r.maps.Connectionless} {
		if flow, err := FindFlow(table, r.Seeds.Digest(tuple)); flow != nil || err != nil {
			return flow, err
		}
	}
	return nil, errors.New("what the programs recorded is in no table")
}

// Close forgets the maps and programs.
func (r *Rehearsal) Close() error {
	errs := []error{r.in.Close(), r.out.Close()}
	if r.events != nil {
		errs = append(errs, r.events.Close())
	}
	for _, m := range byTag[*ebpf.Map](&r.maps) {
		errs = append(errs, bpf.Close(m))
	}
	return errors.Join(errs...)
}

// ReadTraced returns the next packet that the programs told of, nil if there is none until the deadline.
func ReadTraced(events *ringbuf.Reader, deadline time.Time) (*bpf.DatapathTraceEvent, error) {
	events.SetDeadline(deadline)
	record, err := events.Read()
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read a traced packet: %w", err)
	}
	event := new(bpf.DatapathTraceEvent)
	if _, err := binary.Decode(record.RawSample, binary.NativeEndian, event); err != nil {
		return nil, fmt.Errorf("decode a traced packet: %w", err)
	}
	return event, nil
}
