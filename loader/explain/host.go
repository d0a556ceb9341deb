package explain

import (
	"errors"
	"fmt"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/loader/datapath"
	"replypath/loader/discover"
	"replypath/loader/flows"
	"replypath/loader/pins"
)

// Host is what the programs and the kernel know.
type Host struct {
	dir      string
	table    *flows.Table
	maps     *bpf.DatapathMaps
	netlink  *netlink.Handle
	seeds    bpf.Seeds
	clock    datapath.Clock
	settings bpf.DatapathSettings
	byHand   bpf.DatapathMode
	fallback int // index of the device of the fallback route; 0 without one
	// showsLinks: the programs ask the kernel for the state of a link, and not the daemon.
	showsLinks bool
}

// OpenHost opens what is pinned in the directory. The error matches pins.ErrNone
// where nothing is.
func OpenHost(pinDir string) (*Host, error) {
	h := &Host{dir: pinDir}
	if err := h.open(pinDir); err != nil {
		return nil, errors.Join(err, h.Close())
	}
	return h, nil
}

func (h *Host) open(pinDir string) error {
	journal, err := pins.ReadJournal(pinDir)
	if err != nil {
		return err
	}
	copy(h.seeds[:], journal.Seeds)
	h.showsLinks = slices.ContainsFunc(journal.Features, func(f pins.FeatureRecord) bool {
		return f.Name == pins.FeatureProbeRead && f.Available
	})
	if journal.Fallback != nil {
		h.fallback = journal.Fallback.Index
	}
	if h.maps, err = datapath.OpenMaps(pinDir); err != nil {
		return err
	}
	if h.table, err = flows.Open(pinDir); err != nil {
		return err
	}
	if h.netlink, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return fmt.Errorf("open a netlink socket: %w", err)
	}
	return h.Refresh()
}

// Refresh reads again what the operator may have changed since the host was
// opened, and the time.
func (h *Host) Refresh() (err error) {
	if h.clock, err = datapath.ReadClock(h.dir); err != nil {
		return err
	}
	if err := h.maps.Configuration.Lookup(uint32(0), &h.settings); err != nil {
		return fmt.Errorf("read the settings: %w", err)
	}
	h.byHand, err = datapath.ReadMode(h.maps.ModeByHand)
	return err
}

// Close closes what is open; what is pinned stays.
func (h *Host) Close() error {
	var errs []error
	if h.netlink != nil {
		h.netlink.Close()
	}
	if h.table != nil {
		errs = append(errs, h.table.Close())
	}
	if h.maps != nil {
		errs = append(errs, h.maps.Close())
	}
	return errors.Join(errs...)
}

// lookup returns the entries that a question is about, idle ones included.
func (h *Host) lookup(q *Question) ([]flows.Entry, error) {
	tuples := q.exact()
	if tuples == nil {
		return h.table.Entries(q.matches)
	}
	var found []flows.Entry
	for _, t := range tuples {
		entries, err := h.table.Lookup(t, h.seeds)
		if err != nil {
			return nil, err
		}
		found = append(found, entries...)
	}
	return found, nil
}

// interfaceByID returns what the programs know of an interface, nil where it is
// gone or another: as get_interface() in bpf/src/next_hop.h.
func (h *Host) interfaceByID(id uint32, ifindex uint32) (*bpf.DatapathInterface, error) {
	var entry bpf.DatapathInterface
	if err := h.maps.Interfaces.Lookup(id, &entry); err != nil {
		return nil, fmt.Errorf("read interface %d: %w", id, err)
	}
	if id == 0 || entry.Ifindex != ifindex {
		return nil, nil
	}
	return &entry, nil
}

