// SPDX-License-Identifier: Apache-2.0

// Package gather takes the snapshot that doctor judges.
package gather

import (
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/vishvananda/netlink"

	"replypath/loader/config"
	"replypath/loader/discover"
	"replypath/loader/discover/dump"
	"replypath/loader/doctor/snapshot"
	"replypath/loader/flows"
	"replypath/loader/namespace"
	"replypath/loader/netfilter"
	"replypath/loader/pins"
	"replypath/loader/problems"
	"replypath/loader/status"
)

const (
	detachTime = 10 * time.Second // on a busy machine
	detachPoll = 20 * time.Millisecond
)

// Snapshot is gather for a host from which a datapath may be taken away meanwhile: the
// programs go first, and last what tells that they should be there. Where they are missing
// it waits for the end of that.
func Snapshot(options Options) (*snapshot.Host, error) {
	for deadline := time.Now().Add(detachTime); ; time.Sleep(detachPoll) {
		host, err := gather(options)
		if err != nil || len(host.MissingPrograms()) == 0 || !isTakenAway(options.PinDir, host.InForce) || time.Now().After(deadline) {
			return host, err
		}
	}
}

// gather takes a snapshot of the network namespace of the calling thread.
func gather(options Options) (*snapshot.Host, error) {
	handle, err := dump.Open()
	if err != nil {
		return nil, err
	}
	defer handle.Close()
	host := &snapshot.Host{State: snapshot.State{PinDir: options.PinDir}, Unread: map[string]string{}, Failed: map[string]string{}}
	g := &gatherer{Options: options, netlink: handle, host: host}
	for _, part := range g.parts() {
		switch err := part.read(); {
		case err == nil:
		case part.name == "", errors.Is(err, pins.ErrForeignNamespace):
			return nil, err
		case errors.Is(err, fs.ErrPermission):
			host.Unread[part.name] = part.takes
		default:
			host.Failed[part.name] = problems.OneLine(err)
		}
	}
	return host, nil
}

// part is a part of the snapshot.
type part struct {
	// name is how checks name it that cannot do without; empty: nothing can.
	name  string
	takes string // to read it
	read  func() error
}

// parts are read in this order: what is managed comes first.
func (g *gatherer) parts() []part {
	const admin, bpf, root = "CAP_NET_ADMIN", "CAP_BPF", "root's rights"
	h := g.host
	return []part{
		{snapshot.PartPins, root, g.pinned},
		{"", "", g.configuration},
		{"", "", g.interfaces},
		{"", "", g.start},
		{"", "", func() error { return devices(g.netlink, g.links, h) }},
		{"", "", func() error { return routes(g.netlink, h) }},
		{"", "", func() error { return rules(g.netlink, h) }},
		{snapshot.PartGateways, admin, g.gateways},
		{"", "", func() error { return neighbours(g.netlink, h) }},
		{"", "", func() error { return settings(h) }},
		{snapshot.PartFirewall, admin, func() error { return netfilter.Read(&h.Firewall, h.DeviceName) }},
		{snapshot.PartTracked, admin, func() error { return translations(h) }},
		{snapshot.PartFlows, bpf, g.flows},
		{snapshot.PartStatus, root, g.status},
		{snapshot.PartHooks, admin + " and " + bpf, g.hooks},
		{snapshot.PartTraffic, bpf, g.wrongWays},
		{"", "", func() error { return ownWays(h) }},
	}
}

// pinned reads who wrote down what in the pin directory, if there is one.
func (g *gatherer) pinned() error {
	if _, err := os.Stat(g.PinDir); errors.Is(err, fs.ErrNotExist) {
		return g.elsewhere() // as bpf(2) would not tell everybody
	} else if err == nil {
		g.host.Pinned = true
	}
	journal, err := pins.ReadJournal(g.PinDir)
	if errors.Is(err, pins.ErrNone) {
		return g.elsewhere()
	}
	if err != nil {
		return err
	}
	g.journal, g.host.Attached, g.host.LedBy = journal, true, map[int]string{}
	for _, r := range journal.Gateways {
		if a, err := netip.ParseAddr(r.Address); r.Default && err == nil {
			g.host.LedBy[snapshot.FamilyOf(netip.PrefixFrom(a, 0))] = r.Address + " of " + r.Name
		}
	}
	g.host.Daemon, err = daemonOf(g.PinDir)
	return err
}

