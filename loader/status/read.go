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

	"replypath/bpf"
	"replypath/loader/attach"
	"replypath/loader/config"
	"replypath/loader/counters"
	"replypath/loader/datapath"
	"replypath/loader/discover"
	"replypath/loader/discover/dump"
	"replypath/loader/flows"
	"replypath/loader/hostsettings"
	"replypath/loader/nexthop"
	"replypath/loader/pins"
	"replypath/metrics"
)

// Read reads the state of a datapath from its pins and from the network
// namespace of the calling thread, which has to be the one that the datapath
// works for. It needs no daemon. The error matches pins.ErrNone where nothing
// is pinned; the status that comes with it then tells what `replypath doctor
// --fix` changed, and nothing else.
func Read(pinDir string) (*Status, error) {
	repairs, err := pins.ReadRepairs(pinDir)
	if err != nil {
		return nil, err
	}
	journal, err := pins.ReadJournal(pinDir)
	if errors.Is(err, pins.ErrNone) {
		changes, unread := repairChanges(repairs)
		return &Status{PinDir: pinDir, HostChanges: changes}, errors.Join(err, unread)
	}
	if err != nil {
		return nil, err
	}
	maps, err := datapath.OpenMaps(pinDir)
	if err != nil {
		return nil, err
	}
	defer maps.Close()
	handle, err := dump.Open()
	if err != nil {
		return nil, err
	}
	defer handle.Close()
	r := &reader{pinDir: pinDir, journal: journal, repairs: repairs, maps: maps, netlink: handle}
	return r.read()
}

