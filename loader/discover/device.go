// SPDX-License-Identifier: Apache-2.0

package discover

import (
	"cmp"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"replypath/loader/config"
	"replypath/loader/discover/dump"
)

// device is an interface with what decides whether it is managed.
type device struct {
	link      netlink.Link
	addresses []netip.Prefix // global unicast
	before    *Interface     // as what it was managed; nil if it was not
	leads     bool           // routes lead out of it
}

// devices are the interfaces of a network namespace.
type devices struct {
	list    []*device // by index
	byIndex map[int]*device
}

func newDevices(links []netlink.Link, addresses []netlink.Addr) *devices {
	ds := &devices{byIndex: map[int]*device{}}
	for _, link := range links {
		d := &device{link: link}
		ds.byIndex[link.Attrs().Index] = d
		ds.list = append(ds.list, d)
	}
	slices.SortFunc(ds.list, func(a, b *device) int {
		return cmp.Compare(a.link.Attrs().Index, b.link.Attrs().Index)
	})
	for i := range addresses {
		address := dump.Prefix(addresses[i].IPNet)
		if d := ds.byIndex[addresses[i].LinkIndex]; d != nil && address.Addr().IsGlobalUnicast() {
			d.addresses = append(d.addresses, address)
		}
	}
	return ds
}

func (d *device) name() string { return d.link.Attrs().Name }

// describe says what is known of a device.
func (d *device) describe() Interface {
	attrs := d.link.Attrs()
	i := Interface{
		Index:     attrs.Index,
		Name:      attrs.Name,
		AltNames:  attrs.AltNames,
		NoARP:     attrs.RawFlags&unix.IFF_NOARP != 0 || !hasEthernetHeader(d.link),
		Addresses: d.addresses,
		Settings:  config.Interface{Name: attrs.Name},
	}
	i.Refresh(d.link)
	return i
}

// managed describes a device that has been chosen.
func (ds *devices) managed(d *device, settings *config.Interface, cfg *config.Config) Interface {
	i := d.describe()
	if i.Named = settings != nil; i.Named {
		i.Settings = *settings
	}
	i.Guest = ds.guests(d) >= 0 && !d.hasLed()
	i.OwnOnly = !i.Named && (i.Guest || d.isTunnel() || d.isUplink() && !d.hasLed())
	i.Settings.Mode = cmp.Or(i.Settings.Mode, cfg.Mode)
	i.Settings.HostModel = cmp.Or(i.Settings.HostModel, cfg.HostModel)
	i.Settings.NextHop = cmp.Or(i.Settings.NextHop, config.NextHopAuto)
	return i
}

// Refresh brings up to date what a link says of its own accord: MAC, MTU and
// whether it is up. link has to be the interface's.
func (i *Interface) Refresh(link netlink.Link) {
	attrs := link.Attrs()
	i.MTU = attrs.MTU
	i.VRF = attrs.MasterIndex // ports of anything else are not managed
	i.Group = int(attrs.Group)
	i.Lower = lower(link)
	i.Up = IsUp(link)
	i.MAC = nil
	if hasEthernetHeader(link) {
		i.MAC = slices.Clone(attrs.HardwareAddr)
	}
}

// IsUp tells whether a link is administratively up and has a carrier.
func IsUp(link netlink.Link) bool {
	const up = unix.IFF_UP | unix.IFF_LOWER_UP
	return link.Attrs().RawFlags&up == up
}

func (d *device) isLoopback() bool { return d.link.Attrs().Flags&net.FlagLoopback != 0 }

// leadsNowhere tells the devices that do no more than hold addresses: lo and
// dummies.
func (ds *devices) leadsNowhere(index int) bool {
	d := ds.byIndex[index]
	return d != nil && (d.isLoopback() || d.link.Type() == "dummy")
}

// hasEthernetHeader tells whether frames on a link begin with one.
func hasEthernetHeader(link netlink.Link) bool { return link.Attrs().EncapType == "ether" }

// hasNoHeader tells the devices whose frames begin with the IP header. The
// names are those that the netlink library gives to ARPHRD_*; the ones that it
// does not know are numbered.
func (d *device) hasNoHeader() bool {
	switch d.link.Attrs().EncapType {
	case "none", // tun, WireGuard, xfrm
		"ppp", "ipip", "tunnel6", "sit", "gre",
		"unknown519", // ARPHRD_RAWIP, cellular modems
		"unknown823": // ARPHRD_IP6GRE
		return true
	}
	return false
}

// tunnels are the kinds of those whose frames have an Ethernet header, with what the netlink library calls them.
var tunnels = []string{"gretap", "ip6gretap", "erspan", "ip6erspan", "vxlan", "geneve", "bareudp", "l2tp"}

// isTunnel tells the devices by which requests may come that have been on their way to another one: replies then belong
// to either.
func (d *device) isTunnel() bool {
	return slices.Contains(tunnels, d.link.Type()) || d.hasNoHeader() && !d.isUplink()
}

// isUplink tells PPP and modems, which connect a host with a network and have no Ethernet header: by the type or kind of the
// device (a modem may have no kind), or by the name that their daemons give to one that is made otherwise.
func (d *device) isUplink() bool {
	is := func(name string, prefix ...string) bool {
		return slices.ContainsFunc(prefix, func(p string) bool { return strings.HasPrefix(name, p) })
	}
	return d.hasNoHeader() && (is(d.link.Attrs().EncapType, "ppp", "unknown519") ||
		is(d.link.Type(), "device", "rmnet", "wwan") || d.link.Type() == "tuntap" && is(d.name(), "ppp", "wwan"))
}

// hasLed tells whether routes lead out of a device, or did while it was managed: what failed with a route is served on.
func (d *device) hasLed() bool {
	return d.leads || d.before != nil && !d.before.Named && !d.before.OwnOnly
}

// lower is the index of the device of this namespace that passes on the frames of
// a link as they are; 0 for none. A VLAN's have a tag there, a tunnel's are inside
// of others.
func lower(link netlink.Link) int {
	attrs := link.Attrs()
	switch link.Type() {
	case "macvlan", "macvtap", "ipvlan", "ipvtap":
		if attrs.NetNsID < 0 {
			return attrs.ParentIndex
		}
	}
	return 0
}
