package loader

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/loader/datapath"
	"replypath/loader/discover/dump"
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

// progress is what was found out about the connections by a gateway.
type progress struct {
	made bool
	next time.Time // when it is looked at again
}

// makesProgress tells whether something came in lately on a connection by a gateway. Where the
// kernel does not tell of its sockets, nothing did.
func (l *Loader) makesProgress(g *gateway) bool {
	begun := time.Now()
	if begun.Before(g.progress.next) {
		return g.progress.made
	}
	made, err := l.lookForProgress(g, begun.Add(progressTime))
	if err != nil {
		l.log.Debug("whether connections make progress is not known", "gateway", g.Address, "error", err)
	}
	rest := max(tellEvery/2, min(heldFor, progressRest*time.Since(begun)))
	g.progress = progress{made, begun.Add(rest)}
	return made
}

// lookForProgress looks for one such connection. IPv6 sockets have connections of IPv4 too.
func (l *Loader) lookForProgress(g *gateway, until time.Time) (made bool, _ error) {
	var errs []error
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		if family == unix.AF_INET && !g.IPv4 {
			continue
		}
		err := sockets.EachConnection(family, someConnections, until, func(c *sockets.Socket) bool {
			made = l.isHeardBy(g, c)
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
func (l *Loader) isHeardBy(g *gateway, c *sockets.Socket) bool {
	if c.Heard >= heldFor || c.Device != 0 && c.Device != g.Interface {
		return false
	}
	self, peer := c.Local.Addr(), c.Remote.Addr()
	if self.Is4() && !g.IPv4 || self.Is6() && !g.IPv6 {
		return false
	}
	networks := l.served[g.Interface].Addresses
	return slices.ContainsFunc(networks, func(p netip.Prefix) bool { return p.Addr() == self }) &&
		!slices.ContainsFunc(networks, func(p netip.Prefix) bool { return p.Contains(peer) }) &&
		!l.isAnswered(c, g.Interface) && l.isRoutedBy(g, c)
}

// isAnswered tells whether a connection is recorded as a flow of another interface than this one:
// what the host says in it leaves by that one, wherever the route leads.
func (l *Loader) isAnswered(c *sockets.Socket, but int) bool {
	tuple := bpf.DatapathTuple{
		Peer: c.Remote.Addr().As16(), Self: c.Local.Addr().As16(), Protocol: unix.IPPROTO_TCP,
		PeerPort: datapath.Port(c.Remote.Port()), SelfPort: datapath.Port(c.Local.Port()),
	}
	flow, err := datapath.FindFlow(l.datapath.Established, bpf.Seeds(l.state.Seeds).Digest(tuple))
	return err != nil || flow != nil && flow.Ifindex != uint32(but)
}

// isRoutedBy tells whether the kernel sends by a gateway what the host says in a connection: there
// may be others of the same interface, or a route by another.
func (l *Loader) isRoutedBy(g *gateway, c *sockets.Socket) bool {
	routes, err := l.netlink.RouteGetWithOptions(c.Remote.Addr().AsSlice(), &netlink.RouteGetOptions{
		SrcAddr: c.Local.Addr().AsSlice(), OifIndex: c.Device, Mark: c.Mark, UID: &c.UID,
	})
	return err == nil && slices.ContainsFunc(routes, func(r netlink.Route) bool {
		return r.LinkIndex == g.Interface && dump.Gateway(&r) == g.Address
	})
}
