// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/loader/attach"
	"replypath/loader/datapath"
	"replypath/loader/discover/dump"
	"replypath/loader/flows"
	"replypath/loader/kernelroute"
	"replypath/loader/pins"
	"replypath/loader/rehearsal"
	"replypath/loader/sockets"
)

// Host is what the programs and the kernel know.
type Host struct {
	dir      string
	table    *flows.Table
	programs *rehearsal.Rehearsal
	kernel   kernel
	// By index: those at which programs of ours record requests, lo where there are none, and those at which they see what leaves.
	recording, seen []int
}

// OpenHost opens what is pinned in the directory. The error matches pins.ErrNone
// where nothing is.
func OpenHost(pinDir string) (*Host, error) {
	h := &Host{dir: pinDir}
	if err := h.open(); err != nil {
		return nil, errors.Join(err, h.Close())
	}
	return h, nil
}

func (h *Host) open() (err error) {
	if h.table, err = flows.Open(h.dir); err != nil {
		return err
	}
	if h.kernel.Handle, err = dump.Open(); err != nil {
		return err
	}
	journal, err := pins.ReadJournal(h.dir)
	if err != nil {
		return err
	}
	h.programs = rehearsal.New(h.dir, h.table.Maps(), bpf.Seeds(journal.Seeds))
	return h.Refresh()
}

// loopback is the index of lo, by which the programs record nothing.
const loopback = 1

// Refresh reads again what may have changed since the host was opened.
func (h *Host) Refresh() error {
	journal, err := pins.ReadJournal(h.dir)
	if err != nil {
		return err
	}
	h.recording, h.seen = nil, nil
	attacher := attach.New(filepath.Join(h.dir, datapath.LinksDir), h.kernel.Handle, attach.Auto)
	for _, r := range journal.Interfaces {
		link, err := h.kernel.LinkByIndex(r.Index)
		if r.Index == 0 || err != nil { // nobody may have seen it go
			continue
		}
		for place, list := range map[attach.Direction]*[]int{attach.Ingress: &h.recording, attach.Egress: &h.seen} {
			_, attached, err := attacher.Attached(attach.Interface{Index: r.Index, Name: link.Attrs().Name}, place)
			switch {
			case err != nil:
				return err
			case attached:
				*list = append(*list, r.Index)
			}
		}
	}
	if journal.Fallback != nil {
		h.seen = append(h.seen, journal.Fallback.Index)
	}
	if h.recording == nil {
		h.recording = []int{loopback}
	}
	return nil
}

// sees tells whether a program of ours sees what the kernel sends by a way.
func (h *Host) sees(way *kernelWay) bool { return slices.Contains(h.seen, way.device) }

// Close closes what is open; what is pinned stays.
func (h *Host) Close() error {
	if h.kernel.Handle != nil {
		h.kernel.Close()
	}
	var errs []error
	if h.programs != nil {
		errs = append(errs, h.programs.Close())
	}
	if h.table != nil {
		errs = append(errs, h.table.Close())
	}
	return errors.Join(errs...)
}

// kernel is what the kernel answers over netlink.
type kernel struct{ *netlink.Handle }

// nameDevice makes the interface of a question the name that it has now, which may be asked for by
// an alternative one, and returns its index, 0 where no interface is asked about.
func (k kernel) nameDevice(q *Question) (int, error) {
	if q.Interface == "" {
		return 0, nil
	}
	link, err := k.LinkByName(q.Interface)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return 0, fmt.Errorf("there is no interface %s: `ip link` shows which there are", q.Interface)
	}
	if err != nil {
		return 0, fmt.Errorf("find interface %s: %w", q.Interface, err)
	}
	q.Interface = link.Attrs().Name
	return link.Attrs().Index, nil
}

// packet is what the kernel wants to know of what is asked about, with the socket that sends it where one can be told.
// received is the device by which the packets of the flow come in, 0 for none.
func (k kernel) packet(q *Question, received int) (kernelroute.Packet, error) {
	p := kernelroute.Packet{Peer: q.Peer, Self: q.Self, Protocol: q.Protocol}
	vrf := k.vrf(received)
	s, err := k.sender(q, received, vrf)
	if err != nil {
		return p, err
	}
	switch {
	case s != nil:
		p.Device, p.UID, p.Mark = s.Device, &s.UID, s.Mark
	case q.Protocol != nil && isEcho(*q.Protocol):
		p.Device = vrf // the kernel answers in the VRF of the question (icmp_reply)
	}
	return p, nil
}

