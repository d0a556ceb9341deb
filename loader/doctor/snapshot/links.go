// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"bytes"
	"cmp"
	"net"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"replypath/loader/discover"
	"replypath/loader/nexthop"
)

// Links are the interfaces and their addresses.
type Links struct {
	// Interfaces are those that are managed, or would be, but Guests.
	discover.Result
	Guests  []discover.Interface // bridges with a single guest that nobody named
	Devices []Device             // every interface, managed or not
}

// Device is an interface with what may matter for the datapath.
type Device struct {
	Index     int
	Name      string
	AltNames  []string
	MAC       net.HardwareAddr
	Addresses []netip.Prefix // host bits kept
	VRFTable  int            // of a VRF itself; 0 for others
	Down      bool           // administratively
	XDP       bool           // a program sees its frames first
}

// Managed returns a managed interface by its index, nil for others.
func (l *Links) Managed(index int) *discover.Interface {
	return find(l.Interfaces, func(i *discover.Interface) bool { return i.Index == index })
}

// Sees tells whether a program of ours sees what leaves by an interface: one that is managed or caught.
func (l *Links) Sees(name string) bool {
	isIt := func(i *discover.Interface) bool { return i.Name == name }
	return l.Named(name) != nil || l.Catches(name) || find(l.Guests, isIt) != nil
}

// Catches tells whether replies that leave by an interface, which is not managed, are caught.
func (l *Links) Catches(name string) bool {
	return find(l.Caught, func(i *discover.Interface) bool { return i.Name == name }) != nil
}

// HasOwnDevice tells whether replypath's own device is there.
func (l *Links) HasOwnDevice() bool {
	return find(l.Devices, func(d *Device) bool { return d.Name == discover.OwnDevice }) != nil
}

// Named returns a managed interface by its name, nil for others.
func (l *Links) Named(name string) *discover.Interface {
	return find(l.Interfaces, func(i *discover.Interface) bool { return i.Name == name })
}

// Device returns any interface by its index, and an empty one where it is not there.
func (l *Links) Device(index int) *Device {
	return cmp.Or(find(l.Devices, func(d *Device) bool { return d.Index == index }), &Device{})
}

// find returns the first that is meant, nil for none.
func find[T any](list []T, isMeant func(*T) bool) *T {
	for n := range list {
		if isMeant(&list[n]) {
			return &list[n]
		}
	}
	return nil
}

// DeviceName is empty for an interface that is not there.
func (l *Links) DeviceName(index int) string { return l.Device(index).Name }

// IsOwn tells whether an address is this host's.
func (l *Links) IsOwn(a netip.Addr) bool {
	return slices.ContainsFunc(l.Own, func(o discover.OwnAddress) bool { return o.Address == a })
}

// IsOnLink tells whether a network of a managed interface holds an address.
func (l *Links) IsOnLink(index int, a netip.Addr) bool {
	return slices.ContainsFunc(l.OnLink, func(o discover.OnLink) bool { return o.Interface == index && o.Prefix.Contains(a) })
}

// HasFamily tells whether the managed interfaces have addresses of a family.
func (l *Links) HasFamily(family int) bool {
	return slices.ContainsFunc(l.Interfaces, func(i discover.Interface) bool { return HasFamily(&i, family) })
}

// HasFamily tells whether an interface has addresses of a family.
func HasFamily(i *discover.Interface, family int) bool {
	return slices.ContainsFunc(i.Addresses, func(p netip.Prefix) bool { return FamilyOf(p) == family })
}

// FamilyOf is that of a prefix.
func FamilyOf(p netip.Prefix) int {
	if p.Addr().Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// Concerns tells whether something that is limited to some interfaces, which may be
// nf_tables' "eth*", is about a managed one. Without a limit it is.
func (l *Links) Concerns(patterns []string) bool {
	return len(patterns) == 0 || slices.ContainsFunc(patterns, func(pattern string) bool {
		prefix, isPattern := strings.CutSuffix(pattern, "*")
		return slices.ContainsFunc(l.Interfaces, func(i discover.Interface) bool {
			return i.Name == pattern || isPattern && strings.HasPrefix(i.Name, prefix)
		})
	})
}

// HolderOf returns the managed interface that a source is of: one of its
// addresses, or its network.
func (l *Links) HolderOf(src netip.Prefix) *discover.Interface {
	if !src.IsValid() {
		return nil
	}
	isOf := func(p netip.Prefix) bool {
		return src.IsSingleIP() && src.Addr() == p.Addr() || !src.IsSingleIP() && src.Masked() == p.Masked()
	}
	return find(l.Interfaces, func(i *discover.Interface) bool { return slices.ContainsFunc(i.Addresses, isOf) })
}

// Carriers are the devices below managed macvlans that are not managed themselves:
// a question for the macvlan's address that they answer for comes in by them.
func (l *Links) Carriers() []discover.Interface {
	var found []discover.Interface
	for _, d := range l.Devices {
		above := func(i discover.Interface) bool { return l.Carries(d.Index, i.Index) }
		if l.Managed(d.Index) == nil && slices.ContainsFunc(l.Interfaces, above) {
			found = append(found, discover.Interface{Index: d.Index, Name: d.Name, Addresses: d.Addresses})
		}
	}
	return found
}

// Carries tells whether a managed device stands on another and has a MAC of its
// own, as a macvlan has and an ipvlan has not.
func (l *Links) Carries(lower, upper int) bool {
	i, d := l.Managed(upper), l.Device(lower)
	return i != nil && d.Index == lower && i.Lower == lower && !bytes.Equal(i.MAC, d.MAC)
}

// Neighbourhood is who is on the networks of the host.
type Neighbourhood struct {
	Asked      bool // the gateways were, and had the time to answer
	Gateways   []nexthop.Gateway
	Neighbours []Neighbour
}

// Neighbour is an entry of the kernel's neighbour tables.
type Neighbour struct {
	Interface int
	Address   netip.Addr
	MAC       net.HardwareAddr
	Router    bool // it has said so by neighbour discovery
}

// OwnersOfMACs returns whose MAC each is by the neighbour table.
func (b *Neighbourhood) OwnersOfMACs(device int) map[string][]netip.Addr {
	owners := map[string][]netip.Addr{}
	for _, n := range b.Neighbours {
		if n.Interface == device && len(n.MAC) == 6 {
			owners[n.MAC.String()] = append(owners[n.MAC.String()], n.Address)
		}
	}
	return owners
}

// HasGateway tells whether a gateway is known on an interface.
func (b *Neighbourhood) HasGateway(device int) bool {
	return slices.ContainsFunc(b.Gateways, func(g nexthop.Gateway) bool { return g.Interface == device })
}

// isNeighbour tells whether the kernel knows the MAC of an address.
func (b *Neighbourhood) isNeighbour(device int, a netip.Addr) bool {
	return slices.ContainsFunc(b.Neighbours, func(n Neighbour) bool {
		return n.Interface == device && n.Address == a && len(n.MAC) == 6
	})
}

func (b *Neighbourhood) isGateway(device int, a netip.Addr) bool {
	return slices.ContainsFunc(b.Gateways, func(g nexthop.Gateway) bool { return g.Interface == device && g.Address == a })
}
