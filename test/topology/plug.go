// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

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

// builder makes a network step by step; after an error it does nothing more. The order in which hosts are made decides their
// MACs.
type builder struct {
	*Network
	err error
}

func newBuilder(options Options) *builder { return &builder{Network: New(options)} }

// do takes a step of another kind.
func (b *builder) do(step func() error) {
	if b.err == nil {
		b.err = step()
	}
}

func (b *builder) host(name string) (h *Host) {
	b.do(func() (err error) {
		h, err = b.Host(name)
		return err
	})
	return h
}

func (b *builder) server(name string) *Server { return &Server{Host: b.host(name)} }

func (b *builder) router(name string, policy Policy) *Router {
	r := new(Router)
	b.do(func() (err error) {
		made, err := b.Router(name, policy)
		if err == nil {
			r = made
		}
		return err
	})
	return r
}

// loopback gives a host addresses that no cable leads to.
func (b *builder) loopback(h *Host, addresses ...string) {
	b.do(func() error {
		lo, err := h.Interface("lo")
		if err != nil {
			return err
		}
		return lo.addAddresses(b.addresses(addresses...))
	})
}

// plug makes a switch and joins interfaces to it.
func (b *builder) plug(name string, ends ...end) (s *Switch) {
	b.do(func() (err error) {
		s, err = b.Switch(name)
		return err
	})
	for _, e := range ends {
		b.do(func() error {
			i, err := s.Connect(e.nic())
			e.store(i)
			return err
		})
	}
	return s
}

// join connects two interfaces by a cable.
func (b *builder) join(a, other end) {
	b.do(func() error {
		i, j, err := b.Connect(a.nic(), other.nic())
		a.store(i)
		other.store(j)
		return err
	})
}

// routes gives a host routes, each as a gateway, which is that of a default route, or as a destination and a gateway.
func (b *builder) routes(h *Host, routes ...string) {
	for _, text := range routes {
		var r Route
		destination, via, found := strings.Cut(text, " via ")
		if found {
			r.Destination = netip.MustParsePrefix(destination)
		} else {
			via = text
		}
		r.Via = netip.MustParseAddr(via)
		b.do(func() error { return h.AddRoute(r) })
	}
}

// finish waits until the network is ready and has interfaces resolve their gateways, which hosts in use always know. The
// interfaces are looked up then.
func (b *builder) finish(ctx context.Context, what string, warm ...**Interface) error {
	b.do(func() error { return b.WaitReady(ctx) })
	for _, i := range warm {
		for _, f := range b.Families() {
			b.do(func() error { return (*i).Resolve(ctx, (*i).Gateway(f)) })
		}
	}
	if b.err != nil {
		return errors.Join(fmt.Errorf("build network %s: %w", what, b.err), b.Close())
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
