package doctor

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/safchain/ethtool"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"replypath/loader/discover"
	"replypath/loader/discover/dump"
	"replypath/loader/hostsettings"
	"replypath/loader/nexthop"
)

// devices looks at every interface.
func (g *gatherer) devices() error {
	addresses, err := dump.Addresses(g.netlink)
	if err != nil {
		return err
	}
	tool, err := ethtool.NewEthtool()
	if err != nil {
		return fmt.Errorf("open a socket for ethtool: %w", err)
	}
	defer tool.Close()
	for _, link := range g.links {
		attrs := link.Attrs()
		d := Device{
			Index: attrs.Index, Name: attrs.Name, AltNames: attrs.AltNames, MAC: attrs.HardwareAddr, VFs: len(attrs.Vfs), VRF: g.isVRF(attrs.MasterIndex),
			Down: attrs.RawFlags&unix.IFF_UP == 0, XDP: attrs.Xdp != nil && attrs.Xdp.Attached,
		}
		for _, a := range addresses {
			if a.LinkIndex == attrs.Index {
				d.Addresses = append(d.Addresses, dump.Prefix(a.IPNet))
			}
		}
		// What a driver does not tell is not known.
		d.Features, _ = tool.Features(attrs.Name)
		g.host.Devices = append(g.host.Devices, d)
	}
	return nil
}

func (g *gatherer) isVRF(index int) bool {
	return index != 0 && slices.ContainsFunc(g.links, func(l netlink.Link) bool {
		return l.Attrs().Index == index && l.Type() == "vrf"
	})
}

// routes keeps the few that a check asks for, of perhaps a million.
func (g *gatherer) routes() error {
	found, err := dump.Routes(g.netlink, func(r dump.Route, add func(Route)) {
		isForBound := r.Protocol == discover.OwnProtocol && uint32(r.Metric) == discover.BoundMetric
		if r.Table == unix.RT_TABLE_LOCAL || isForBound { // of replypath's own, which nobody takes whose socket is not bound
			return
		}
		if len(r.Hops) == 0 {
			r.Hops = []dump.Hop{{}}
		}
		for _, hop := range r.Hops {
			route := Route{
				Family: r.Family, Type: r.Type, Table: r.Table, Metric: r.Metric, Protocol: r.Protocol,
				Dst: r.Dst, Device: hop.Interface, Gateway: hop.Gateway,
			}
			if g.isOfInterest(&route) {
				add(route)
			}
		}
	})
	slices.SortFunc(found, func(a, b Route) int {
		return cmp.Or(cmp.Compare(a.Family, b.Family), cmp.Compare(a.Table, b.Table), cmp.Compare(a.Dst.String(), b.Dst.String()),
			cmp.Compare(a.Metric, b.Metric), cmp.Compare(a.Device, b.Device), a.Gateway.Compare(b.Gateway))
	})
	g.host.Routes = found
	return err
}

// isOfInterest leaves out the entry that the kernel itself holds for a family
// without a default route.
func (g *gatherer) isOfInterest(r *Route) bool {
	switch {
	case r.refuses():
		return r.Protocol != unix.RTPROT_KERNEL
	case !r.isUnicast():
		return false
	}
	return isDefault(r.Dst) || r.Gateway.IsValid() && g.host.isOwn(r.Gateway) || !r.Gateway.IsValid() && leadsFar(r.Dst)
}

// rules reads the rules of both families.
func (g *gatherer) rules() error {
	rules, err := dump.Rules(g.netlink)
	for n := range rules {
		r := newRule(&rules[n].Rule)
		r.Refuses = ruleRefusals[rules[n].Action]
		g.host.Rules = append(g.host.Rules, r)
	}
	return err
}

var ruleRefusals = map[uint8]string{
	nl.FR_ACT_BLACKHOLE: "blackhole", nl.FR_ACT_UNREACHABLE: "unreachable", nl.FR_ACT_PROHIBIT: "prohibit",
}

func newRule(r *netlink.Rule) Rule {
	rule := Rule{
		Family: r.Family, Priority: r.Priority, Table: r.Table, Src: dump.Prefix(r.Src), Dst: dump.Prefix(r.Dst),
		Mark: r.Mark, IIF: r.IifName, OIF: r.OifName, Invert: r.Invert,
		Protocol: int(r.Protocol), SuppressesDefault: r.SuppressPrefixlen == 0,
		Other: r.Tos != 0 || r.Dport != nil || r.Sport != nil || r.IPProto != 0 || r.UIDRange != nil || r.TunID != 0 ||
			r.SuppressPrefixlen >= 0 || r.SuppressIfgroup >= 0 || r.Goto >= 0,
	}
	if r.Mask != nil {
		rule.Mask = *r.Mask
	}
	return rule
}

