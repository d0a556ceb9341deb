// SPDX-License-Identifier: Apache-2.0

package gather

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"replypath/loader/discover"
	"replypath/loader/discover/dump"
	"replypath/loader/doctor/snapshot"
	"replypath/loader/hostsettings"
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
			VRF:  isVRF(links, attrs.MasterIndex),
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

func isVRF(links []netlink.Link, index int) bool {
	return index != 0 && slices.ContainsFunc(links, func(l netlink.Link) bool {
		return l.Attrs().Index == index && l.Type() == "vrf"
	})
}

// offloaded lists the devices that IPsec packets are offloaded to.
func offloaded(h *snapshot.Host) error {
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
			index, ok := packetOffload(a.Attr.Type, a.Value)
			if name := h.DeviceName(index); ok && name != "" && !slices.Contains(h.Offloaded, name) {
				h.Offloaded = append(h.Offloaded, name)
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

// routes keeps the few that a check asks for, of perhaps a million.
func routes(handle *netlink.Handle, h *snapshot.Host) (err error) {
	h.Routes, err = dump.Routes(func(r *dump.Route, add func(snapshot.Route)) {
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
	case r.Type == unix.RTN_LOCAL:
		return r.IsDefault()
	case !r.IsUnicast():
		return false
	}
	return r.LeadsEverywhere() || r.Gateway.IsValid() && host.IsOwn(r.Gateway) || !r.Gateway.IsValid() && r.LeadsFar() ||
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

// neighbours reads the neighbour tables and their limits.
func neighbours(handle *netlink.Handle, h *snapshot.Host) error {
	list, err := dump.Neighbours(handle)
	for _, n := range list {
		h.Neighbours = append(h.Neighbours, snapshot.Neighbour{
			Interface: n.LinkIndex, Address: dump.Address(n.IP), MAC: n.HardwareAddr, Router: n.Flags&netlink.NTF_ROUTER != 0,
			// neigh_alloc() of net/core/neighbour.c exempts these.
			Counted: n.State&netlink.NUD_PERMANENT == 0 && n.Flags&netlink.NTF_EXT_LEARNED == 0,
		})
	}
	h.NeighTables = map[int]snapshot.NeighTable{}
	for family, statistics := range map[int]string{unix.AF_INET: "arp_cache", unix.AF_INET6: "ndisc_cache"} {
		prefix := "net." + snapshot.FamilyName[family] + ".neigh.default.gc_thresh"
		thresh2, err2 := hostsettings.ReadNumber(prefix + "2")
		thresh3, err3 := hostsettings.ReadNumber(prefix + "3")
		if errors.Join(err2, err3) != nil {
			continue // not in this namespace
		}
		text, _ := os.ReadFile("/proc/thread-self/net/stat/" + statistics) // not every kernel shows it
		fulls := sumColumn(string(text), "table_fulls")
		h.NeighTables[family] = snapshot.NeighTable{Thresh2: thresh2, Thresh3: thresh3, Fulls: fulls}
	}
	return err
}

// sumColumn sums a column such as table_fulls of /proc/net/stat/arp_cache, of which
// there is a line for each processor, in hexadecimal; 0 where it is not shown.
func sumColumn(text, column string) uint64 {
	lines := strings.Split(text, "\n")
	place := slices.Index(strings.Fields(lines[0]), column)
	var sum uint64
	for _, line := range lines[1:] {
		if words := strings.Fields(line); place >= 0 && place < len(words) {
			value, _ := strconv.ParseUint(words[place], 16, 64)
			sum += value
		}
	}
	return sum
}

// settings reads the sysctls of the managed interfaces, and of "all".
func settings(h *snapshot.Host) error {
	h.Settings, h.RPFilterDrops = snapshot.Settings{}, hostsettings.RPFilterDrops()
	names := []string{"all"}
	for _, i := range append(h.Carriers(), h.Interfaces...) {
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