// sender finds the socket that sends by a tuple: a connected one, whatever device it is bound to, else the one that
// packets of the flow find, else one of UDP that is bound elsewhere: a listener of TCP sends nothing. It is nil where there
// is none or the kernel cannot tell.
func (k kernel) sender(q *Question, received, vrf int) (*sockets.Socket, error) {
	if q.Protocol == nil || *q.Protocol != unix.IPPROTO_TCP && *q.Protocol != unix.IPPROTO_UDP || q.Peer.Port() == 0 || q.Self.Port() == 0 {
		return nil, nil
	}
	var found *sockets.Socket
	for _, device := range []int{received, vrf, 0} {
		s, err := sockets.Find(*q.Protocol, q.Self, q.Peer, device)
		if err != nil || s != nil && s.Remote.Port() != 0 {
			return s, err
		}
		found = cmp.Or(found, s)
	}
	links, err := dump.Links(k.Handle)
	if err != nil {
		return nil, err
	}
	for _, link := range links {
		s, err := sockets.Find(*q.Protocol, q.Self, q.Peer, link.Attrs().Index)
		if err != nil {
			return nil, err
		}
		if s != nil && (s.Remote.Port() != 0 || found == nil && *q.Protocol == unix.IPPROTO_UDP) {
			found = s
		}
	}
	return found, nil
}

// vrf returns the VRF that a device belongs to, 0 for none.
func (k kernel) vrf(device int) int {
	link, err := k.LinkByIndex(device)
	if device == 0 || err != nil || link.Attrs().MasterIndex == 0 {
		return 0
	}
	master, err := k.LinkByIndex(link.Attrs().MasterIndex)
	if _, is := master.(*netlink.Vrf); err != nil || !is {
		return 0
	}
	return master.Attrs().Index
}

// isBoundOff tells whether a socket of this device is not moved to another: as is_bound_off() in bpf/src/socket.h.
func (k kernel) isBoundOff(bound, target int) bool {
	return bound != 0 && bound != target && bound != k.vrf(target)
}

// kernelWay is the kernel's choice.
type kernelWay struct {
	bound  int // the asker's device
	device int // 0 without a route
	link   netlink.Link
	mac    net.HardwareAddr // nil where it is not resolved
}

// way asks the kernel for its choice and describes it. The packet is the host's own or
// forwarded; received is the device by which those of its flow come in, 0 for none.
func (k kernel) way(q *Question, received int, own bool, to *Kernel) (kernelWay, error) {
	p, err := k.packet(q, received)
	if err != nil {
		return kernelWay{}, err
	}
	way := kernelWay{}
	if q.Protocol == nil || !isEcho(*q.Protocol) { // the kernel's own socket answers, which is bound to nothing
		way.bound = p.Device
	}
	r, err := k.route(p, own)
	if err != nil {
		return way, err
	}
	if r.Table != 0 {
		to.Table = &r.Table
	}
	if r.Err != nil {
		to.Error = new(r.Err.Error())
		return way, nil
	}
	if way.link, err = k.LinkByIndex(r.Device); err != nil {
		return way, fmt.Errorf("find the interface of the kernel's route: %w", err)
	}
	to.Interface = &way.link.Attrs().Name
	way.device = r.Device
	nextHop := q.Peer.Addr()
	if r.Gateway.IsValid() {
		nextHop = r.Gateway
		to.Gateway = new(r.Gateway.String())
	}
	if way.mac, err = k.neighbour(r.Device, nextHop); way.mac != nil {
		to.NextHopMAC = new(way.mac.String())
	}
	return way, err
}

// route asks for the route of what the host sends itself; of what it forwards, where Self is not its own, for that of a packet
// which comes in from there. What may not be forwarded it sends itself, by an address that the firewall translates to Self.
func (k kernel) route(p kernelroute.Packet, own bool) (kernelroute.Route, error) {
	if own {
		return kernelroute.AskOwn(p)
	}
	from, err := k.RouteGet(p.Self.Addr().AsSlice())
	if err == nil && len(from) > 0 {
		p.Input = from[0].LinkIndex
	}
	r, err := kernelroute.Ask(p)
	if r.Err == nil || err != nil || p.Peer.Addr().Is6() { // IPv6 does not say so here
		return r, err
	}
	p.Input, p.Self = 0, netip.AddrPortFrom(netip.IPv4Unspecified(), p.Self.Port())
	return kernelroute.AskOwn(p)
}

// neighbour returns the MAC that the kernel has for a next hop, nil where it is
// not resolved.
func (k kernel) neighbour(device int, address netip.Addr) (net.HardwareAddr, error) {
	family := netlink.FAMILY_V4
	if address.Is6() {
		family = netlink.FAMILY_V6
	}
	list, err := k.NeighList(device, family)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("list neighbours: %w", err)
	}
	for _, n := range list {
		if dump.Address(n.IP) != address || len(n.HardwareAddr) != 6 ||
			n.State&(netlink.NUD_INCOMPLETE|netlink.NUD_FAILED) != 0 {
			continue
		}
		return n.HardwareAddr, nil
	}
	return nil, nil
}
