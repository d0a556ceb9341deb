// SPDX-License-Identifier: Apache-2.0

package gather

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"replypath/loader/discover"
	"replypath/loader/discover/dump"
	"replypath/loader/doctor/snapshot"
	"replypath/loader/hostsettings"
	"replypath/loader/kernelroute"
	"replypath/loader/nexthop"
)

// devices looks at every interface.
func devices(handle *netlink.Handle, links []netlink.Link, h *snapshot.Host) error {
	addresses, err := dump.Addresses(handle)
	if err != nil {
		return err
	}
	for _, link := range links {
		attrs := link.Attrs()
		d := snapshot.Device{
			Index: attrs.Index, Name: attrs.Name, AltNames: attrs.AltNames, MAC: attrs.HardwareAddr,
			Down: attrs.RawFlags&unix.IFF_UP == 0, XDP: attrs.Xdp != nil && attrs.Xdp.Attached,
		}
		for _, a := range addresses {
			if a.LinkIndex == attrs.Index {
				d.Addresses = append(d.Addresses, dump.Prefix(a.IPNet))
			}
		}
		if vrf, is := link.(*netlink.Vrf); is {
			d.VRFTable = int(vrf.Table)
		}
		h.Devices = append(h.Devices, d)
	}
	return nil
}

// routes keeps the few that a check asks for, of perhaps a million.
func routes(handle *netlink.Handle, h *snapshot.Host) (err error) {
	var seeing sync.Mutex // both families are read at once
	h.Tables = make(map[snapshot.TableOf]bool)
	h.Routes, err = dump.Routes(func(r *dump.Route, add func(snapshot.Route)) {
		seeing.Lock()
		h.Tables[snapshot.TableOf{Family: r.Family, Table: r.Table}] = true
		seeing.Unlock()
		isForBound := r.Protocol == discover.OwnProtocol && uint32(r.Metric) == discover.BoundMetric
		if r.Table == unix.RT_TABLE_LOCAL || isForBound { // of replypath's own, which nobody takes whose socket is not bound
			return
		}
		if len(r.Hops) == 0 {
			r.Hops = []dump.Hop{{}}
		}
		for _, hop := range r.Hops {
			route := snapshot.Route{
				Family: r.Family, Type: r.Type, Table: r.Table, Metric: r.Metric, Protocol: r.Protocol,
				Dst: r.Dst, Device: hop.Interface, Gateway: hop.Gateway, Limits: r.Limits,
			}
			if isOfInterest(&h.Links, &route) {
				add(route)
			}
		}
	})
	slices.SortFunc(h.Routes, func(a, b snapshot.Route) int {
		return cmp.Or(cmp.Compare(a.Family, b.Family), cmp.Compare(a.Table, b.Table), cmp.Compare(a.Dst.String(), b.Dst.String()),
			cmp.Compare(a.Metric, b.Metric), cmp.Compare(a.Device, b.Device), a.Gateway.Compare(b.Gateway))
	})
	return err
}

// isOfInterest leaves out the entry that the kernel itself holds for a family
// without a default route.
func isOfInterest(host *snapshot.Links, r *snapshot.Route) bool {
	switch {
	case r.Refuses():
		return r.Protocol != unix.RTPROT_KERNEL
	case !r.IsUnicast():
		return false
	}
	return r.IsDefault() || r.Gateway.IsValid() && host.IsOwn(r.Gateway) ||
		r.IsStatic() && host.Managed(r.Device) != nil || r.Limits != dump.Limits{} && r.Table != unix.RT_TABLE_MAIN && host.Managed(r.Device) != nil
}

// rules reads the rules of both families.
func rules(handle *netlink.Handle, h *snapshot.Host) error {
	list, err := dump.Rules(handle)
	for _, r := range list {
		h.Rules = append(h.Rules, newRule(&r))
	}
	return err
}

var ruleRefusals = map[uint8]string{
	nl.FR_ACT_BLACKHOLE: "blackhole", nl.FR_ACT_UNREACHABLE: "unreachable", nl.FR_ACT_PROHIBIT: "prohibit",
}

func newRule(r *dump.Rule) snapshot.Rule {
	rule := snapshot.Rule{
		Family: r.Family, Priority: r.Priority, Table: r.Table, Src: dump.Prefix(r.Src), Dst: dump.Prefix(r.Dst),
		Mark: r.Mark, IIF: r.IifName, OIF: r.OifName, Invert: r.Invert, Refuses: ruleRefusals[r.Action],
		Protocol: int(r.Protocol), SuppressesDefault: r.SuppressPrefixlen == 0,
		Other: r.IsNarrow(),
	}
	if r.Mask != nil {
		rule.Mask = *r.Mask
	}
	return rule
}

