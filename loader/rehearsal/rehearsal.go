// SPDX-License-Identifier: Apache-2.0

// Package rehearsal runs the programs on packets that nobody sends (BPF_PROG_TEST_RUN). What the programs only read is what is
// pinned. What they write is the rehearsal's own: nothing changes on the host, and no counter moves.
package rehearsal

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
	"replypath/loader/datapath"
)

// Rehearsal is one of what is pinned in a directory.
type Rehearsal struct {
	Seeds     bpf.Seeds // of the pinned tables
	dir       string
	pinned    *bpf.Maps
	spec      *ebpf.CollectionSpec
	maps      map[string]*ebpf.Map
	told      map[string]*ebpf.Variable // what user space tells the programs
	programs  map[string]*ebpf.Program
	events    *ringbuf.Reader
	different uint32 // each look has a generation of its own: what earlier ones marked is void
}

// New returns one of what is pinned in the directory, whose tables are read by these seeds. Nothing is made or loaded before it
// is needed.
func New(dir string, pinned *bpf.Maps, seeds bpf.Seeds) *Rehearsal {
	return &Rehearsal{dir: dir, pinned: pinned, Seeds: seeds, programs: make(map[string]*ebpf.Program)}
}

// onlyRead returns the maps that the programs only read.
func onlyRead(m *bpf.Maps) map[string]*ebpf.Map {
	return map[string]*ebpf.Map{
		bpf.DatapathMapInterfaces: m.Interfaces, bpf.DatapathMapDevices: m.Devices, bpf.DatapathMapGateways: m.Gateways,
		bpf.DatapathMapOwnAddresses: m.OwnAddresses, bpf.DatapathMapPrefixes: m.Prefixes,
	}
}

// entries is for how many flows, pairs of addresses, and tuples in which the host spoke first, there is room.
const entries = 1024

