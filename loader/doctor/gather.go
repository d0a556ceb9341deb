package doctor

import (
	"errors"
	"fmt"
	"io/fs"
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
	host    *Host
}

// gather takes a snapshot of the network namespace of the calling thread.
func gather(options Options) (*Host, error) {
	handle, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open a netlink socket: %w", err)
	}
	defer handle.Close()
	g := &gatherer{Options: options, netlink: handle, host: &Host{Config: options.Config, ConfigPath: options.ConfigPath, PinDir: options.PinDir}}
	for _, part := range []func() error{
		g.interfaces, g.devices, g.routes, g.rules, g.gateways, g.neighbours, g.settings,
		g.firewall, g.flows, g.hooks, g.sockets, g.files, g.balancer, g.offloads,
	} {
		if err := part(); errors.Is(err, fs.ErrPermission) {
			return nil, fmt.Errorf("%w: run it as root", err)
		} else if err != nil {
			return nil, err
		}
	}
	return g.host, nil
}

// interfaces finds the managed interfaces: those of the datapath where there is
// one, else those that it would manage.
func (g *gatherer) interfaces() error {
	var err error
	if g.links, err = dump.Links(g.netlink); err != nil {
		return err
	}
	if _, err := pins.ReadRepairs(g.PinDir); err != nil {
		return err
	}
	cfg := g.Config
	journal, err := pins.ReadJournal(g.PinDir)
	switch {
	case errors.Is(err, pins.ErrNone):
	case err != nil:
		return err
	default:
		if err := journal.CheckNamespace(g.PinDir); err != nil {
			return err
		}
		g.host.Attached = true
		if g.host.Daemon, err = daemonOf(g.PinDir); err != nil {
			return err
		}
		cfg = g.inForce(journal)
	}
	found, err := discover.Scan(g.netlink, cfg)
	g.host.Interfaces, g.host.OnLink, g.host.Own = found.Interfaces, found.OnLink, found.Own
	g.host.Unmanaged = found.Unmanaged
	return err
}

// inForce is the configuration with the interfaces of a datapath, which flags may
// have named, as its only entries; as it is where the datapath has none. The
// gateways stay those of the file.
func (g *gatherer) inForce(journal *pins.Journal) *config.Config {
	cfg := *g.Config
	cfg.Interfaces = []config.Interface{}
	for _, r := range journal.Interfaces {
		if r.Index == 0 || !slices.ContainsFunc(g.links, func(l netlink.Link) bool { return l.Attrs().Name == r.Name }) {
			continue
		}
		entry := config.Interface{Name: r.Name, Mode: config.Mode(r.Mode), NextHop: config.NextHop(r.NextHop)}
		for _, i := range g.Config.Interfaces {
			if config.Match(i.Name, r.Name) {
				entry.Gateways = i.Gateways
			}
		}
		cfg.Interfaces = append(cfg.Interfaces, entry)
	}
	if len(cfg.Interfaces) == 0 {
		return g.Config
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
	if err != nil {
		g.host.FlowError = strings.ReplaceAll(err.Error(), "\n", "; ")
	}
	return nil
}
