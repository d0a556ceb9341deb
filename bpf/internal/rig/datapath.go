// SPDX-License-Identifier: Apache-2.0

package rig

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"replypath/bpf"
)

// Datapath is the loaded datapath with maps of its own.
type Datapath struct {
	bpf.DatapathObjects
	Seeds bpf.Seeds
	// Features are what the programs make use of.
	Features bpf.Features
	// Probes are the programs inside a wrapper, by name: see Probe. Nil unless
	// asked for.
	Probes map[string]*ebpf.Program

	hertz     uint32
	meanwhile *ebpf.Map // nil unless asked for
	blockRuns *ebpf.Map // the same
	blocks    []block   // whose runs it counts
	marks     *ebpf.Memory
	fragments *ebpf.Memory
	foreign   *ebpf.Memory
	records   *ebpf.Memory   // of `originated`
	undo      []func() error // what Clear takes out of arrays
}

// Options say how the datapath is loaded.
type Options struct {
	// OldKernel makes the programs do without what 5.10 lacks.
	OldKernel bool
	// Probes loads the wrapped programs as well.
	Probes bool
	// Sets is how many sets each flow table has; 0 stands for 1, which makes
	// the content of a table independent of the seeds.
	Sets uint32
	// Seeds are the digests'; nil stands for random ones.
	Seeds *bpf.Seeds
	// Namespace is the cookie of the network namespace whose sockets get a source; 0: of none.
	Namespace uint64
	// Meanwhile names the flow table that another CPU writes while the ingress program runs: see
	// the function of that name.
	Meanwhile string
	// NoNursery has connections begin in the tables.
	NoNursery bool
	// Requests has every SYN-ACK be of a request for a connection: see requests.go.
	Requests bool
	// CountCost has the programs count what they do: see Cost.
	CountCost bool
	// SlowWay has the ingress program take its time over the way of a flow: see slow.go.
	SlowWay bool
	// Mapped makes the flow tables readable and writable without system calls, and what is
	// known of who asked, which gets as many sets.
	Mapped bool
	// Change alters the maps before they are made.
	Change func(maps map[string]*ebpf.MapSpec)
}

// Load loads the programs and empty maps.
func Load(opts Options) (*Datapath, error) {
	spec, err := bpf.LoadDatapath()
	if err != nil {
		return nil, err
	}
	hertz, err := kernelHertz()
	if err != nil {
		return nil, err
	}
	if err := spec.Variables[bpf.DatapathVarHertz].Set(hertz); err != nil {
		return nil, fmt.Errorf("set hertz: %w", err)
	}
	present, err := opts.features()
	if err != nil {
		return nil, err
	}
	if err := bpf.SetFeatures(spec, present); err != nil {
		return nil, fmt.Errorf("set features: %w", err)
	}
	seeds, err := opts.seeds()
	if err != nil {
		return nil, err
	}
	if err := spec.Variables[bpf.DatapathVarDigestSeed].Set(seeds); err != nil {
		return nil, fmt.Errorf("set digest_seed: %w", err)
	}
	if err := spec.Variables[bpf.DatapathVarOwnNamespace].Set(opts.Namespace); err != nil {
		return nil, fmt.Errorf("set own_namespace: %w", err)
	}
	if err := setSizes(spec, max(opts.Sets, 1), opts.NoNursery); err != nil {
		return nil, err
	}
	if err := opts.mapTables(spec); err != nil {
		return nil, err
	}
	if opts.Change != nil {
		opts.Change(spec.Maps)
	}
	if opts.Requests {
		if err := addRequests(spec); err != nil {
			return nil, err
		}
	}
	if opts.SlowWay {
		if err := addPause(spec); err != nil {
			return nil, err
		}
	}
	if opts.Meanwhile != "" {
		if err := addMeanwhile(spec, opts.Meanwhile); err != nil {
			return nil, err
		}
	}
	d := &Datapath{Seeds: seeds, Features: present, hertz: hertz}
	if opts.CountCost {
		if d.blocks, err = addCosts(spec); err != nil {
			return nil, err
		}
	}
	return d, d.load(spec, opts.Probes)
}

// features are the kernel's, without those that an old one has not.
func (o Options) features() (bpf.Features, error) {
	present, err := bpf.ProbeFeatures()
	if err != nil || !o.OldKernel {
		return present, err
	}
	present.CheckMTU, present.ProbeRead, present.KernelSKB = false, false, false
	present.DeliveryTime, present.TailCalls = false, false
	return present, nil
}

