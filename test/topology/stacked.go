// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"net/netip"

	"github.com/vishvananda/netlink"
)

// AddVLAN makes a VLAN device above an interface, with its MAC. The Peer is to be set with PeerWith, as there is none
// before the other end has one too.
func (i *Interface) AddVLAN(name string, id int, addresses ...netip.Prefix) (*Interface, error) {
	v, err := i.Host.addDevice(name, addresses, func(attrs netlink.LinkAttrs) netlink.Link {
		attrs.ParentIndex, attrs.HardwareAddr = i.Index, i.MAC
		return &netlink.Vlan{LinkAttrs: attrs, VlanId: id, VlanProtocol: netlink.VLAN_PROTOCOL_8021Q}
	})
	if err != nil {
		return nil, i.errorf("add vlan %s: %w", name, err)
	}
	v.MAC = i.MAC
	return v, nil
}

// PeerWith declares two devices to be the ends of one link: VLAN devices above one cable, or tunnels between two hosts.
func (i *Interface) PeerWith(other *Interface) { i.peer, other.peer = other, i }

// AddBond makes a bond of which one port is in use at a time. Its MAC is that of the port in use.
func (h *Host) AddBond(name string) (*Interface, error) {
	b, err := h.addDevice(name, nil, func(attrs netlink.LinkAttrs) netlink.Link {
		attrs.HardwareAddr = nil
		bond := netlink.NewLinkBond(attrs)
		bond.Mode, bond.Miimon = netlink.BOND_MODE_ACTIVE_BACKUP, 10
		bond.FailOverMac = netlink.BOND_FAIL_OVER_MAC_ACTIVE
		return bond
	})
	return b, h.named(err, "add bond %s", name)
}

// AddVRF makes a VRF with a routing table of its own (Documentation/networking/ vrf.rst in the kernel).
func (h *Host) AddVRF(name string, table uint32) (*Interface, error) {
	v, err := h.addDevice(name, nil, func(attrs netlink.LinkAttrs) netlink.Link {
		return &netlink.Vrf{LinkAttrs: attrs, Table: table}
	})
	return v, h.named(err, "add vrf %s", name)
}

// Enslave makes an interface a port of a bond or a VRF. The kernel takes it down for that, and its IPv6 addresses away:
// it gets those that it was made with again.
func (i *Interface) Enslave(master *Interface) error {
	link, err := master.Link()
	if err != nil {
		return err
	}
	if err := i.SetDown(); err != nil {
		return err
	}
	err = i.change("make it a port of "+master.Name, func(port netlink.Link) error {
		return i.Host.handle.LinkSetMaster(port, link)
	})
	if err != nil {
		return err
	}
	if err := i.SetUp(); err != nil {
		return err
	}
	for _, address := range i.Addresses {
		err := i.change("restore "+address.String(), func(port netlink.Link) error {
			return i.Host.handle.AddrReplace(port, addressOf(address))
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// AddDummy makes a device that does no more than hold addresses.
func (h *Host) AddDummy(name string, addresses ...netip.Prefix) (*Interface, error) {
	d, err := h.addDevice(name, addresses, func(attrs netlink.LinkAttrs) netlink.Link {
		return &netlink.Dummy{LinkAttrs: attrs}
	})
	return d, h.named(err, "add dummy %s", name)
}

// AddWireGuard makes a WireGuard device. Its keys and peers are left to the caller.
func (h *Host) AddWireGuard(name string, addresses ...netip.Prefix) (*Interface, error) {
	w, err := h.addDevice(name, addresses, func(attrs netlink.LinkAttrs) netlink.Link {
		attrs.HardwareAddr = nil
		return &netlink.Wireguard{LinkAttrs: attrs}
	})
	if err != nil {
		return nil, h.errorf("add wireguard %s: %w", name, err)
	}
	w.MAC = nil
	return w, nil
}
