// SPDX-License-Identifier: Apache-2.0

package topology

import "net/netip"

// addresses parses addresses with the lengths of their prefixes, and leaves out those of a family that the network does
// not have.
func (n *Network) addresses(texts ...string) []netip.Prefix {
	var addresses []netip.Prefix
	for _, text := range texts {
		p := netip.MustParsePrefix(text)
		if p.Addr().Is6() && n.options.NoIPv6 {
			continue
		}
		addresses = append(addresses, p)
	}
	return addresses
}

// addToLoopback gives a host addresses that no cable leads to.
func (h *Host) addToLoopback(addresses ...netip.Prefix) error {
	lo, err := h.Interface("lo")
	if err != nil {
		return err
	}
	for _, address := range addresses {
		if err := lo.AddAddress(address); err != nil {
			return err
		}
	}
	return nil
}

// routeBy gives a host routes, each as a destination, "" for the default route, and the gateway that it leads by.
func (n *Network) routeBy(h *Host, pairs ...[2]string) error {
	for _, pair := range pairs {
		r := Route{Via: netip.MustParseAddr(pair[1])}
		if r.Via.Is6() && n.options.NoIPv6 {
			continue
		}
		if pair[0] != "" {
			r.Destination = netip.MustParsePrefix(pair[0])
		}
		if err := h.AddRoute(r); err != nil {
			return err
		}
	}
	return nil
}

// end is that of a cable at a host, with one address for each family.
type end struct {
	to     **Interface // where the interface is stored; nil if nobody needs it
	host   *Host
	name   string
	v4, v6 string
}

func (e end) nic() NIC {
	return NIC{Host: e.host, Name: e.name, Addresses: e.host.network.addresses(e.v4, e.v6)}
}

func (e end) store(i *Interface) {
	if e.to != nil {
		*e.to = i
	}
}

// plug joins interfaces to the switch.
func (s *Switch) plug(ends ...end) error {
	for _, e := range ends {
		i, err := s.Connect(e.nic())
		if err != nil {
			return err
		}
		e.store(i)
	}
	return nil
}

// join connects the interfaces of each pair by a cable.
func (n *Network) join(pairs ...[2]end) error {
	for _, pair := range pairs {
		a, b, err := n.Connect(pair[0].nic(), pair[1].nic())
		if err != nil {
			return err
		}
		pair[0].store(a)
		pair[1].store(b)
	}
	return nil
}

// newHost is a host to be made.
type newHost struct {
	to   **Host
	name string
}

// makeHosts makes hosts in this order, which decides their MACs.
func (n *Network) makeHosts(hosts ...newHost) error {
	for _, h := range hosts {
		var err error
		if *h.to, err = n.Host(h.name); err != nil {
			return err
		}
	}
	return nil
}

// inFamily returns the address of a family.
func inFamily(f Family, v4, v6 string) netip.Addr {
	if f == IPv4 {
		return netip.MustParseAddr(v4)
	}
	return netip.MustParseAddr(v6)
}