// targetOf returns what the programs know of a flow's interface, nil where its
// device is gone: as is_usable() in bpf/src/next_hop.h.
func (h *Host) targetOf(f *bpf.DatapathFlow) (*bpf.DatapathInterface, error) {
	target, err := h.interfaceByID(uint32(f.Interface), f.Ifindex)
	if target == nil || err != nil {
		return target, err
	}
	var ifindex uint32
	err = h.maps.Devices.Lookup(uint32(f.Interface), &ifindex)
	if isMissing(err) || err == nil && ifindex != f.Ifindex {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read device %d: %w", f.Ifindex, err)
	}
	if !h.showsLinks {
		return target, nil
	}
	link, err := h.netlink.LinkByIndex(int(f.Ifindex))
	if notFound := (netlink.LinkNotFoundError{}); errors.As(err, &notFound) {
		return nil, nil // it has just gone
	}
	if err != nil {
		return nil, fmt.Errorf("look at device %d: %w", f.Ifindex, err)
	}
	refreshLink(target, link)
	return target, nil
}

// refreshLink brings up to date whether an interface is up, as can_send() sees it: the daemon may not run.
func refreshLink(i *bpf.DatapathInterface, link netlink.Link) {
	const up = uint8(bpf.DatapathInterfaceFlagsINTERFACE_UP)
	i.Flags &^= up
	state := link.Attrs().OperState
	if discover.IsUp(link) && (state == netlink.OperUnknown || state > netlink.OperLowerLayerDown) {
		i.Flags |= up
	}
}

// interfaceByIndex returns what the programs know of a device, nil where it is
// not managed: as interface_index() in bpf/src/next_hop.h.
func (h *Host) interfaceByIndex(ifindex int) (*bpf.DatapathInterface, error) {
	id, err := h.interfaceID(ifindex)
	if err != nil {
		return nil, err
	}
	return h.interfaceByID(id, uint32(ifindex))
}

// interfaceID returns the id of a device or of another with the same low bits in its index, 0 for none.
func (h *Host) interfaceID(ifindex int) (id uint32, err error) {
	low := uint32(ifindex) % h.maps.Managed.MaxEntries()
	if err := h.maps.Managed.Lookup(low, &id); err != nil {
		return 0, fmt.Errorf("read the id of device %d: %w", ifindex, err)
	}
	return id, nil
}

// gatewayOf returns the gateway by which replies of a flow go, or would if it were usable:
// as next_hop_mac() in bpf/src/next_hop.h.
func (h *Host) gatewayOf(f *bpf.DatapathFlow, target *bpf.DatapathInterface) (gateway bpf.DatapathGateway, err error) {
	for _, id := range datapath.GatewaysOf(f, target) {
		if err := h.maps.Gateways.Lookup(uint32(id), &gateway); err != nil {
			return gateway, fmt.Errorf("read gateway %d: %w", id, err)
		}
		if gateway.Usable != 0 && gateway.Ifindex == f.Ifindex {
			break
		}
	}
	return gateway, nil
}

// spokeFirst tells whether the host is known to have sent first: as
// accept_syn_answer() in bpf/src/outbound.h. Whether the note predates the attachment to the interface by
// which the next question comes is not known.
func (h *Host) spokeFirst(q *Question) (bool, error) {
	for _, t := range q.exact() {
		sent, found, err := datapath.FindOutbound(h.maps.Outbound, h.seeds.Digest(t))
		if err != nil {
			return false, err
		}
		if found && h.clock.Since(sent) <= idleOutbound {
			return true, nil
		}
	}
	return false, nil
}

// ownFlags are enum own_flags of an address, 0 where it is not this host's.
func (h *Host) ownFlags(address [16]uint8) (flags bpf.DatapathOwnFlags, err error) {
	err = h.maps.OwnAddresses.Lookup(bpf.DatapathAddress{Bytes: address}, &flags)
	if isMissing(err) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read the own addresses: %w", err)
	}
	return flags, nil
}

// isFallback tells whether a device is that of the fallback route.
func (h *Host) isFallback(device int) bool { return device != 0 && device == h.fallback }

// exclusions returns those that are in force.
func (h *Host) exclusions() ([]bpf.DatapathExclusion, error) {
	var set bpf.DatapathExclusionSet
	if err := h.maps.Exclusions.Lookup(h.settings.Exclusions, &set); err != nil {
		return nil, fmt.Errorf("read the exclusions: %w", err)
	}
	return set.Rule[:min(int(set.Count), len(set.Rule))], nil
}
