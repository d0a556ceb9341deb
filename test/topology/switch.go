// SPDX-License-Identifier: Apache-2.0

package topology

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
