// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Interface is one end of a cable, or another network device of a host.
type Interface struct {
	Host  *Host
	Name  string
	Index int
	// MAC is the address that the interface was made or found with.
	MAC net.HardwareAddr
	// Addresses are those that the interface was made or found with.
	Addresses []netip.Prefix

	peer *Interface
}

// Interface finds a device of the host that was not made through this package, such as lo. It has no Peer.
func (h *Host) Interface(name string) (*Interface, error) {
	link, err := h.handle.LinkByName(name)
	if err != nil {
		return nil, h.errorf("find interface %s: %w", name, err)
	}
	i := &Interface{Host: h, Name: name, Index: link.Attrs().Index, MAC: link.Attrs().HardwareAddr}
	addresses, err := retryDump(func() ([]netlink.Addr, error) {
		return h.handle.AddrList(link, netlink.FAMILY_ALL)
	})
	if err != nil {
		return nil, i.errorf("list addresses: %w", err)
	}
	for _, a := range addresses {
		i.Addresses = append(i.Addresses, prefixOf(a.IPNet))
	}
	return i, nil
}

// Peer returns the other end of the cable: a router's or a host's interface, or the port of a switch. What it receives
// has really left this interface.
func (i *Interface) Peer() *Interface {
	return i.peer
}

// Address returns the first address of that family that the interface was made with, or the zero Addr.
func (i *Interface) Address(f Family) netip.Addr {
	for _, p := range i.Addresses {
		if FamilyOf(p.Addr()) == f {
			return p.Addr()
		}
	}
	return netip.Addr{}
}

// Link reads the interface's present state from the kernel.
func (i *Interface) Link() (netlink.Link, error) {
	link, err := i.Host.handle.LinkByIndex(i.Index)
	return link, i.named(err, "read the link")
}

// SetUp sets the interface administratively up.
func (i *Interface) SetUp() error {
	return i.change("set up", i.Host.handle.LinkSetUp)
}

// SetDown sets the interface administratively down. The other end loses its carrier.
func (i *Interface) SetDown() error {
	return i.change("set down", i.Host.handle.LinkSetDown)
}

// SetMTU changes the largest packet, in bytes without the Ethernet header.
func (i *Interface) SetMTU(mtu int) error {
	return i.change("set the mtu", func(link netlink.Link) error {
		return i.Host.handle.LinkSetMTU(link, mtu)
	})
}

// SetMAC changes the hardware address, as when a gateway is replaced. The field MAC keeps the old one.
func (i *Interface) SetMAC(mac net.HardwareAddr) error {
	return i.change("set the mac", func(link netlink.Link) error {
		return i.Host.handle.LinkSetHardwareAddr(link, mac)
	})
}

// AddAddress adds an address. An IPv6 address is usable as soon as WaitReady says so. The field Addresses is left
// alone.
func (i *Interface) AddAddress(address netip.Prefix) error {
	return i.change("add "+address.String(), func(link netlink.Link) error {
		return i.Host.handle.AddrAdd(link, addressOf(address))
	})
}

func (i *Interface) addAddresses(addresses []netip.Prefix) error {
	for _, address := range addresses {
		if err := i.AddAddress(address); err != nil {
			return err
		}
	}
	return nil
}

// addressOf is an address without duplicate address detection.
func addressOf(address netip.Prefix) *netlink.Addr {
	a := &netlink.Addr{IPNet: ipNet(address)}
	if address.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD
	}
	return a
}

// RemoveAddress removes an address.
func (i *Interface) RemoveAddress(address netip.Prefix) error {
	return i.change("remove "+address.String(), func(link netlink.Link) error {
		return i.Host.handle.AddrDel(link, &netlink.Addr{IPNet: ipNet(address)})
	})
}

// AddNeighbour adds a permanent neighbour entry.
func (i *Interface) AddNeighbour(address netip.Addr, mac net.HardwareAddr) error {
	return i.change("add neighbour "+address.String(), func(link netlink.Link) error {
		return i.Host.handle.NeighSet(&netlink.Neigh{
			LinkIndex: link.Attrs().Index, IP: address.AsSlice(),
			HardwareAddr: mac, State: netlink.NUD_PERMANENT,
		})
	})
}

// change applies a netlink request to the interface and names it in the error.
func (i *Interface) change(what string, apply func(netlink.Link) error) error {
	link, err := i.Link()
	if err != nil {
		return err
	}
	if err := apply(link); err != nil {
		return i.errorf("%s: %w", what, err)
	}
	return nil
}

// errorf names the host and the interface in an error.
func (i *Interface) errorf(format string, args ...any) error {
	return fmt.Errorf("host %s, interface %s: %w", i.Host.Name, i.Name, fmt.Errorf(format, args...))
}

// named is errorf for an error that there may be: it says what went wrong, nil where nothing did.
func (i *Interface) named(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return i.errorf("%s: %w", fmt.Sprintf(format, args...), err)
}

// errNoHost is a mistake of the caller.
var errNoHost = errors.New("a NIC needs a host and a name")
