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
	i, err := h.addBridge(name, addresses)
	if err != nil {
		return nil, h.errorf("add bridge %s: %w", name, err)
	}
	return &Bridge{Interface: i, portName: name + "p"}, nil
}

func (h *Host) addBridge(name string, addresses []netip.Prefix) (*Interface, error) {
	snooping := false
	return h.addDevice(name, addresses, func(attrs netlink.LinkAttrs) netlink.Link {
		return &netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snooping}
	})
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
