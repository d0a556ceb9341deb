// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// Bridge is a bridge on a host, with or without addresses of the host's, as a container engine makes it. It has no
// spanning tree and no multicast snooping, so that it forwards every kind of frame from the first one on.
type Bridge struct {
	// Interface is the bridge itself; it has no Peer.
	*Interface

	portName string
	ports    int
}

// AddBridge makes a bridge without ports on the host and sets it up.
func (h *Host) AddBridge(name string, addresses ...netip.Prefix) (*Bridge, error) {
	i, err := h.addDevice(name, "address MAC type bridge mcast_snooping 0", addresses)
	if err != nil {
		return nil, err
	}
	return &Bridge{Interface: i, portName: name + "p"}, nil
}

// Connect joins an interface of another host to the bridge by a cable. Its Peer is the port, where a capture sees what
// passes in both directions.
func (b *Bridge) Connect(nic NIC) (*Interface, error) {
	n := b.Host.network
	n.mu.Lock()
	b.ports++
	name := fmt.Sprintf("%s%d", b.portName, b.ports)
	n.mu.Unlock()
	i, port, err := n.Connect(nic, NIC{Host: b.Host, Name: name, MTU: nic.MTU, Offloads: nic.Offloads})
	if err != nil {
		return nil, err
	}
	return i, b.Join(port)
}

// Join makes a device of the bridge's own host a port.
func (b *Bridge) Join(port *Interface) error {
	bridge, err := b.Link()
	if err != nil {
		return err
	}
	return port.change("join bridge "+b.Name, func(link netlink.Link) error {
		return b.Host.handle.LinkSetMaster(link, bridge)
	})
}

// Switch is an Ethernet switch: a bridge in a namespace of its own, without an address.
type Switch struct {
	*Host
	bridge *Bridge
}

// Switch makes a switch without ports.
func (n *Network) Switch(name string) (*Switch, error) {
	h, err := n.Host(name)
	if err != nil {
		return nil, err
	}
	if err := h.setIPv6Defaults(true); err != nil {
		return nil, err
	}
	b, err := h.AddBridge("bridge")
	if err != nil {
		return nil, err
	}
	b.portName = "port"
	return &Switch{Host: h, bridge: b}, nil
}

// Connect joins an interface to the switch by a cable. Its Peer is the port, where a capture sees what passes in both
// directions.
func (s *Switch) Connect(nic NIC) (*Interface, error) { return s.bridge.Connect(nic) }
