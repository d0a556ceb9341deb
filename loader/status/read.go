// SPDX-License-Identifier: Apache-2.0

package status

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/loader/attach"
	"replypath/loader/config"
	"replypath/loader/counters"
	"replypath/loader/datapath"
	"replypath/loader/discover"
	"replypath/loader/discover/dump"
	"replypath/loader/flows"
	"replypath/loader/hostsettings"
	"replypath/loader/identity"
	"replypath/loader/nexthop"
	"replypath/loader/pins"
)

// Read reads the state of a datapath from its pins and from the network
// namespace of the calling thread, which has to be the one that the datapath
// works for. It needs no daemon. The error matches pins.ErrNone where nothing
// is pinned.
func Read(pinDir string) (*Status, error) {
	journal, maps, err := open(pinDir)
	if err != nil {
		return nil, err
	}
	defer maps.Close()
	handle, err := dump.Open()
	if err != nil {
		return nil, err
	}
	defer handle.Close()
	r := &reader{pinDir: pinDir, journal: journal, maps: maps, netlink: handle}
	return r.read()
}

// open opens what is pinned. Without an error the maps have to be closed.
func open(pinDir string) (*pins.Journal, *bpf.Maps, error) {
	journal, err := pins.ReadJournal(pinDir)
	if err != nil {
		return nil, nil, err
	}
	maps, err := datapath.OpenMaps(pinDir)
	return journal, maps, err
}

