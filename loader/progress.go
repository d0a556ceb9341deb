package loader

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A gateway whose control plane starts anew answers neither ARP nor ND, and goes on to
// forward. The kernel believes in one through which a connection makes progress; we cannot rely
// on that, as it also believes in one whose connections are answered by another interface (see
// probeEvery). So the gateway is held; but as long as acknowledgements come in on a connection
// that leads by it, what the host begins is not refused.

// progressRest bounds the share of time that goes into looking at the host's connections.
const progressRest = 20

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
	made, err := l.lookForProgress(g)
	if err != nil {
		l.log.Debug("whether connections make progress is not known", "gateway", g.Address, "error", err)
	}
	g.progress = progress{made, begun.Add(max(tellEvery/2, progressRest*time.Since(begun)))}
	return made
}

func (l *Loader) lookForProgress(g *gateway) (bool, error) {
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} { // which also has IPv4 ones, mapped
		sockets, err := l.netlink.SocketDiagTCPInfo(family)
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			return false, fmt.Errorf("list the connections of family %d: %w", family, err)
		}
		if slices.ContainsFunc(sockets, func(s *netlink.InetDiagTCPInfoResp) bool { return l.isHeardBy(g, s) }) {
			return true, nil
		}
	}
	return false, nil
}

// isHeardBy tells whether an acknowledgement came in lately on a connection that leads by a
// gateway: from an address of its interface to one that no network of it holds.
func (l *Loader) isHeardBy(g *gateway, s *netlink.InetDiagTCPInfoResp) bool {
	if s.InetDiagMsg == nil || s.TCPInfo == nil || s.InetDiagMsg.State != unix.BPF_TCP_ESTABLISHED {
		return false
	}
	self, known := netip.AddrFromSlice(s.InetDiagMsg.ID.Source)
	peer, knownToo := netip.AddrFromSlice(s.InetDiagMsg.ID.Destination)
	if self, peer = self.Unmap(), peer.Unmap(); !known || !knownToo || self.Is4() && !g.IPv4 || self.Is6() && !g.IPv6 {
		return false
	}
	if time.Duration(s.TCPInfo.Last_ack_recv)*time.Millisecond >= heldFor {
		return false
	}
	networks := l.served[g.Interface].Addresses
	return slices.ContainsFunc(networks, func(p netip.Prefix) bool { return p.Addr() == self }) &&
		!slices.ContainsFunc(networks, func(p netip.Prefix) bool { return p.Contains(peer) })
}