// elsewhere looks for a datapath in another pin directory, where this one holds none.
func (g *gatherer) elsewhere() error {
	if owned, err := pins.Owned(g.PinDir); owned && err == nil {
		return nil // a start or a detach is under way
	}
	found, err := namespace.Beside(g.netlink, g.PinDir)
	if err != nil {
		return err
	}
	if len(found) > 0 {
		pid, _ := found[0].Live()
		g.host.Elsewhere = &snapshot.Elsewhere{Dir: found[0].Shown(), PID: pid}
		return nil
	}
	pid, err := pins.NamespaceHolder()
	if pid != 0 {
		g.host.Elsewhere = &snapshot.Elsewhere{PID: pid}
	}
	return err
}

// interfaces finds the managed interfaces: those of the datapath where there is
// one, else those that it would manage.
func (g *gatherer) interfaces() (err error) {
	if g.links, err = dump.Links(g.netlink); err != nil {
		return err
	}
	cfg := g.host.Config
	if g.journal != nil {
		cfg = g.managing(g.journal)
	}
	g.host.Result, err = discover.Scan(g.netlink, cfg)
	g.host.Interfaces = slices.DeleteFunc(g.host.Interfaces, func(i discover.Interface) bool {
		is := i.Guest && discover.Entry(g.host.Config.Interfaces, i.Name, i.AltNames) == nil
		if is {
			g.host.Guests = append(g.host.Guests, i)
		}
		return is
	})
	return err
}

// managing is the configuration with the interfaces of a datapath, which flags may
// have named, as its only entries; as it is where the datapath has none. The
// gateways stay those that it gives.
func (g *gatherer) managing(journal *pins.Journal) *config.Config {
	cfg := *g.host.Config
	cfg.Interfaces = []config.Interface{}
	for _, r := range journal.Interfaces {
		if r.Index == 0 || r.Catches || !slices.ContainsFunc(g.links, func(l netlink.Link) bool { return l.Attrs().Name == r.Name }) {
			continue
		}
		entry := config.Interface{Name: r.Name, Mode: config.Mode(r.Mode), NextHop: config.NextHop(r.NextHop)}
		for _, i := range g.host.Config.Interfaces {
			if config.Match(i.Name, r.Name) {
				entry.Gateways, entry.HostModel = i.Gateways, i.HostModel
			}
		}
		cfg.Interfaces = append(cfg.Interfaces, entry)
	}
	if len(cfg.Interfaces) == 0 {
		return g.host.Config
	}
	return &cfg
}

// status reads what the datapath does, where there is one.
func (g *gatherer) status() (err error) {
	read, err := status.Read(g.PinDir)
	if errors.Is(err, pins.ErrNone) {
		return nil
	}
	if err != nil {
		return err
	}
	g.host.Status = read
	g.host.Enforcing = map[int]bool{}
	for _, i := range g.host.Status.Interfaces {
		if !i.Catches() {
			g.host.Enforcing[i.Index] = i.Mode == string(config.ModeEnforce)
		}
	}
	lastAnswers(g.host, g.Quiet)
	return nil
}

// lastAnswers has gateways have the states that the status gives them: that of one which the daemon holds is not known otherwise,
// and that one is being asked again is none.
func lastAnswers(h *snapshot.Host, quiet bool) {
	for n := range h.Gateways {
		of := &h.Gateways[n]
		for _, i := range h.Status.Interfaces {
			for _, known := range i.Gateways {
				isOf := i.Index == of.Interface && known.Address == of.Address.String()
				if isOf && (quiet || known.State == status.StateHeld) {
					of.State = known.State
				}
			}
		}
	}
}

// mostFlows bounds what is held in memory of a flow table: two megabytes or so. A table is in the order of a hash, so that these
// stand for all.
const mostFlows = 4096

// flows reads the flow table, where there is one. One that another version made
// does not keep the rest from being examined. Where there is none nothing is attached,
// whatever the journal says: a start writes that first, and pins the tables once every
// program is in its hook.
func (g *gatherer) flows() error {
	table, err := flows.Open(g.PinDir)
	if err == nil {
		g.host.Flows, err = table.List(flows.Filter{Limit: mostFlows})
		err = errors.Join(err, table.Close())
	}
	if errors.Is(err, pins.ErrNone) { // a start or a detach is under way, if anything
		g.host.Attached = false
		return nil
	}
	if errors.Is(err, fs.ErrPermission) {
		return err
	}
	if err != nil {
		g.host.FlowError = problems.OneLine(err)
	}
	return nil
}
