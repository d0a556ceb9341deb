package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"replypath/loader/config"
	"replypath/loader/discover"
	"replypath/loader/discover/dump"
	"replypath/loader/flows"
	"replypath/loader/pins"
)

// gatherer fills a snapshot.
type gatherer struct {
	Options
	netlink *netlink.Handle
	links   []netlink.Link
	ours    []ebpf.ProgramID // attached by pinned links
	journal *pins.Journal    // nil: none, or it may not be read
	sampled *sample          // what had been counted when the snapshot began
	host    *Host
}

// gather takes a snapshot of the network namespace of the calling thread.
func gather(options Options) (*Host, error) {
	handle, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open a netlink socket: %w", err)
	}
	defer handle.Close()
	g := &gatherer{Options: options, netlink: handle, host: &Host{PinDir: options.PinDir, Unread: map[string]string{}}}
	for _, part := range g.parts() {
		if err := part.read(); errors.Is(err, fs.ErrPermission) && part.name != "" {
			g.host.Unread[part.name] = part.takes
		} else if err != nil {
			return nil, err
		}
	}
	return g.host, nil
}

// part is a part of the snapshot.
type part struct {
	// name is how checks name it that cannot do without; empty: nothing can.
	name  string
	takes string // to read it
	read  func() error
}

// The parts that not everybody may read.
const (
	partPins     = "what is pinned"
	partGateways = "whether gateways answer"
	partFirewall = "the firewall"
	partFlows    = "the flow table"
	partHooks    = "the tc hooks"
	partFiles    = "the files of the network"
	partBalancer = "the services of ipvs"
	partOffloads = "the ipsec states"
	partTraffic  = "the counters"
)

// parts are read in this order: what is managed comes first.
func (g *gatherer) parts() []part {
	const admin, bpf, root = "CAP_NET_ADMIN", "CAP_BPF", "root's rights"
	return []part{
		{partPins, root, g.pinned}, {"", "", g.configuration}, {partTraffic, bpf, g.firstSample},
		{"", "", g.interfaces}, {"", "", g.start}, {"", "", g.devices}, {"", "", g.routes}, {"", "", g.rules},
		{partGateways, admin, g.gateways}, {"", "", g.neighbours}, {"", "", g.settings},
		{partFirewall, admin, g.firewall}, {partFlows, bpf, g.flows}, {partHooks, admin + " and " + bpf, g.hooks}, {"", "", g.sockets},
		{partFiles, root, g.files}, {partBalancer, admin, g.balancer}, {partOffloads, admin, g.offloads},
		{"", "", g.modes}, {"", "", g.uses}, {partTraffic, bpf, g.wrongWays},
	}
}

// pinned reads who wrote down what in the pin directory, if there is one.
func (g *gatherer) pinned() error {
	if _, err := os.Stat(g.PinDir); errors.Is(err, fs.ErrNotExist) {
		return nil // which bpf(2) would not tell everybody
	} else if err == nil {
		g.host.Pinned = true
	}
	if _, err := pins.ReadRepairs(g.PinDir); err != nil {
		return err
	}
	journal, err := pins.ReadJournal(g.PinDir)
	if errors.Is(err, pins.ErrNone) {
		return nil
	}
	if err != nil {
		return err
	}
	g.journal, g.host.Attached = journal, true
	g.host.Daemon, err = daemonOf(g.PinDir)
	return err
}

// interfaces finds the managed interfaces: those of the datapath where there is
// one, else those that it would manage.
func (g *gatherer) interfaces() error {
	var err error
	if g.links, err = dump.Links(g.netlink); err != nil {
		return err
	}
	cfg := g.host.Config
	if g.journal != nil {
		cfg = g.managing(g.journal)
	}
	found, err := discover.Scan(g.netlink, cfg)
	g.host.Interfaces, g.host.OnLink, g.host.Own = found.Interfaces, found.OnLink, found.Own
	g.host.Unmanaged = found.Unmanaged
	if err != nil {
		return err
	}
	g.host.Astray, err = found.Astray(g.netlink)
	return err
}

// managing is the configuration with the interfaces of a datapath, which flags may
// have named, as its only entries; as it is where the datapath has none. The
// gateways stay those that it gives.
func (g *gatherer) managing(journal *pins.Journal) *config.Config {
	cfg := *g.host.Config
	cfg.Interfaces = []config.Interface{}
	for _, r := range journal.Interfaces {
		if r.Index == 0 || !slices.ContainsFunc(g.links, func(l netlink.Link) bool { return l.Attrs().Name == r.Name }) {
			continue
		}
		entry := config.Interface{Name: r.Name, Mode: config.Mode(r.Mode), NextHop: config.NextHop(r.NextHop)}
		for _, i := range g.host.Config.Interfaces {
			if config.Match(i.Name, r.Name) {
				entry.Gateways = i.Gateways
			}
		}
		cfg.Interfaces = append(cfg.Interfaces, entry)
	}
	if len(cfg.Interfaces) == 0 {
		return g.host.Config
	}
	return &cfg
}

// flows reads the flow table, where there is one. One that another version made
// does not keep the rest from being examined. Where there is none nothing is attached,
// whatever the journal says: a start writes that first, and pins the tables once every
// program is in its hook.
func (g *gatherer) flows() error {
	table, err := flows.Open(g.PinDir)
	if err == nil {
		g.host.Flows, err = table.List(flows.Filter{})
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
		g.host.FlowError = strings.ReplaceAll(err.Error(), "\n", "; ")
	}
	return nil
}