// neighbours reads the neighbour tables and their limits.
func (g *gatherer) neighbours() error {
	list, err := dump.Neighbours(g.netlink)
	if err != nil {
		return err
	}
	for i := range list {
		n := &list[i]
		g.host.Neighbours = append(g.host.Neighbours, Neighbour{
			Interface: n.LinkIndex, Address: dump.Address(n.IP), MAC: n.HardwareAddr,
			// neigh_alloc() of net/core/neighbour.c exempts these.
			Counted: n.State&netlink.NUD_PERMANENT == 0 && n.Flags&netlink.NTF_EXT_LEARNED == 0,
		})
	}
	g.host.NeighTables = make(map[int]NeighTable)
	for family, statistics := range map[int]string{unix.AF_INET: "arp_cache", unix.AF_INET6: "ndisc_cache"} {
		prefix := "net." + familyName(family) + ".neigh.default.gc_thresh"
		thresh2, err2 := hostsettings.ReadNumber(prefix + "2")
		thresh3, err3 := hostsettings.ReadNumber(prefix + "3")
		if errors.Join(err2, err3) != nil {
			continue // not in this namespace
		}
		g.host.NeighTables[family] = NeighTable{thresh2, thresh3, tableFulls(statistics)}
	}
	return nil
}

// probeTime is enough for a gateway that was asked to answer, or not: three
// requests, one a second by default (ucast_solicit, mcast_solicit).
const probeTime = 4 * time.Second

// gateways finds the gateways and asks those that are not known to answer.
func (g *gatherer) gateways() error {
	ctx, cancel := context.WithTimeout(context.Background(), probeTime)
	defer cancel()
	events, err := nexthop.Watch(ctx)
	if err != nil {
		return err
	}
	defer func() {
		cancel()
		for range events { // until its socket is closed
		}
	}()
	if err := g.readGateways(); err != nil {
		return err
	}
	if err := g.ask(); err != nil {
		return err
	}
	for {
		if err := g.readGateways(); err != nil {
			return err
		}
		if !slices.ContainsFunc(g.host.Gateways, g.isAwaited) {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case _, ok := <-events:
			if !ok {
				return nil
			}
		}
	}
}

func (g *gatherer) readGateways() (err error) {
	g.host.Gateways, err = nexthop.Gateways(g.netlink, g.host.Interfaces)
	return err
}

// isAwaited tells whether the kernel is finding out about a gateway.
func (g *gatherer) isAwaited(gateway nexthop.Gateway) bool {
	switch gateway.State {
	case nexthop.StateNone, nexthop.StateIncomplete, nexthop.StateDelay, nexthop.StateProbe:
		i := g.host.managed(gateway.Interface)
		return i != nil && i.Up
	}
	return false
}

// ask has the kernel find out about every gateway that has not answered lately.
// One that is stale is probed at once, which does not keep packets from using it.
func (g *gatherer) ask() error {
	for _, gateway := range g.host.Gateways {
		var err error
		switch gateway.State {
		case nexthop.StateNone, nexthop.StateFailed:
			err = nexthop.Resolve(g.netlink, gateway)
		case nexthop.StateStale, nexthop.StateDelay:
			err = g.netlink.NeighSet(&netlink.Neigh{
				LinkIndex: gateway.Interface, IP: gateway.Address.AsSlice(), State: netlink.NUD_PROBE,
			})
		}
		if err != nil && !errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.ENETDOWN) {
			return fmt.Errorf("ask gateway %s: %w", gateway.Address, err)
		}
	}
	return nil
}

// leaves are the settings of interfaces that checks ask for.
var leaves = map[string][]string{
	"ipv4": {"rp_filter", "arp_ignore", "arp_announce", "accept_local", "accept_redirects", "send_redirects", "forwarding"},
	"ipv6": {"accept_redirects", "forwarding"},
}

// settings reads the sysctls of the managed interfaces, and of "all".
func (g *gatherer) settings() error {
	g.host.Settings = make(map[string]int)
	names := []string{"all"}
	for _, i := range append(g.host.carriers(), g.host.Interfaces...) {
		names = append(names, i.Name)
	}
	for family, leaves := range leaves {
		for _, name := range names {
			for _, leaf := range leaves {
				key := hostsettings.Key(family, name, leaf)
				value, err := hostsettings.ReadNumber(key)
				if errors.Is(err, fs.ErrNotExist) {
					continue
				}
				if err != nil {
					return err
				}
				g.host.Settings[key] = value
			}
		}
	}
	return nil
}

// offloads lists the devices that IPsec packets are offloaded to.
func (g *gatherer) offloads() error {
	request := nl.NewNetlinkRequest(nl.XFRM_MSG_GETSA, unix.NLM_F_DUMP)
	messages, err := request.Execute(unix.NETLINK_XFRM, nl.XFRM_MSG_NEWSA)
	if errors.Is(err, unix.EPROTONOSUPPORT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list ipsec states: %w", err)
	}
	for _, m := range messages {
		attributes, err := nl.ParseRouteAttr(m[nl.SizeofXfrmUsersaInfo:])
		if err != nil {
			return fmt.Errorf("read an ipsec state: %w", err)
		}
		for _, a := range attributes {
			if index, ok := packetOffload(a.Attr.Type, a.Value); ok {
				if name := g.host.deviceName(index); !slices.Contains(g.host.Offloaded, name) {
					g.host.Offloaded = append(g.host.Offloaded, name)
				}
			}
		}
	}
	return nil
}

// packetOffload reads struct xfrm_user_offload of linux/xfrm.h: an ifindex and
// flags, in native byte order.
func packetOffload(attribute uint16, value []byte) (device int, ok bool) {
	const (
		xfrmaOffloadDev   = 28
		xfrmOffloadPacket = 4
	)
	if attribute != xfrmaOffloadDev || len(value) < 5 || value[4]&xfrmOffloadPacket == 0 {
		return 0, false
	}
	return int(binary.NativeEndian.Uint32(value)), true
}
