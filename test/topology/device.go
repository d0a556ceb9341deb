// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// addDevice makes a device that is no end of a cable, sets it up and gives it its addresses. One without addresses is
// never waited for: it may have no port, or no IPv6.
func (h *Host) addDevice(name string, addresses []netip.Prefix, link func(netlink.LinkAttrs) netlink.Link) (*Interface, error) {
	nic := NIC{Host: h, Name: name, Addresses: addresses}
	nic.chooseMAC()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr = name, nic.MAC
	if err := h.handle.LinkAdd(link(attrs)); err != nil {
		return nil, err
	}
	i, err := nic.configure()
	if err != nil {
		return nil, err
	}
	if len(addresses) > 0 {
		n := h.network
		n.mu.Lock()
		n.interfaces = append(n.interfaces, i)
		n.mu.Unlock()
	}
	return i, nil
}

// AddMacvlan makes a macvlan device (bridge mode) above an interface. It has a MAC of its own; its Peer is the other
// end of the interface's cable.
func (i *Interface) AddMacvlan(name string, addresses ...netip.Prefix) (*Interface, error) {
	m, err := i.Host.addDevice(name, addresses, func(attrs netlink.LinkAttrs) netlink.Link {
		attrs.ParentIndex = i.Index
		return &netlink.Macvlan{LinkAttrs: attrs, Mode: netlink.MACVLAN_MODE_BRIDGE}
	})
	if err != nil {
		return nil, i.errorf("add macvlan %s: %w", name, err)
	}
	m.peer = i.peer
	return m, nil
}

// VXLAN describes a tunnel between two hosts (RFC 7348).
type VXLAN struct {
	Name string
	// ID is the VXLAN network identifier.
	ID int
	// Local and Remote are the addresses of the tunnel's ends.
	Local, Remote netip.Addr
	// SamePort has the outer datagrams come from the port that they go to, rather than from one that differs by inner
	// flow.
	SamePort  bool
	Addresses []netip.Prefix
}

const (
	// vxlanPort is the registered one.
	vxlanPort = 4789
	// vxlanMTU leaves room for the outer headers on an Ethernet of either family.
	vxlanMTU = 1430
)

// AddVXLAN makes one end of a tunnel. It has no Peer.
func (h *Host) AddVXLAN(v VXLAN) (*Interface, error) {
	i, err := h.addDevice(v.Name, v.Addresses, func(attrs netlink.LinkAttrs) netlink.Link {
		attrs.MTU = vxlanMTU
		link := &netlink.Vxlan{
			LinkAttrs: attrs, VxlanId: v.ID, Port: vxlanPort,
			SrcAddr: v.Local.AsSlice(), Group: v.Remote.AsSlice(), Learning: true,
		}
		if v.SamePort {
			// The kernel takes a port below the upper bound.
			link.PortLow, link.PortHigh = vxlanPort, vxlanPort+1
		}
		return link
	})
	return i, h.named(err, "add vxlan %s", v.Name)
}

// Tunnel makes both ends of a tunnel, each the other's Peer.
func (n *Network) Tunnel(a *Host, endA VXLAN, b *Host, endB VXLAN) (*Interface, *Interface, error) {
	ia, err := a.AddVXLAN(endA)
	if err != nil {
		return nil, nil, err
	}
	ib, err := b.AddVXLAN(endB)
	if err != nil {
		return nil, nil, err
	}
	ia.peer, ib.peer = ib, ia
	return ia, ib, nil
}

// Device is what kind of device a server's interface is.
type Device int

// The kinds.
const (
	// Cable is the end of a cable itself.
	Cable Device = iota
	// MacvlanDevice is a macvlan above the end of the cable.
	MacvlanDevice
	// BridgeDevice is a bridge that the end of the cable is a port of.
	BridgeDevice
)

// String names the kind.
func (d Device) String() string {
	switch d {
	case Cable:
		return "cable"
	case MacvlanDevice:
		return "macvlan"
	case BridgeDevice:
		return "bridge"
	}
	return fmt.Sprintf("device %d", int(d))
}

// above makes the device on top of an interface without addresses.
func (d Device) above(nic *Interface, name string, addresses []netip.Prefix) (*Interface, error) {
	if d == MacvlanDevice {
		// Else both devices answer ARP requests for the macvlan's address.
		if err := nic.Host.SetSysctl("net/ipv4/conf/"+nic.Name+"/arp_ignore", "1"); err != nil {
			return nil, err
		}
		return nic.AddMacvlan(name, addresses...)
	}
	b, err := nic.Host.AddBridge(name, addresses...)
	if err != nil {
		return nil, err
	}
	b.peer = nic.peer
	return b.Interface, b.Join(nic)
}