// mapTables has tables readable and writable without system calls, those of the flows where that is wanted.
func (o Options) mapTables(spec *ebpf.CollectionSpec) error {
	for _, name := range []string{bpf.DatapathMapMarks, bpf.DatapathMapFragments, bpf.DatapathMapForeign, bpf.DatapathMapOriginated} {
		spec.Maps[name].Flags |= unix.BPF_F_MMAPABLE
	}
	if !o.Mapped {
		return nil
	}
	for _, name := range flowTables {
		spec.Maps[name].Flags |= unix.BPF_F_MMAPABLE
		if tags := spec.Maps[bpf.TagsMap(name)]; tags != nil {
			tags.Flags |= unix.BPF_F_MMAPABLE
		}
	}
	return mapAsked(spec, max(o.Sets, 1))
}

func (o Options) seeds() (bpf.Seeds, error) {
	if o.Seeds != nil {
		return *o.Seeds, nil
	}
	return bpf.NewSeeds()
}

// flowTables are the maps whose elements are sets, in the order of enum table.
var flowTables = []string{
	bpf.DatapathMapHalfOpen,
	bpf.DatapathMapEstablished,
	bpf.DatapathMapConnectionless,
	bpf.DatapathMapNursery,
	bpf.DatapathMapOutbound,
}

// setSizes gives every flow table that many sets.
func setSizes(spec *ebpf.CollectionSpec, count uint32, noNursery bool) error {
	for _, name := range flowTables {
		spec.Maps[name].MaxEntries = count
		if tags := spec.Maps[bpf.TagsMap(name)]; tags != nil { // `outbound` has none
			tags.MaxEntries = count
		}
	}
	counts := [bpf.DatapathTableTABLE_END]uint32{count, count, count, count, count}
	if noNursery {
		counts[bpf.DatapathTableTABLE_NURSERY] = 0
	}
	if err := spec.Variables[bpf.DatapathVarSets].Set(counts); err != nil {
		return fmt.Errorf("set sizes of the flow tables: %w", err)
	}
	return nil
}

// mapAsked gives what is known of who asked that many sets, to be mapped into memory.
func mapAsked(spec *ebpf.CollectionSpec, count uint32) error {
	asked := spec.Maps[bpf.DatapathMapAsked]
	asked.MaxEntries = count
	asked.Flags |= unix.BPF_F_MMAPABLE
	if err := spec.Variables[bpf.DatapathVarAskedSets].Set(count); err != nil {
		return fmt.Errorf("set the size of %s: %w", asked.Name, err)
	}
	return nil
}

func (d *Datapath) load(spec *ebpf.CollectionSpec, probes bool) error {
	if probes {
		addProbes(spec.Programs)
	}
	collection, err := ebpf.NewCollection(spec)
	if err != nil {
		return fmt.Errorf("load datapath: %w", err)
	}
	defer collection.Close()
	if err := collection.Assign(&d.DatapathObjects); err != nil {
		return fmt.Errorf("assign datapath: %w", err)
	}
	d.meanwhile, d.blockRuns = collection.DetachMap(meanwhileMap), collection.DetachMap(blocksMap)
	if err := d.Sender.Put(uint32(0), d.ReplypathSend); err != nil {
		return fmt.Errorf("enter the program that sends: %w", err)
	}
	if err := d.Nobody.Put(uint32(0), d.ReplypathFallback); err != nil {
		return fmt.Errorf("enter the program that ends what is for nobody: %w", err)
	}
	for m, to := range map[*ebpf.Map]**ebpf.Memory{
		d.DatapathMaps.Marks: &d.marks, d.DatapathMaps.Foreign: &d.foreign,
		d.DatapathMaps.Fragments: &d.fragments, d.Originated: &d.records,
	} {
		if *to, err = m.Memory(); err != nil {
			return fmt.Errorf("map %s: %w", m, err)
		}
	}
	if !probes {
		return nil
	}
	d.Probes = make(map[string]*ebpf.Program)
	for _, name := range probedPrograms {
		d.Probes[name] = collection.DetachProgram(probeName(name))
	}
	return nil
}

