package doctor

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/loader/datapath"
	"replypath/loader/discover/dump"
	"replypath/loader/hostsettings"
)

// Use is a connection that this host opened, or a tuple by which it spoke first.
type Use struct {
	Protocol      uint8
	Local, Remote netip.AddrPort
}

// openedFrom counts what this host opened from the addresses of a prefix.
func (h *Host) openedFrom(p netip.Prefix) int {
	count := 0
	for _, u := range h.Uses {
		if p.Contains(u.Local.Addr()) {
			count++
		}
	}
	return count
}

// modes notes where replies are corrected, as the programs decide it: by the mode that
// was set by hand, else by that of the interface. What cannot be read is not known to
// enforce.
func (g *gatherer) modes() error {
	maps, err := datapath.OpenMaps(g.PinDir)
	if err != nil {
		return nil // nothing is attached, or another version is: flows says so
	}
	g.host.Enforcing, err = enforcing(maps)
	return errors.Join(err, maps.Close())
}

func enforcing(maps *bpf.DatapathMaps) (map[int]bool, error) {
	var byHand bpf.DatapathMode
	if err := maps.ModeByHand.Lookup(uint32(0), &byHand); err != nil {
		return nil, fmt.Errorf("read the mode that was set by hand: %w", err)
	}
	enforces := make(map[int]bool)
	var id uint32
	var entry bpf.DatapathInterface
	all := maps.Interfaces.Iterate()
	for all.Next(&id, &entry) {
		mode := bpf.DatapathMode(entry.Mode)
		if byHand != bpf.DatapathModeMODE_CONFIGURED {
			mode = byHand
		}
		if entry.Ifindex != 0 {
			enforces[int(entry.Ifindex)] = mode == bpf.DatapathModeMODE_ENFORCE
		}
	}
	if err := all.Err(); err != nil {
		return nil, fmt.Errorf("read the modes of the interfaces: %w", err)
	}
	return enforces, nil
}

// uses finds what this host opened from the addresses that rules select by: sockets,
// tunnels, and what the kernel tracks. What the programs note at egress are digests of tuples,
// which tell of no address; whatever sends from one has a socket or is tracked.
func (g *gatherer) uses() error {
	var sources []netip.Prefix
	for n := range g.host.Rules {
		if r := &g.host.Rules[n]; g.host.answersBySource(r) != nil {
			sources = append(sources, r.Src)
		}
	}
	if len(sources) == 0 {
		return nil
	}
	o := &openings{host: g.host, sources: sources, asked: map[Use]bool{}, begun: map[Use]bool{}, found: map[Use]bool{}}
	links, err := dump.Links(g.netlink)
	if err = errors.Join(err, o.gather()); err != nil {
		g.host.UsesError = err.Error()
	}
	o.tunnels(links)
	for u := range o.found {
		g.host.Uses = append(g.host.Uses, u)
	}
	return nil
}

// openings are what this host opened from some addresses.
type openings struct {
	host    *Host
	sources []netip.Prefix
	asked   map[Use]bool // the flow table has the peer as the one that began
	begun   map[Use]bool // tracked, with this host's side as the one that began
	found   map[Use]bool
}

func (o *openings) gather() error {
	o.flows()
	var sockets []*netlink.Socket
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		if err := o.tracked(family); err != nil {
			return err
		}
		list, err := netlink.SocketDiagTCP(family)
		if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EPROTONOSUPPORT) {
			return fmt.Errorf("list tcp sockets: %w", err)
		}
		sockets = append(sockets, list...)
	}
	o.connections(sockets)
	o.datagrams()
	return nil
}

func (o *openings) flows() {
	for n := range o.host.Flows {
		f := &o.host.Flows[n]
		self, err1 := netip.ParseAddr(f.Self)
		peer, err2 := netip.ParseAddr(f.Peer)
		protocol := map[string]uint8{"tcp": unix.IPPROTO_TCP, "udp": unix.IPPROTO_UDP}[f.Protocol]
		if errors.Join(err1, err2) == nil && protocol != 0 {
			o.asked[Use{protocol, netip.AddrPortFrom(self, f.SelfPort), netip.AddrPortFrom(peer, f.PeerPort)}] = true
		}
	}
}

// isMeant tells an address that one of the rules selects by.
func (o *openings) isMeant(a netip.Addr) bool {
	return slices.ContainsFunc(o.sources, func(p netip.Prefix) bool { return p.Contains(a) })
}

// connections finds TCP connections that were not accepted: nobody listens on their
// port, or they are tracked as this host's.
func (o *openings) connections(list []*netlink.Socket) {
	listening := map[uint16]bool{}
	for _, s := range list {
		if s.State == netlink.TCP_LISTEN {
			listening[s.ID.SourcePort] = true
		}
	}
	for _, s := range list {
		use := Use{unix.IPPROTO_TCP, endpoint(s.ID.Source, s.ID.SourcePort), endpoint(s.ID.Destination, s.ID.DestinationPort)}
		isOver := slices.Contains([]uint8{netlink.TCP_LISTEN, netlink.TCP_CLOSE, netlink.TCP_TIME_WAIT}, s.State)
		if isOver || !o.isMeant(use.Local.Addr()) || o.host.isOwn(use.Remote.Addr()) {
			continue
		}
		if o.begun[use] || !listening[use.Local.Port()] && !o.asked[use] {
			o.found[use] = true
		}
	}
}

