// SPDX-License-Identifier: Apache-2.0

package gateways

import (
	"bytes"
	"cmp"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"

	"replypath/bpf"
	"replypath/loader/datapath"
	"replypath/loader/nexthop"
	"replypath/loader/pins"
)

type gatewayKey struct {
	device  int // index
	address netip.Addr
}

// gateway is a known gateway.
type gateway struct {
	nexthop.Gateway
	id uint16 // index into the map `gateways`
	// mac is what replies are sent to; nil where none is known. It outlives the
	// neighbour entry, which the kernel throws away when it has not been used
	// for long, until the gateway fails to answer.
	mac      net.HardwareAddr
	last     net.HardwareAddr   // that it had last, whether or not it has failed since
	only     bool               // it is the only next hop of a family's default routes
	alone    bool               // all of these lead by its interface
	deleting bool               // somebody has its entry deleted
	stage    stage              // what is done about it
	progress progress           // of connections by it, while it is held
	checks   int                // of a MAC that nobody has, which were begun
	heldBy   *datapath.Datapath // whose program answers what is started by it, nil for none

	toldSilent bool // it was logged that it does not answer, since it answered last
	// What we have written into its entry: the last MAC, since it fell silent (CarrierLost, releaseFailed), and that it is
	// stale, for a moment (probeAnew).
	wroteLast, wroteStale bool
	times
}

// times are those of a gateway.
type times struct {
	probed    time.Time     // when its entry was made usable last, while it is held
	checkFor  time.Duration // how long the kernel checks a MAC that nobody has, until that is begun anew
	asked     time.Time     // when the kernel was last told to resolve it
	failed    time.Time     // when it has last failed to answer
	resolveAt time.Time     // zero: nothing to be done
}

// progress is what was found out about the connections by a gateway.
type progress struct {
	made bool
	next time.Time // when it is looked at again
}

const (
	// resolveAgain is how long a gateway that does not answer is left alone.
	resolveAgain = 5 * time.Second
	// resolveSeldom is that for a silent IPv6 gateway while there are others: as seldom as the kernel asks itself
	// (router_probe_interval). While it is asked the kernel sends to it: asked more often, one lost a connection.
	resolveSeldom = time.Minute
	// resolveAtMost bounds how often a gateway is asked after whatever its
	// neighbour entry does.
	resolveAtMost = time.Second
	// resolveFailed is the same for one that failed: the kernel takes three seconds
	// for that, unless it is told not to ask at all.
	resolveFailed = 50 * time.Millisecond
	// probeEvery is how often the one gateway is asked whether it is there. The
	// kernel is content with a TCP connection that makes progress, which one may
	// whose replies go elsewhere.
	probeEvery = 5 * time.Second
	// heldFor is how long the programs believe that an entry is held, and tellEvery
	// how often they are told: a process that is killed in between must not keep the
	// host from a gateway that has come back.
	heldFor   = 3 * time.Second
	tellEvery = time.Second
	// bridgeAfter is how long a gateway that nobody has a MAC of may take to answer
	// before replies are built with the one that it had last: a while for a router that
	// is there, less than it takes a peer to repeat a segment.
	bridgeAfter = 100 * time.Millisecond
	// unknownAfter is the same for a gateway that has never answered, by the MAC that nobody has. Until then what
	// the host starts waits for the answer, as the kernel has it wait for 3 s; then it is refused.
	unknownAfter = 2500 * time.Millisecond
	// askUnknownEvery is how often the check of such a MAC is begun anew where the kernel has its own settings: it asks at once,
	// then each second, and fails the entry after 3 s.
	askUnknownEvery = 2200 * time.Millisecond
	// withoutMACEvery is how many checks of it there are to one time without a MAC, for bridgeAfter: some answers are heeded then
	// only, as an advertisement without the Override flag (RFC 4861, 7.2.5).
	withoutMACEvery = 16
)

func keyOf(g *nexthop.Gateway) gatewayKey { return gatewayKey{g.Interface, g.Address} }

// on changes the stage, which nothing else does.
func (g *gateway) on(e event) {
	if to, changes := transitions[e][g.stage]; changes {
		g.stage = to
	}
}

// isHeld tells whether a gateway is held, asked for without a MAC or not.
func (g *gateway) isHeld() bool { return g.stage == held || g.stage == retried }

// isBridged tells whether its entry has the last MAC and nothing is said of it.
func (g *gateway) isBridged() bool { return g.stage == bridged }

// isAwaited tells whether it was asked for, and its time to answer is not over.
func (g *gateway) isAwaited() bool { return g.stage == resolving || g.stage == retried }