// kernelHertz is CONFIG_HZ: the coarse clock moves once a jiffy.
func kernelHertz() (uint32, error) {
	var tick unix.Timespec
	if err := unix.ClockGetres(unix.CLOCK_MONOTONIC_COARSE, &tick); err != nil {
		return 0, fmt.Errorf("read the coarse clock's resolution: %w", err)
	}
	return uint32(time.Second.Nanoseconds() / tick.Nano()), nil
}

// Close unloads the programs and forgets the maps.
func (d *Datapath) Close() error {
	errs := []error{d.DatapathObjects.Close()}
	for _, probe := range d.Probes {
		errs = append(errs, probe.Close())
	}
	if d.meanwhile != nil {
		errs = append(errs, d.meanwhile.Close())
	}
	return errors.Join(errs...)
}

// Now is the present time in the entries' ticks.
func (d *Datapath) Now() (uint32, error) {
	return d.ReplypathClock.Run(&ebpf.RunOptions{Data: make([]byte, 14)})
}

// Seconds is a time span in the entries' ticks.
func (d *Datapath) Seconds(count uint32) uint32 {
	return count * d.hertz / 16
}

// SetSettings replaces the settings.
func (d *Datapath) SetSettings(settings bpf.DatapathSettings) error {
	if err := d.Configuration.Put(uint32(0), settings); err != nil {
		return fmt.Errorf("write settings: %w", err)
	}
	return nil
}

// SetInterface manages an interface under this index of the array, on a thread
// inside the namespace of its device.
func (d *Datapath) SetInterface(index uint32, record bpf.DatapathInterface) error {
	if err := d.Interfaces.Put(index, record); err != nil {
		return fmt.Errorf("write interface %d: %w", index, err)
	}
	low := record.Ifindex % d.Managed.MaxEntries()
	if err := d.Managed.Put(low, index); err != nil {
		return fmt.Errorf("write managed interface %d: %w", record.Ifindex, err)
	}
	if err := d.Devices.Put(index, record.Ifindex); err != nil && !errors.Is(err, unix.EINVAL) { // there is none
		return fmt.Errorf("write device %d: %w", record.Ifindex, err)
	}
	if err := d.ForgetProof(); err != nil {
		return err
	}
	d.undo = append(d.undo, func() error {
		return errors.Join(
			d.Interfaces.Put(index, bpf.DatapathInterface{}),
			d.Managed.Put(low, uint32(0)),
			d.Devices.Delete(index),
		)
	})
	return nil
}

// SetDevice says which device is behind an interface, 0 for none. The programs see it
// as late as in the next jiffy; here they see it at once.
func (d *Datapath) SetDevice(index, ifindex uint32) error {
	var err error
	if ifindex == 0 {
		err = d.Devices.Delete(index)
	} else {
		err = d.Devices.Put(index, ifindex)
	}
	if err != nil {
		return fmt.Errorf("write device %d: %w", index, err)
	}
	return d.ForgetProof()
}

// ForgetProof has the programs ask the kernel at once whether an interface can be used.
func (d *Datapath) ForgetProof() error {
	var handovers []bpf.DatapathHandover // of each CPU
	if err := d.Handovers.Lookup(uint32(0), &handovers); err != nil {
		return fmt.Errorf("read the last hand-overs: %w", err)
	}
	for cpu := range handovers {
		handovers[cpu].Proved = 0
	}
	if err := d.Handovers.Put(uint32(0), handovers); err != nil {
		return fmt.Errorf("write the last hand-overs: %w", err)
	}
	return nil
}

// SetExclusions writes all exclusions, to the set that settings name unless told otherwise.
func (d *Datapath) SetExclusions(rules ...bpf.DatapathExclusion) error {
	set := bpf.DatapathExclusionSet{Count: uint32(len(rules))}
	copy(set.Rule[:], rules)
	if err := d.Exclusions.Put(uint32(0), set); err != nil {
		return fmt.Errorf("write the exclusions: %w", err)
	}
	return nil
}