func (r *reader) read() (*Status, error) {
	s := &Status{
		PinDir:     pins.Shown(r.pinDir),
		Config:     configOf(r.journal),
		Interfaces: []Interface{},
		Unmanaged:  append([]Unmanaged{}, r.journal.Unmanaged...),
		Features:   append([]Feature{}, r.journal.Features...),
		Errors:     append([]string{}, r.journal.Errors...),
	}
	for _, part := range []func(*Status) error{r.daemon, r.mode, r.changes, r.interfaces, r.addresses, r.flows, r.senders, r.counted} {
		if err := part(s); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (r *reader) mode(s *Status) error {
	over, err := datapath.IsTrialOver(r.maps)
	if err != nil {
		return err
	}
	if trial := r.journal.Trial; trial != nil && over {
		s.TrialEnded = &trial.Until
	} else if trial != nil {
		s.TrialUntil = &trial.Until
	}
	byHand, err := datapath.ReadMode(r.maps)
	s.Mode = datapath.ModeInForce(byHand, r.journal.Mode)
	s.WouldChange = r.wouldChanges(byHand, s.Daemon.Running)
	r.byHand = byHand
	return err
}

func (r *reader) daemon(s *Status) error {
	owned, err := pins.Owned(r.pinDir)
	if owned {
		passed, err := pins.Passed(r.pinDir)
		if err != nil {
			return err
		}
		// The journal's process is an earlier one until this one has written it.
		s.Daemon = Daemon{Running: true, PID: new(pins.OwnerPID(r.pinDir)), Version: &r.journal.Version}
		if r.journal.Passes {
			s.Daemon.Passed = passed
		}
	}
	return err
}

func configOf(j *pins.Journal) Config {
	var c Config
	if j.ConfigPath != "" {
		c.Path = &j.ConfigPath
	}
	if !j.LoadedAt.IsZero() {
		c.LoadedAt = &j.LoadedAt
	}
	if j.ConfigErr != "" {
		c.Error = &j.ConfigErr
	}
	return c
}

// interfaces describes the managed and the caught interfaces as they are now.
func (r *reader) interfaces(s *Status) error {
	if err := r.describeAll(s, true); err != nil {
		return err
	}
	gateways, err := nexthop.Gateways(r.netlink, r.found)
	if err != nil {
		return err
	}
	for n := range s.Interfaces {
		i := &s.Interfaces[n]
		for _, g := range gateways {
			if g.Interface == i.Index && slices.Contains(r.gatewaysOf(i.Index), g.Address) { // else the daemon knew none of its family
				i.Gateways = append(i.Gateways, r.gatewayStatus(&g, s.Daemon.Running))
			}
		}
	}
	return nil
}

// attachments describes the managed interfaces as far as that is quickly done.
func (r *reader) attachments(s *Status) error { return r.describeAll(s, false) }

// describeAll describes the interfaces, by index, with those that are caught or without.
func (r *reader) describeAll(s *Status, withCaught bool) error {
	for _, record := range r.journal.Interfaces {
		if record.Index == 0 || record.Catches && !withCaught {
			continue
		}
		i, err := r.describe(&record)
		if err != nil {
			return err
		}
		s.Interfaces = append(s.Interfaces, i)
	}
	slices.SortFunc(s.Interfaces, func(a, b Interface) int { return a.Index - b.Index })
	return nil
}

// gatewaysOf returns the known gateways of an interface.
func (r *reader) gatewaysOf(device int) []netip.Addr {
	var addresses []netip.Addr
	for _, g := range r.journal.Gateways {
		address, err := netip.ParseAddr(g.Address)
		if err == nil && g.Interface == device && !g.Gone {
			addresses = append(addresses, address)
		}
	}
	return addresses
}

// describe describes an interface as far as that is quickly done. One that has gone without the daemon's notice is left as it
// was.
func (r *reader) describe(record *pins.InterfaceRecord) (i Interface, err error) {
	i = Interface{
		Name: record.Name, Index: record.Index, Role: RoleRecords, NextHop: record.NextHop,
		Mode: datapath.ModeInForce(r.byHand, cmp.Or(record.Mode, r.journal.Mode)), Gateways: []Gateway{},
	}
	if record.Catches {
		i.Role = RoleCatches
	}
	var entry bpf.DatapathInterface
	if err := r.maps.Interfaces.Lookup(bpf.PlaceOf(record.Index), &entry); err != nil {
		return i, fmt.Errorf("read what the programs know of interface %s: %w", i.Name, err)
	}
	i.OwnOnly = entry.Takes&uint8(bpf.DatapathTakesTAKES_ITS_OWN_ONLY) != 0
	i.HostModel = string(config.HostModelWeak)
	if entry.Flags&uint8(bpf.DatapathInterfaceFlagsINTERFACE_STRONG) != 0 {
		i.HostModel = string(config.HostModelStrong)
	}
	link, err := r.netlink.LinkByIndex(i.Index)
	if notFound := (netlink.LinkNotFoundError{}); errors.As(err, &notFound) {
		return i, nil
	}
	if err != nil {
		return i, fmt.Errorf("interface %s: %w", i.Name, err)
	}
	found := discover.Interface{Index: i.Index, Name: link.Attrs().Name}
	found.Refresh(link)
	found.NoARP = link.Attrs().RawFlags&unix.IFF_NOARP != 0 || found.MAC == nil
	found.Settings.Gateways = r.gatewaysOf(i.Index)
	r.found = append(r.found, found)
	i.Name, i.Up = found.Name, found.Up
	if _, _, effective, err := hostsettings.RPFilter(i.Name); err == nil {
		i.RPFilter = &effective
	}
	attacher := attach.New(filepath.Join(r.pinDir, datapath.LinksDir), r.netlink, attach.Auto)
	hooks, err := counters.ReadHooks(attacher, attach.Interface{Index: i.Index, Name: i.Name}, i.Catches())
	if err != nil {
		return i, fmt.Errorf("interface %s: %w", i.Name, err)
	}
	i.Attached = !hooks.Lack()
	if i.Attached {
		i.Mechanism = &hooks[0].Mechanism
	}
	return i, nil
}

// gatewayStatus tells the kernel's word for the last answer, which that it is asked again
// does not change, but for a gateway whose entry the daemon has filled in.
func (r *reader) gatewayStatus(g *nexthop.Gateway, running bool) Gateway {
	status := Gateway{Address: g.Address.String(), State: g.State}
	if g.MAC != nil {
		status.MAC = new(g.MAC.String())
	}
	if g.State == nexthop.StateDelay || g.State == nexthop.StateProbe {
		status.State = nexthop.StateStale
	}
	if g.State == nexthop.StateSilent {
		status.State = nexthop.StateFailed
	}
	for _, record := range r.journal.Gateways {
		if !running || record.Interface != g.Interface || record.Address != status.Address {
			continue
		}
		switch {
		case record.Held:
			status.State = StateHeld
		case record.Bridged && g.State == nexthop.StateProbe:
			status.State, status.MAC = nexthop.StateNone, nil // nobody has answered yet
		}
	}
	return status
}

// addresses lists what is served although no interface has it.
func (r *reader) addresses(s *Status) error {
	s.Addresses = []Served{}
	var key bpf.DatapathPrefixKey
	var flags bpf.DatapathOwnFlags
	entries := r.maps.Prefixes.Iterate()
	for entries.Next(&key, &flags) {
		if bpf.DatapathPrefixKind(key.Kind) != bpf.DatapathPrefixKindPREFIX_SERVED {
			continue
		}
		served := Served{Network: datapath.PrefixOf(&key).String(), Source: "route"}
		if flags&bpf.DatapathOwnFlagsOWN_CONFIGURED != 0 {
			served.Source = "configuration"
		} else if flags&bpf.DatapathOwnFlagsOWN_TRANSLATED != 0 {
			served.Source = "firewall"
		}
		s.Addresses = append(s.Addresses, served)
	}
	slices.SortFunc(s.Addresses, func(a, b Served) int { return cmp.Compare(a.Network, b.Network) })
	s.Addresses = slices.Compact(s.Addresses) // where an entry goes meanwhile, the kernel begins anew
	if err := entries.Err(); err != nil {
		return fmt.Errorf("read the addresses that no interface has: %w", err)
	}
	return nil
}

// flows counts what is in the flow tables, in all and by interface, and what became of requests.
func (r *reader) flows(s *Status) error {
	clock, err := datapath.ReadClock(r.pinDir)
	if err != nil {
		return err
	}
	gathering, err := flows.Gather(clock.Since, r.maps)
	if err != nil { // the tables are counted all the same
		s.Errors = append(s.Errors, "what became of requests is not known: "+err.Error())
	}
	byID := make(map[uint16]int)
	tables, err := flows.Usage(r.maps, clock, gathering, func(f *bpf.DatapathFlow, _ string) { byID[f.Interface]++ })
	if err != nil {
		return err
	}
	evidence := &flows.Evidence{}
	if gathering != nil {
		evidence = gathering.Evidence()
	}
	s.Unanswered, s.Gone = evidence.Findings(r.names(s.Interfaces)), evidence.Gone(r.journal.Missed())
	s.Flows.Tables = tables
	for _, table := range tables {
		s.Flows.Count += int(table.Flows)
		s.Flows.Capacity += int(table.Capacity)
	}
	for _, record := range r.journal.Interfaces {
		for i := range s.Interfaces {
			if s.Interfaces[i].Index == record.Index {
				s.Interfaces[i].Flows += byID[record.ID]
				recent := evidence.Recent[record.ID]
				s.Interfaces[i].Recent.Add(&recent)
			}
		}
	}
	return nil
}

// mostSenders bounds how many are listed.
const mostSenders = 1000

// senders reads by which ways replies arrive.
func (r *reader) senders(s *Status) (err error) {
	s.Senders, err = flows.Senders(r.pinDir, r.maps)
	s.SenderCount = len(s.Senders)
	s.Senders = s.Senders[:min(s.SenderCount, mostSenders)]
	return err
}

// counted reads what became of the replies.
func (r *reader) counted(s *Status) error {
	pairs, err := counters.ReadPairs(r.maps)
	if err != nil {
		return err
	}
	notEntered, err := counters.NotEntered(r.maps)
	if err != nil {
		return err
	}
	clock, err := datapath.ReadClock(r.pinDir)
	if err != nil {
		return err
	}
	names := r.names(s.Interfaces)
	s.Counted = Counted{Totals: pairs.Totals(), Wrong: pairs.Wrong(names, clock.Since), Unrecorded: pairs.Unrecorded(names, clock.Since), NotEntered: notEntered}
	if !r.journal.Began.IsZero() {
		s.Counted.Since = &r.journal.Began
	}
	return nil
}

// Effect is what a datapath does by itself, as its hooks and modes say, and what stands changed on
// the host for it. None of it needs a process.
type Effect struct {
	Mode        string   // the one in force where an interface has none of its own
	Corrected   []string // the attached interfaces to which replies are moved, by index
	Observed    []string // the other attached ones: what would be moved there is counted
	Mechanisms  []string // by which they are attached, each once
	HostChanges []HostChange
	// Detaching tells that `replypath detach --stop` has begun to take it away.
	Detaching bool
}

// ReadEffect looks at what is attached now, for whoever has the journal and the maps open. Whether somebody detaches it is
// not looked at.
func ReadEffect(
	pinDir string, journal *pins.Journal, maps *bpf.Maps, handle *netlink.Handle,
) (*Effect, error) {
	r := &reader{pinDir: pinDir, journal: journal, maps: maps, netlink: handle}
	var s Status
	for _, part := range []func(*Status) error{r.mode, r.changes, r.attachments} {
		if err := part(&s); err != nil {
			return nil, err
		}
	}
	e := &Effect{Mode: s.Mode, HostChanges: s.HostChanges}
	for i := range s.Interfaces {
		e.add(&s.Interfaces[i], datapath.ModeInForce(r.byHand, s.Interfaces[i].Mode))
	}
	return e, nil
}

// add sorts an interface by its mode in force.
func (e *Effect) add(i *Interface, mode string) {
	if !i.Attached {
		return
	}
	if mode == string(config.ModeEnforce) {
		e.Corrected = append(e.Corrected, i.Name)
	} else {
		e.Observed = append(e.Observed, i.Name)
	}
	if !slices.Contains(e.Mechanisms, *i.Mechanism) {
		e.Mechanisms = append(e.Mechanisms, *i.Mechanism)
	}
}

// Traffic is what a datapath has counted up to a moment, and for which
// interfaces.
type Traffic struct {
	Mode       string
	Daemon     Daemon
	Interfaces []Interface // those that are managed, by index; their gateways are left out
	Counted    map[counters.Series]uint64
}

// ReadTraffic is Read for what may be asked every second: it looks at
// neither flows nor routes. The maps are those that are pinned in the directory.
func ReadTraffic(pinDir string, maps *bpf.Maps) (*Traffic, error) {
	journal, err := pins.ReadJournal(pinDir)
	if err != nil {
		return nil, err
	}
	handle, err := dump.Open()
	if err != nil {
		return nil, err
	}
	defer handle.Close()
	r := &reader{pinDir: pinDir, journal: journal, maps: maps, netlink: handle}
	return r.traffic()
}

func (r *reader) traffic() (*Traffic, error) {
	var s Status
	for _, part := range []func(*Status) error{r.mode, r.daemon, r.attachments} {
		if err := part(&s); err != nil {
			return nil, err
		}
	}
	counted, err := counters.ReadPairs(r.maps)
	return &Traffic{Mode: s.Mode, Daemon: s.Daemon, Interfaces: s.Interfaces, Counted: counted.Named(r.names(s.Interfaces))}, err
}

// names are those of all interfaces that ever were; who was renamed has the name
// that is shown.
func (r *reader) names(present []Interface) map[uint16]string {
	names := identity.Names(r.journal.Interfaces)
	for _, record := range r.journal.Interfaces {
		for _, i := range present {
			if record.Index == i.Index {
				names[record.ID] = i.Name
			}
		}
	}
	return names
}