// schedule decides when the kernel has to be told to look for a gateway that has
// just got into its state. While the entry is valid and fresh the kernel does
// nothing; on a NIC that only receives it would stay cold for ever.
func (g *gateway) schedule(now time.Time) {
	switch {
	case g.stage == resolving && g.isUnknown():
		g.resolveAt = g.asked.Add(unknownAfter)
	case g.isAwaited():
		g.resolveAt = g.asked.Add(bridgeAfter)
	case g.isHeld() && g.isUnknown() && g.awaitsMAC():
		g.resolveAt = later(now, g.probed.Add(resolveFailed))
	case g.isHeld() && g.isUnknown():
		g.resolveAt = g.probed.Add(cmp.Or(g.checkFor, askUnknownEvery))
	case g.State == nexthop.StateStale, g.State == nexthop.StateNone:
		g.resolveAt = later(now, g.asked.Add(resolveAtMost))
	case g.isHeld() && g.State == nexthop.StateFailed:
		g.resolveAt = later(now, g.probed.Add(resolveFailed))
	case g.isHeld(): // the kernel asks already
		g.resolveAt = now.Add(tellEvery)
	case g.State == nexthop.StateFailed, g.State == nexthop.StateIncomplete:
		g.resolveAt = later(now, g.asked.Add(resolveAgain))
	case g.State == nexthop.StateReachable && g.only:
		g.resolveAt = now.Add(probeEvery)
	default:
		g.resolveAt = time.Time{}
	}
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

// isUnanswered tells of a MAC that the entry has from us, and that nobody has answered with yet: while it is checked, and from
// probeAnew until then.
func (g *gateway) isUnanswered(seen *nexthop.Gateway) bool {
	switch {
	case seen.State == nexthop.StateProbe:
		return g.isBridged() || g.wroteLast && !g.isHeld()
	case isStale(seen.State):
		return g.isBridged() && g.wroteStale && bytes.Equal(g.last, seen.MAC)
	}
	return false
}

// isStale tells of the states in which an entry is used that nobody has checked lately.
func isStale(state string) bool { return state == nexthop.StateStale || state == nexthop.StateDelay }

// isOwnProbe tells of a MAC that the entry has from hold, of this process or an earlier one.
func (g *gateway) isOwnProbe(seen *nexthop.Gateway) bool {
	return g.isHeld() && seen.State == nexthop.StateProbe && bytes.Equal(g.last, seen.MAC)
}

// answers tells whether the last word of a gateway's entry is that it is there, and is not ours.
func (g *gateway) answers() bool {
	return nexthop.Usable(g.State) && !g.isHeld() && !g.isUnanswered(&g.Gateway)
}

// isNobodys tells whether its entry has the MAC that nobody has.
func (g *gateway) isNobodys() bool { return g.State == nexthop.StateSilent }

// isUnknown tells whether nobody knows a MAC that a gateway has had.
func (g *gateway) isUnknown() bool { return len(g.last) == 0 }

// stopgap is the MAC that a gateway's entry gets while it is silent.
func (g *gateway) stopgap() net.HardwareAddr {
	if g.isUnknown() {
		return bpf.SilentGateway
	}
	return g.last
}

// macOrNone is the MAC that a gateway had last, in words.
func (g *gateway) macOrNone() string {
	if g.isUnknown() {
		return "not known"
	}
	return g.last.String()
}

// awaitsMAC tells whether the kernel has no MAC of a gateway, so that packets wait for it.
func (g *gateway) awaitsMAC() bool {
	switch g.State {
	case nexthop.StateNone, nexthop.StateIncomplete:
		return true
	case nexthop.StateFailed:
		return g.mac == nil // else somebody is deleting it
	}
	return false
}

// families are those whose packets a gateway takes.
func (g *gateway) families() []uint8 {
	var all []uint8
	if g.IPv4 {
		all = append(all, 4)
	}
	if g.IPv6 {
		all = append(all, 6)
	}
	return all
}

// changesAsking tells whether the settings are changed for a gateway. For one that has never answered the programs have
// everybody asked (bpf/src/outage.h).
func (g *gateway) changesAsking() bool { return (g.isHeld() || g.isBridged()) && !g.isUnknown() }

// isAsked tells whether the kernel asks for a gateway that is held or bridged, or is to.
func (g *gateway) isAsked() bool { return g.State == nexthop.StateProbe || !nexthop.Usable(g.State) }

// addressFamily is the family by which a gateway is resolved.
func addressFamily(g *gateway) string {
	if g.Address.Is4() {
		return "ipv4"
	}
	return "ipv6"
}

// resolve has the kernel find out the MAC. Where the entry is gone, or was made a failed
// one by somebody, the last one known is put back, to be checked when it is used: until
// it is there, a reply would have the kernel ask with the reply's source, which is another
// NIC's and which strict routers do not answer. One that the kernel believes in is asked
// all the same. By reading: where it answers only what goes to everybody, what the host starts is refused for a second in nine.
func (g *gateway) resolve(nl *netlink.Handle) error {
	switch {
	case (g.State == nexthop.StateNone || g.State == nexthop.StateFailed) && g.mac != nil:
		return nexthop.PutBack(nl, g.Gateway, g.mac)
	case g.State == nexthop.StateReachable && g.mac != nil:
		return nexthop.Probe(nl, g.Gateway, g.mac)
	}
	return nexthop.Resolve(nl, g.Gateway)
}

// recall fills in what an earlier process wrote down of a gateway.
func (g *gateway) recall(r *pins.GatewayRecord) {
	if r.Bridged {
		g.on(onBridge)
	}
	if r.Held {
		g.on(onHold)
	}
	if mac, err := net.ParseMAC(r.MAC); err == nil {
		g.last = mac
	}
}