// SetGateway enters a gateway under this index of the array, found by its MAC
// for frames of this family.
func (d *Datapath) SetGateway(index uint32, gateway bpf.DatapathGateway) error {
	family := uint8(6)
	if netip.AddrFrom16(gateway.Address).Is4In6() {
		family = 4
	}
	if err := d.Gateways.Put(index, gateway); err != nil {
		return fmt.Errorf("write gateway %d: %w", index, err)
	}
	d.undo = append(d.undo, func() error { return d.Gateways.Put(index, bpf.DatapathGateway{}) })
	key := bpf.DatapathGatewayMac{Ifindex: gateway.Ifindex, Mac: gateway.Mac, Family: family}
	if err := d.GatewayMacs.Put(key, index); err != nil {
		return fmt.Errorf("write MAC of gateway %d: %w", index, err)
	}
	return nil
}

// SetOwnAddress enters an address of this host with these flags.
func (d *Datapath) SetOwnAddress(address netip.Addr, flags bpf.DatapathOwnFlags) error {
	key := bpf.DatapathAddress{Bytes: address.As16()}
	if err := d.OwnAddresses.Put(key, uint32(flags)); err != nil {
		return fmt.Errorf("write own address %s: %w", address, err)
	}
	return nil
}

// SetOnLink enters a prefix that is on the link of an interface by a route.
func (d *Datapath) SetOnLink(ifindex uint32, prefix netip.Prefix) error {
	return d.SetOnLinkBy(ifindex, prefix, OnLinkRouted)
}

// OnLinkRouted are the flags of a prefix that the kernel has a route to.
const OnLinkRouted = bpf.DatapathOnLinkFlagsON_LINK | bpf.DatapathOnLinkFlagsON_LINK_ROUTED

// SetOnLinkBy enters a prefix that is on the link of an interface, with these flags.
func (d *Datapath) SetOnLinkBy(ifindex uint32, prefix netip.Prefix, flags bpf.DatapathOnLinkFlags) error {
	length := prefix.Bits()
	if prefix.Addr().Is4() {
		length += 96
	}
	key := bpf.DatapathOnLinkKey{
		PrefixLength: uint32(32 + length),
		Ifindex:      ifindex,
		Address:      prefix.Addr().As16(),
	}
	if err := d.OnLink.Put(key, uint32(flags)); err != nil {
		return fmt.Errorf("write on-link prefix %s: %w", prefix, err)
	}
	return nil
}

// RouteKey is where the map of the gateways' routes has a prefix of an interface.
func RouteKey(ifindex uint32, prefix netip.Prefix) bpf.DatapathRouteKey {
	length, family := prefix.Bits(), uint32(6)
	if prefix.Addr().Is4() {
		length, family = length+96, 4
	}
	return bpf.DatapathRouteKey{
		PrefixLength: uint32(64 + length),
		Ifindex:      ifindex,
		Family:       family,
		Address:      prefix.Addr().As16(),
	}
}

// SetRoute enters that a prefix is routed by a gateway of an interface, 0 for any.
func (d *Datapath) SetRoute(ifindex uint32, prefix netip.Prefix, gateway uint32) error {
	if err := d.GatewayRoutes.Put(RouteKey(ifindex, prefix), gateway); err != nil {
		return fmt.Errorf("write route %s: %w", prefix, err)
	}
	return nil
}

// SetSource enters the gateway that takes packets from an own address.
func (d *Datapath) SetSource(own netip.Addr, gateway uint32) error {
	if err := d.SourceGateways.Put(bpf.DatapathAddress{Bytes: own.As16()}, gateway); err != nil {
		return fmt.Errorf("write the gateway of %s: %w", own, err)
	}
	return nil
}

// Record is what the loader writes for a device that is up, at 1500 bytes, in
// enforce mode, with one gateway of each family: the one under this index.
func Record(device Device, gateway uint16) bpf.DatapathInterface {
	return bpf.DatapathInterface{
		Ifindex:   device.Index,
		Mtu:       1500,
		Mac:       MAC(device.MAC),
		Flags:     uint8(bpf.DatapathInterfaceFlagsINTERFACE_UP),
		Mode:      uint8(bpf.DatapathModeMODE_ENFORCE),
		Gateways4: 1,
		Gateways6: 1,
		Gateway4:  gateway,
		Gateway6:  gateway,
	}
}

// MAC is a hardware address as the maps hold it.
func MAC(address net.HardwareAddr) [6]byte {
	return [6]byte(address)
}

// Listed is the set of recorded protocols as the settings hold it.
func Listed(protocols ...uint8) (set [32]uint8) {
	for _, p := range protocols {
		set[p/8] |= 1 << (p % 8)
	}
	return set
}