// open makes the maps.
func (r *Rehearsal) open() (err error) {
	if r.events != nil {
		return nil
	}
	if err := rlimit.RemoveMemlock(); err != nil {
		return fmt.Errorf("raise the limit of locked memory: %w", err)
	}
	if r.spec, err = r.newSpec(); err != nil {
		return err
	}
	spec := *r.spec
	spec.Programs = nil
	err = datapath.WhileGCPaused(func() error {
		made, err := ebpf.NewCollectionWithOptions(&spec, ebpf.CollectionOptions{MapReplacements: onlyRead(r.pinned)})
		if err == nil {
			r.maps, r.told = made.Maps, made.Variables
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("make maps: %w", err)
	}
	r.events, err = ringbuf.NewReader(r.maps[bpf.DatapathMapTraceEvents])
	return err
}

// newSpec returns the programs, with small tables.
func (r *Rehearsal) newSpec() (*ebpf.CollectionSpec, error) {
	features, err := bpf.ProbeFeatures()
	if err != nil {
		return nil, err
	}
	hertz, err := datapath.Hertz()
	if err != nil {
		return nil, err
	}
	spec, err := bpf.LoadDatapath()
	if err != nil {
		return nil, err
	}
	for _, name := range []string{bpf.DatapathMapWays, bpf.DatapathMapLeads} {
		spec.Maps[name].MaxEntries = entries + bpf.Reserve()
	}
	constants := datapath.Constants{Hertz: hertz, Features: features, Seeds: r.Seeds}
	return spec, errors.Join(constants.Set(spec), bpf.Size(spec, bpf.Buckets(entries)))
}

// program loads a program when it is first needed.
func (r *Rehearsal) program(name string) (*ebpf.Program, error) {
	if r.programs[name] != nil {
		return r.programs[name], nil
	}
	spec := *r.spec
	spec.Programs = map[string]*ebpf.ProgramSpec{name: r.spec.Programs[name]}
	shared := make(map[string]*ebpf.Map)
	for name, m := range r.maps {
		if !bpf.IsInternal(name) {
			shared[name] = m
		}
	}
	err := datapath.InLittleMemory(func() error {
		loaded, err := ebpf.NewCollectionWithOptions(&spec, ebpf.CollectionOptions{MapReplacements: shared})
		if err != nil {
			return fmt.Errorf("load programs: %w", err)
		}
		r.programs[name] = loaded.DetachProgram(name)
		loaded.Close()
		return nil
	})
	return r.programs[name], err
}

// Set has the programs know what the pinned tables have of what this host sends by a tuple: whether the host spoke first, by
// which way its peer comes, and, where that is wanted, its flow, idle or not. Whatever was there before is gone.
func (r *Rehearsal) Set(tuple bpf.DatapathTuple, withFlow bool) error {
	if err := r.open(); err != nil {
		return err
	}
	digest := r.Seeds.Digest(tuple)
	var (
		settings bpf.DatapathSettings
		mode     bpf.DatapathMode
		grace    uint32
	)
	err := errors.Join(
		r.pinned.Configuration.Get(&settings),
		r.pinned.ModeByHand.Get(&mode),
		r.pinned.Grace.Get(&grace),
		r.copyNote(digest))
	digests, recordErr := r.copyRecord(tuple)
	if err = errors.Join(err, recordErr); err != nil {
		return fmt.Errorf("read what is known of a packet: %w", err)
	}
	r.different++
	settings.Generation += r.different
	digests = slices.DeleteFunc(digests, func(d uint64) bool { return d == digest })
	if withFlow {
		digests = append(digests, digest)
	}
	slices.Sort(digests)
	err = errors.Join(
		r.told[bpf.DatapathVarConfiguration].Set(settings),
		r.told[bpf.DatapathVarModeByHand].Set(mode),
		r.told[bpf.DatapathVarGrace].Set(grace),
		r.copyFlows(slices.Compact(digests)))
	if err != nil {
		return fmt.Errorf("write what is known of a packet: %w", err)
	}
	return nil
}

// Teach has the programs know what handshakes taught of a sender, and not try another way again.
func (r *Rehearsal) Teach(sender bpf.DatapathSender) error {
	var learnt bpf.DatapathLearnt
	err := r.pinned.Ways.Lookup(sender, &learnt)
	if err == nil {
		learnt.Settled = 1
		err = r.maps[bpf.DatapathMapWays].Put(sender, learnt)
	}
	if err != nil {
		return fmt.Errorf("copy what was learnt of a sender: %w", err)
	}
	return nil
}

// copyRecord copies what shows by which path the peer of a tuple comes. It returns the digests of the flows that may.
func (r *Rehearsal) copyRecord(tuple bpf.DatapathTuple) (flows []uint64, err error) {
	digest := r.Seeds.Ends(tuple)
	from, to := bpf.Records{Table: bpf.TableOf(&r.pinned.DatapathMaps)}, bpf.Records{Table: bpf.TableOf(datapath.TableMaps(r.maps))}
	record, err := from.Find(digest)
	switch {
	case err != nil:
		return nil, err
	case record == nil:
		err = to.Delete(digest)
	default:
		flows = append(flows, record.Flow)
		err = to.Put(digest, record)
	}
	for _, place := range bpf.Recent(digest) {
		var last uint64
		err = errors.Join(err, r.pinned.Recent.Lookup(place, &last), r.maps[bpf.DatapathMapRecent].Put(place, last))
		flows = append(flows, last)
	}
	if err != nil {
		return nil, err
	}
	// Others may have asked at the port of the last question.
	asked := bpf.FlowTables(&r.pinned.DatapathMaps)[bpf.DatapathTableTABLE_CONNECTIONLESS]
	last, err := asked.Find(flows[len(flows)-1])
	if last != nil {
		tuple.SelfPort = last.Tuple.SelfPort
		flows = append(flows, r.Seeds.Digest(tuple))
	}
	return flows, err
}

// copyNote copies whether the host spoke first.
func (r *Rehearsal) copyNote(digest uint64) error {
	from, to := bpf.Notes{Table: bpf.TableOf(&r.pinned.DatapathMaps)}, bpf.Notes{Table: bpf.TableOf(datapath.TableMaps(r.maps))}
	note, err := from.Find(digest)
	switch {
	case err != nil:
		return err
	case note == nil:
		return to.Delete(digest)
	}
	return to.Put(note)
}

// copyFlows has the tables hold the flows with these digests, and no others; of 0 there is none.
func (r *Rehearsal) copyFlows(digests []uint64) error {
	own := bpf.FlowTables(datapath.TableMaps(r.maps))
	for _, table := range bpf.FlowTables(&r.pinned.DatapathMaps) {
		to := &own[table.ID]
		if err := to.Clear(); err != nil {
			return err
		}
		for _, digest := range digests {
			flow, err := table.Find(digest)
			if err == nil && flow != nil && digest != 0 {
				err = to.Put(digest, flow)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// In has a frame come in by a device, and returns what the programs tell of it.
func (r *Rehearsal) In(frame []byte, device int) (*bpf.DatapathTraceEvent, error) {
	return r.run(bpf.DatapathProgReplypathIngress, frame, device)
}

// Out has a frame leave by a device.
func (r *Rehearsal) Out(frame []byte, device int) (*bpf.DatapathTraceEvent, error) {
	return r.run(bpf.DatapathProgReplypathEgress, frame, device)
}

// run runs a program on a frame with an Ethernet header. The test run wants one on any device.
func (r *Rehearsal) run(name string, frame []byte, device int) (*bpf.DatapathTraceEvent, error) {
	program, err := r.program(name)
	if err != nil {
		return nil, err
	}
	clock, err := datapath.ReadClock(r.dir)
	if err != nil {
		return nil, err
	}
	err = r.told[bpf.DatapathVarTraceFilter].Set(bpf.DatapathTraceRequest{Until: clock.After(time.Minute)})
	if err != nil {
		return nil, fmt.Errorf("write what is traced: %w", err)
	}
	context := [11]uint32{10: uint32(device)} // the begin of struct __sk_buff, up to its ifindex
	if _, err := program.Run(&ebpf.RunOptions{Data: frame, Context: context}); err != nil {
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
	digest, own := r.Seeds.Digest(tuple), bpf.FlowTables(datapath.TableMaps(r.maps))
	for _, table := range []bpf.DatapathTable{bpf.DatapathTableTABLE_HALF_OPEN, bpf.DatapathTableTABLE_CONNECTIONLESS} {
		flow, err := own[table].Find(digest)
		if err != nil {
			return nil, fmt.Errorf("read what the programs recorded: %w", err)
		}
		if flow != nil {
			return flow, nil
		}
	}
	return nil, errors.New("what the programs recorded is in no table")
}

// Close forgets the maps and programs.
func (r *Rehearsal) Close() error {
	var errs []error
	if r.events != nil {
		errs = append(errs, r.events.Close())
	}
	for _, program := range r.programs {
		errs = append(errs, program.Close())
	}
	for _, m := range r.maps {
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