// datagrams finds connected UDP sockets whose peer did not ask first, as far as that
// is to be seen: another socket on their port is that of a server. One that is not
// connected has a port that the kernel chose, unless it serves.
func (o *openings) datagrams() {
	serving, chosen := map[uint16]bool{}, firstChosenPort()
	for _, s := range o.host.Sockets {
		if !s.Remote.IsValid() && s.Local.Port() < chosen {
			serving[s.Local.Port()] = true
		}
	}
	for _, s := range o.host.Sockets {
		use := Use{unix.IPPROTO_UDP, s.Local, s.Remote}
		isOwn := s.Remote.IsValid() && o.host.isOwn(s.Remote.Addr())
		if o.isMeant(s.Local.Addr()) && !isOwn && !serving[s.Local.Port()] && !o.asked[use] {
			o.found[use] = true
		}
	}
	for u := range o.begun {
		if u.Protocol == unix.IPPROTO_UDP && u.Remote.IsValid() { // it is the same one
			delete(o.found, Use{unix.IPPROTO_UDP, u.Local, netip.AddrPort{}})
		}
	}
}

// tunnels finds those whose outer packets this host sends from such an address: they have no socket to be seen.
func (o *openings) tunnels(links []netlink.Link) {
	for _, link := range links {
		local, remote := tunnelEnds(link)
		from, _ := netip.AddrFromSlice(local)
		to, _ := netip.AddrFromSlice(remote)
		if from = from.Unmap(); o.isMeant(from) {
			o.found[Use{Local: netip.AddrPortFrom(from, 0), Remote: netip.AddrPortFrom(to.Unmap(), 0)}] = true
		}
	}
}

// tunnelEnds returns the outer addresses of a tunnel, nil where a device is none or leaves them to the routing table.
func tunnelEnds(link netlink.Link) (local, remote net.IP) {
	switch t := link.(type) {
	case *netlink.Gretun:
		return t.Local, t.Remote
	case *netlink.Gretap:
		return t.Local, t.Remote
	case *netlink.Iptun:
		return t.Local, t.Remote
	case *netlink.Ip6tnl:
		return t.Local, t.Remote
	case *netlink.Sittun:
		return t.Local, t.Remote
	case *netlink.Vti:
		return t.Local, t.Remote
	case *netlink.Vxlan:
		return t.SrcAddr, t.Group
	}
	return nil, nil
}

// firstChosenPort is the first of the ports that the kernel gives to sockets that ask
// for none; its default where it does not say.
func firstChosenPort() uint16 {
	text, _ := hostsettings.Read("net.ipv4.ip_local_port_range")
	first, _, _ := strings.Cut(text, "\t")
	if port, err := strconv.ParseUint(first, 10, 16); err == nil {
		return uint16(port)
	}
	return 32768
}

// trackingCount is there in a network namespace once the kernel tracks connections. It
// is not asked before: that alone would load the module.
const trackingCount = "/proc/sys/net/netfilter/nf_conntrack_count"

// tracked reads what the kernel tracks. Of a connection of this host's own by TCP that
// is over its socket is gone; without one, it only says who began.
func (o *openings) tracked(family uint8) error {
	if _, err := os.Stat(trackingCount); err != nil {
		return nil
	}
	request := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_CTNETLINK<<8|nl.IPCTNL_MSG_CT_GET, unix.NLM_F_DUMP)
	request.AddData(&nl.Nfgenmsg{NfgenFamily: family})
	err := request.ExecuteIter(unix.NETLINK_NETFILTER, 0, func(message []byte) bool {
		walkAttributes(message[nl.SizeofNfgenmsg:], nl.CTA_TUPLE_ORIG, func(tuple []byte) { o.track(readTuple(tuple)) })
		return true
	})
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EINVAL) {
		return nil // a kernel without ctnetlink
	}
	if err != nil {
		return fmt.Errorf("list tracked connections: %w", err)
	}
	return nil
}

func (o *openings) track(u Use) {
	if !o.isMeant(u.Local.Addr()) || o.host.isOwn(u.Remote.Addr()) {
		return
	}
	o.begun[u] = true
	if u.Protocol != unix.IPPROTO_TCP || !o.host.isOwn(u.Local.Addr()) {
		o.found[u] = true
	}
}

// Attributes of a tuple (linux/netfilter/nfnetlink_conntrack.h): numbers of ports are
// in network byte order.
const (
	ctaIPv6Dst      = 4
	ctaProtoNumber  = 1
	ctaProtoSrcPort = 2
	ctaProtoDstPort = 3
)

// readTuple reads the direction in which a tracked connection began.
func readTuple(tuple []byte) Use {
	var u Use
	var source, destination netip.Addr
	var sourcePort, destinationPort uint16
	walkAttributes(tuple, nl.CTA_TUPLE_IP, func(ip []byte) {
		for _, kind := range []uint16{nl.CTA_IP_V4_SRC, nl.CTA_IP_V6_SRC} {
			walkAttributes(ip, kind, func(a []byte) { source, _ = netip.AddrFromSlice(a) })
		}
		for _, kind := range []uint16{nl.CTA_IP_V4_DST, ctaIPv6Dst} {
			walkAttributes(ip, kind, func(a []byte) { destination, _ = netip.AddrFromSlice(a) })
		}
	})
	port := func(to *uint16) func([]byte) {
		return func(value []byte) {
			if len(value) >= 2 {
				*to = uint16(value[0])<<8 | uint16(value[1])
			}
		}
	}
	walkAttributes(tuple, nl.CTA_TUPLE_PROTO, func(proto []byte) {
		walkAttributes(proto, ctaProtoNumber, func(value []byte) {
			if len(value) > 0 {
				u.Protocol = value[0]
			}
		})
		walkAttributes(proto, ctaProtoSrcPort, port(&sourcePort))
		walkAttributes(proto, ctaProtoDstPort, port(&destinationPort))
	})
	u.Local, u.Remote = netip.AddrPortFrom(source, sourcePort), netip.AddrPortFrom(destination, destinationPort)
	return u
}