// neighbours reads the neighbour tables.
func neighbours(handle *netlink.Handle, h *snapshot.Host) error {
	list, err := dump.Neighbours(handle)
	for _, n := range list {
		h.Neighbours = append(h.Neighbours, snapshot.Neighbour{
			Interface: n.LinkIndex, Address: dump.Address(n.IP), MAC: n.HardwareAddr, Router: n.Flags&netlink.NTF_ROUTER != 0,
		})
	}
	return err
}

// settings reads the sysctls of the managed interfaces, and of "all".
func settings(h *snapshot.Host) error {
	h.Settings, h.RPFilterDrops = snapshot.Settings{}, hostsettings.RPFilterDrops()
	names := []string{"all"}
	for _, i := range slices.Concat(h.Carriers(), h.Interfaces, h.Guests) {
		names = append(names, i.Name)
	}
	for family, leaves := range snapshot.Leaves {
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
				h.Settings[key] = value
			}
		}
	}
	return nil
}

const (
	// probeTime is enough for a gateway that was asked to answer, or not: three
	// requests, one a second by default (ucast_solicit, mcast_solicit).
	probeTime = 4 * time.Second
	// probePoll is how often it is looked whether they have answered.
	probePoll = 50 * time.Millisecond
)

// gateways finds the gateways and asks those that are not known to answer.
func (g *gatherer) gateways() (err error) {
	g.host.Gateways, err = nexthop.Gateways(g.netlink, g.host.Interfaces)
	if err != nil || g.Quiet {
		return err
	}
	until := time.Now().Add(probeTime)
	if err := ask(g.netlink, g.host.Gateways); err != nil {
		return err
	}
	g.host.Asked = true
	for {
		g.host.Gateways, err = nexthop.Gateways(g.netlink, g.host.Interfaces)
		if err != nil || !slices.ContainsFunc(g.host.Gateways, g.isAwaited) || time.Now().After(until) {
			return err
		}
		time.Sleep(probePoll)
	}
}

// isAwaited tells whether the kernel is finding out about a gateway.
func (g *gatherer) isAwaited(gateway nexthop.Gateway) bool {
	switch gateway.State {
	case nexthop.StateNone, nexthop.StateIncomplete, nexthop.StateDelay, nexthop.StateProbe:
		i := g.host.Managed(gateway.Interface)
		return i != nil && i.Up
	}
	return false
}

// ask has the kernel find out about every gateway that has not answered lately.
// One that is stale is probed at once, which does not keep packets from using it.
func ask(handle *netlink.Handle, gateways []nexthop.Gateway) error {
	for _, gateway := range gateways {
		var err error
		switch gateway.State {
		case nexthop.StateNone, nexthop.StateFailed:
			err = nexthop.Resolve(handle, gateway)
		case nexthop.StateStale, nexthop.StateDelay:
			err = handle.NeighSet(&netlink.Neigh{
				LinkIndex: gateway.Interface, IP: gateway.Address.AsSlice(), State: netlink.NUD_PROBE,
			})
		}
		if err != nil && !errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.ENETDOWN) {
			return fmt.Errorf("ask gateway %s: %w", gateway.Address, err)
		}
	}
	return nil
}

// ownWays asks by which device the kernel sends replies from each own address. Those of VRFs have tables of their own.
func ownWays(h *snapshot.Host) error {
	for _, i := range h.Interfaces {
		if i.VRF != 0 || !i.Up {
			continue
		}
		for _, address := range i.Addresses {
			self := address.Addr()
			route, err := kernelroute.Ask(kernelroute.Packet{Peer: netip.AddrPortFrom(kernelroute.Beyond[self.Is4()], 0), Self: netip.AddrPortFrom(self, 0)})
			if err != nil {
				return err
			}
			way := snapshot.OwnWay{Address: address, On: i.Name, By: h.DeviceName(route.Device), Device: route.Device}
			// A missing route is ENETUNREACH (fib_props in net/ipv4/fib_semantics.c, ip6_rt_type_to_error in net/ipv6/route.c), and so
			// is a rule that says so.
			way.Refused = route.Err != nil && (!errors.Is(route.Err, unix.ENETUNREACH) || slices.ContainsFunc(h.Rules, func(r snapshot.Rule) bool {
				return r.Family == snapshot.FamilyOf(address) && r.Refuses != "" && r.MayMatch(netip.PrefixFrom(self, self.BitLen()))
			}))
			h.OwnWays = append(h.OwnWays, way)
		}
	}
	return nil
}
