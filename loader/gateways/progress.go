// SPDX-License-Identifier: Apache-2.0

package gateways

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/loader/datapath"
	"replypath/loader/kernelroute"
	"replypath/loader/sockets"
)

// A gateway whose control plane starts anew answers neither ARP nor ND, and goes on to
// forward. The kernel believes in one through which a connection makes progress; we cannot rely
// on that, as it also believes in one whose connections are answered by another interface (see
// probeEvery). So the gateway is held; but as long as acknowledgements come in on a connection
// that leads by it, what the host begins is not refused.

const (
	// progressRest bounds the share of time that goes into looking at the host's connections, and
	// progressTime how long it takes at most where they are many (see someConnections), as no verdict should be
	// older than the programs believe it. Where a gateway forwards, who has more connections than can be looked at in that time has
	// one among them that makes progress: having found none is taken for there being none, as what
	// the host begins would wait in vain else, where the kernel alone would refuse it.
	progressRest = 20
	progressTime = heldFor / progressRest
	// someConnections are visited however long it takes: a machine that is busy may not let us run for a while.
	someConnections = 1000
)

// connections are those of the host.
type connections struct{ *Host }

// makeProgress tells whether something came in lately on a connection by a gateway. Where the
// kernel does not tell of its sockets, nothing did.
func (c *connections) makeProgress(g *gateway) bool {
	begun := time.Now()
	if begun.Before(g.progress.next) {
		return g.progress.made
	}
	made, err := c.lookForProgress(g, begun.Add(progressTime))
	if err != nil {
		c.Log.Debug("whether connections make progress is not known", "gateway", g.Address, "error", err)
	}
	rest := max(tellEvery/2, min(heldFor, progressRest*time.Since(begun)))
	g.progress = progress{made, begun.Add(rest)}
	return made
}

// lookForProgress looks for one such connection. IPv6 sockets have connections of IPv4 too.
func (c *connections) lookForProgress(g *gateway, until time.Time) (made bool, _ error) {
	var errs []error
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		if family == unix.AF_INET && !g.IPv4 {
			continue
		}
		err := sockets.EachConnection(family, someConnections, until, func(s *sockets.Socket) bool {
			made = c.isHeardBy(g, s)
			return !made
		})
		if made {
			return true, nil
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("list the connections of family %d: %w", family, err))
		}
	}
	return false, errors.Join(errs...)
}

// isHeardBy tells whether an acknowledgement came in lately on a connection that leads by a
// gateway. That the first address is one of its interface's, and that no network of it holds the
// other, is known at once.
func (c *connections) isHeardBy(g *gateway, s *sockets.Socket) bool {
	if s.Heard >= heldFor || s.Device != 0 && s.Device != g.Interface {
		return false
	}
	self, peer := s.Local.Addr(), s.Remote.Addr()
	if self.Is4() && !g.IPv4 || self.Is6() && !g.IPv6 {
		return false
	}
	networks := c.Interface(g.Interface).Addresses
	return slices.ContainsFunc(networks, func(p netip.Prefix) bool { return p.Addr() == self }) &&
		!slices.ContainsFunc(networks, func(p netip.Prefix) bool { return p.Contains(peer) }) &&
		!c.isAnswered(s, g.Interface) && c.isRoutedBy(g, s)
}

// isAnswered tells whether a connection is recorded as a flow of another interface than this one:
// what the host says in it leaves by that one, wherever the route leads.
func (c *connections) isAnswered(s *sockets.Socket, but int) bool {
	tuple := bpf.DatapathTuple{
		Peer: s.Remote.Addr().As16(), Self: s.Local.Addr().As16(), Protocol: unix.IPPROTO_TCP,
		PeerPort: datapath.Port(s.Remote.Port()), SelfPort: datapath.Port(s.Local.Port()),
	}
	established := bpf.FlowTables(&c.Datapath().DatapathMaps)[bpf.DatapathTableTABLE_ESTABLISHED]
	flow, err := established.Find(bpf.Seeds(c.Journal.Seeds).Digest(tuple))
	return err != nil || flow != nil && flow.Ifindex != uint32(but)
}

// isRoutedBy tells whether the kernel sends by a gateway what the host says in a connection: there
// may be others of the same interface, or a route by another.
func (c *connections) isRoutedBy(g *gateway, s *sockets.Socket) bool {
	route, err := kernelroute.AskOwn(kernelroute.Packet{Peer: s.Remote, Self: s.Local, Device: s.Device, Mark: s.Mark, UID: &s.UID})
	return err == nil && route.Device == g.Interface && route.Gateway == g.Address
}
