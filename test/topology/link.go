// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// NIC describes an interface to be made.
type NIC struct {
	Host *Host
	Name string
	// MAC is made from the order of hosts and interfaces when it is nil.
	MAC net.HardwareAddr
	// MTU in bytes; 0 is the kernel's default, 1500.
	MTU int
	// Addresses with the length of their network's prefix.
	Addresses []netip.Prefix
	Offloads  Offloads
	// Device, where it is set, is a device of this process's own namespace that becomes the interface and keeps its MAC. It is
	// to be joined to that of the other NIC already. The kernel takes it back when the network is closed.
	Device string
}

// Connect joins two interfaces by a cable and sets both up.
func (n *Network) Connect(a, b NIC) (*Interface, *Interface, error) {
	ia, ib, err := n.connect(a, b)
	if err != nil {
		return nil, nil, fmt.Errorf("connect %s with %s: %w", a, b, err)
	}
	return ia, ib, nil
}

// String names the interface and its host.
func (c NIC) String() string {
	if c.Host == nil {
		return c.Name
	}
	return c.Host.Name + ":" + c.Name
}

func (n *Network) connect(a, b NIC) (*Interface, *Interface, error) {
	if a.Host == nil || b.Host == nil || a.Name == "" || b.Name == "" {
		return nil, nil, errNoHost
	}
	a.chooseMAC()
	b.chooseMAC()
	if a.Device == "" {
		if err := createPair(a, b); err != nil {
			return nil, nil, err
		}
	} else if err := errors.Join(a.take(), b.take()); err != nil {
		return nil, nil, err
	}
	ia, err := a.configure()
	if err != nil {
		return nil, nil, err
	}
	ib, err := b.configure()
	if err != nil {
		return nil, nil, err
	}
	ia.peer, ib.peer = ib, ia
	n.mu.Lock()
	n.interfaces = append(n.interfaces, ia, ib)
	n.mu.Unlock()
	return ia, ib, nil
}

// chooseMAC counts the interface and names it by a readable address.
func (c *NIC) chooseMAC() {
	n := c.Host.network
	n.mu.Lock()
	defer n.mu.Unlock()
	if c.MAC == nil {
		c.MAC = mac(c.Host.number, c.Host.nics)
	}
	c.Host.nics++
}

// createPair makes both ends where they belong in one request, so that no name is ever taken in another namespace.
func createPair(a, b NIC) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr, attrs.MTU = a.Name, a.MAC, a.MTU
	pair := netlink.NewVeth(attrs)
	pair.PeerName, pair.PeerHardwareAddr, pair.PeerMTU = b.Name, b.MAC, uint32(b.MTU)
	pair.PeerNamespace = netlink.NsFd(b.Host.ns)
	if err := a.Host.handle.LinkAdd(pair); err != nil {
		return fmt.Errorf("add a veth pair: %w", err)
	}
	return nil
}

// take moves the device to the host. Its name might be in use there, or the new one here.
func (c *NIC) take() error {
	link, err := netlink.LinkByName(c.Device)
	if err != nil {
		return fmt.Errorf("find %s: %w", c.Device, err)
	}
	c.MAC = link.Attrs().HardwareAddr
	passing := fmt.Sprint("nic", link.Attrs().Index)
	if err := errors.Join(netlink.LinkSetName(link, passing), netlink.LinkSetNsFd(link, int(c.Host.ns))); err != nil {
		return fmt.Errorf("move %s: %w", c.Device, err)
	}
	if link, err = c.Host.handle.LinkByName(passing); err != nil {
		return fmt.Errorf("find %s: %w", c.Device, err)
	}
	return c.Host.handle.LinkSetName(link, c.Name)
}

// configure sets a new interface up and gives it its addresses.
func (c NIC) configure() (*Interface, error) {
	link, err := c.Host.handle.LinkByName(c.Name)
	if err != nil {
		return nil, fmt.Errorf("find %s: %w", c, err)
	}
	i := &Interface{
		Host: c.Host, Name: c.Name, Index: link.Attrs().Index,
		MAC: c.MAC, Addresses: c.Addresses,
	}
	if err := i.SetOffloads(c.Offloads); err != nil {
		return nil, err
	}
	if err := i.SetUp(); err != nil {
		return nil, err
	}
	return i, i.addAddresses(c.Addresses)
}