func (r *reader) read() (*Status, error) {
	s := &Status{
		PinDir:     r.pinDir,
		Config:     configOf(r.journal),
		Interfaces: []Interface{},
		Unmanaged:  append([]Unmanaged{}, r.journal.Unmanaged...),
		Features:   append([]Feature{}, r.journal.Features...),
		Errors:     append([]string{}, r.journal.Errors...),
	}
	for _, part := range []func(*Status) error{r.daemon, r.mode, r.changes, r.interfaces, r.addresses, r.flows, r.counted} {
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
	found, err := r.scan()
	if err != nil {
		return err
	}
	gateways, err := nexthop.Gateways(r.netlink, found.Interfaces)
	if err != nil {
		return err
	}
	for _, record := range r.journal.Interfaces {
		if record.Index == 0 {
			continue
		}
		i, err := r.describe(&record)
		if err != nil {
			return err
		}
		if err := r.setFlags(&i, record.ID); err != nil {
			return err
		}
		for _, g := range gateways {
			if g.Interface == record.Index && r.isKnown(&g) {
				i.Gateways = append(i.Gateways, r.gatewayStatus(&g, s.Daemon.Running))
			}
		}
		s.Interfaces = append(s.Interfaces, i)
	}
	sortInterfaces(s.Interfaces)
	return nil
}

func sortInterfaces(list []Interface) {
	slices.SortFunc(list, func(a, b Interface) int { return a.Index - b.Index })
}

// scan looks at these interfaces, each with its known gateways, as if just
// these were configured.
func (r *reader) scan() (discover.Result, error) {
	links, err := dump.Links(r.netlink)
	if err != nil {
		return discover.Result{}, err
	}
	cfg := config.Default()
	cfg.Interfaces = []config.Interface{}
	for _, link := range links {
		index := link.Attrs().Index
		if slices.ContainsFunc(r.journal.Interfaces, func(i pins.InterfaceRecord) bool { return i.Index == index }) {
			cfg.Interfaces = append(cfg.Interfaces, config.Interface{
				Name: link.Attrs().Name, Gateways: r.gatewaysOf(index),
			})
		}
	}
	return discover.Scan(r.netlink, cfg)
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

// isKnown leaves out gateways of a family of which the daemon knew none.
func (r *reader) isKnown(g *nexthop.Gateway) bool {
	return slices.Contains(r.gatewaysOf(g.Interface), g.Address)
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
	link, err := r.netlink.LinkByIndex(i.Index)
	if notFound := (netlink.LinkNotFoundError{}); errors.As(err, &notFound) {
		return i, nil
	}
	if err != nil {
		return i, fmt.Errorf("interface %s: %w", i.Name, err)
	}
	found := discover.Interface{Index: i.Index, Name: link.Attrs().Name}
	found.Refresh(link)
	i.Name, i.Up = found.Name, found.Up
	if _, _, effective, err := hostsettings.RPFilter(i.Name); err == nil {
		i.RPFilter = &effective
	}
	attacher := attach.New(filepath.Join(r.pinDir, datapath.LinksDir), r.netlink, attach.Auto)
	hooks, err := counters.ReadHooks(attacher, attach.Interface{Index: i.Index, Name: i.Name}, i.Catches())
	if err != nil {
		return i, fmt.Errorf("interface %s: %w", i.Name, err)
	}
	i.Attached = !slices.ContainsFunc(hooks, func(h metrics.Hook) bool { return !h.Attached })
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

// setFlags sets what the programs are told of an interface by flags.
func (r *reader) setFlags(i *Interface, id uint16) error {
	var entry bpf.DatapathInterface
	if err := r.maps.Interfaces.Lookup(uint32(id), &entry); err != nil {
		return fmt.Errorf("read what the programs know of interface %s: %w", i.Name, err)
	}
	i.HostModel = string(config.HostModelWeak)
	if entry.Flags&uint8(bpf.DatapathInterfaceFlagsINTERFACE_STRONG) != 0 {
		i.HostModel = string(config.HostModelStrong)
	}
	return nil
}

// addresses lists what is served although no interface has it.
func (r *reader) addresses(s *Status) error {
	s.Addresses = []Served{}
	var key bpf.DatapathServedKey
	var flags bpf.DatapathOwnFlags
	entries := r.maps.ServedAddresses.Iterate()
	for entries.Next(&key, &flags) {
		served := Served{Network: datapath.PrefixOf(&key).String(), Source: "route"}
		if flags&bpf.DatapathOwnFlagsOWN_CONFIGURED != 0 {
			served.Source = "configuration"
		} else if flags&bpf.DatapathOwnFlagsOWN_TRANSLATED != 0 {
			served.Source = "firewall"
		}
		s.Addresses = append(s.Addresses, served)
	}
	slices.SortFunc(s.Addresses, func(a, b Served) int { return cmp.Compare(a.Network, b.Network) })
	if err := entries.Err(); err != nil {
		return fmt.Errorf("read the addresses that no interface has: %w", err)
	}
	return nil
}

// flows counts what is in the flow tables, in all and by interface.
func (r *reader) flows(s *Status) error {
	clock, err := datapath.ReadClock(r.pinDir)
	if err != nil {
		return err
	}
	byID := make(map[uint16]int)
	tables, err := flows.Usage(r.maps, clock, func(f *bpf.DatapathFlow) { byID[f.Interface]++ })
	if err != nil {
		return err
	}
	s.Flows.Tables = tables
	for _, table := range tables {
		s.Flows.Count += int(table.Flows)
		s.Flows.Capacity += int(table.Capacity)
	}
	for _, record := range r.journal.Interfaces {
		for i := range s.Interfaces {
			if s.Interfaces[i].Index == record.Index {
				s.Interfaces[i].Flows += byID[record.ID]
			}
		}
	}
	return nil
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
	totals, mark := pairs.Totals(), pins.MarkRecord{}
	if len(r.journal.Marks) > 0 {
		mark = r.journal.Marks[0]
	}
	totals.Failing = totals.FailingSince(mark)
	s.Counted = Counted{Totals: totals, NotEntered: notEntered - min(mark.NotEntered, notEntered)}
	if !r.journal.Began.IsZero() {
		s.Counted.Since = &r.journal.Began
	}
	return nil
}
