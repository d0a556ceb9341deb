package loader

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"replypath/loader/datapath"
	"replypath/loader/fallback"
	"replypath/loader/nexthop"
	"replypath/loader/pins"
)

const (
	// resolveAgain is how long a gateway that does not answer is left alone.
	resolveAgain = 5 * time.Second
	// resolveSeldom is that for a silent IPv6 gateway while there are others: as seldom as the kernel asks itself
	// (router_probe_interval). While it is asked the kernel sends to it.
	resolveSeldom = time.Minute
	// resolveAtMost bounds how often a gateway is asked after whatever its
	// neighbour entry does.
	resolveAtMost = time.Second
	// resolveFailed is the same for one that failed: the kernel takes three seconds
	// for that, unless it is told not to ask at all.
	resolveFailed = 50 * time.Millisecond
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
	mac       net.HardwareAddr
	last      net.HardwareAddr   // that it had last, whether or not it has failed since
	only      bool               // it is the only next hop of a family's default routes
	deleting  bool               // somebody has its entry deleted
	held      bool               // it is silent, and its neighbour entry kept usable: see hold.go
	bridged   bool               // it has not answered yet, and its neighbour entry is kept usable
	anew      bool               // its interface has got its carrier back, it is to be asked
	awaited   bool               // it was asked for, and has bridgeAfter to answer
	progress  progress           // of connections by it, while it is held
	silent    bool               // it was said that it does not answer
	heldBy    *datapath.Datapath // whose program answers what is started by it, nil for none
	probed    time.Time          // when its entry was made usable last, while it is held
	asked     time.Time          // when the kernel was last told to resolve it
	failed    time.Time          // when it has last failed to answer
	restarted bool               // probeAnew has made its entry stale, for a moment
	released  bool               // releaseWaiting or releaseFailed has given its entry the last MAC since it fell silent
	resolveAt time.Time          // zero: nothing to be done
}

func keyOf(g *nexthop.Gateway) gatewayKey { return gatewayKey{g.Interface, g.Address} }

func compareGateways(a, b gatewayKey) int {
	return cmp.Or(cmp.Compare(a.device, b.device), a.address.Compare(b.address))
}

// trackGateways makes what was found the known gateways.
func (l *Loader) trackGateways(found *nexthop.Routers) error {
	var errs []error
	present := make(map[gatewayKey]bool)
	only := onlyGateways(found.Defaults)
	l.recallHeld()
	for _, seen := range found.Gateways {
		key := keyOf(&seen)
		present[key] = true
		if l.gateways[key] == nil {
			record, err := l.identifyGateway(key)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			l.gateways[key] = &gateway{id: record.ID}
			l.gateways[key].recall(record)
		}
		l.gateways[key].only = only[key]
		l.observe(l.gateways[key], seen)
	}
	for key, g := range l.gateways {
		if present[key] {
			continue
		}
		if l.letGo(g); !g.held {
			delete(l.gateways, key)
		}
	}
	l.recordGateways()
	return errors.Join(append(errs, l.keepAsking(), l.restoreAsking())...)
}

// recallHeld makes the gateways known that an earlier process held or bridged: they may have left the
// routes since, and are let go then. Until they are seen in a route they are nobody's next hop.
func (l *Loader) recallHeld() {
	for i := range l.state.Gateways {
		r := &l.state.Gateways[i]
		address, err := netip.ParseAddr(r.Address)
		key := gatewayKey{r.Interface, address}
		if !r.Held && !r.Bridged || r.Gone || err != nil || l.gateways[key] != nil {
			continue
		}
		seen := nexthop.Gateway{Interface: r.Interface, Address: address}
		g := &gateway{Gateway: seen, id: r.ID}
		g.recall(r)
		l.gateways[key] = g
	}
}

// recordGateways writes down what a later process, and the status, want to know.
func (l *Loader) recordGateways() {
	for i := range l.state.Gateways {
		r := &l.state.Gateways[i]
		address, err := netip.ParseAddr(r.Address)
		g := l.gateways[gatewayKey{r.Interface, address}]
		r.Gone = err != nil || g == nil
		r.Held, r.Bridged = !r.Gone && g.held, !r.Gone && g.bridged
		if !r.Gone {
			r.MAC = g.last.String()
		}
		if s := l.served[r.Interface]; s != nil && !r.Gone {
			r.Name = s.Name
		}
	}
}

// identifyGateway returns the record of a gateway, whose id it may have had before.
func (l *Loader) identifyGateway(key gatewayKey) (*pins.GatewayRecord, error) {
	address := key.address.String()
	last := uint16(0)
	for i, r := range l.state.Gateways {
		if r.Interface == key.device && r.Address == address {
			return &l.state.Gateways[i], nil
		}
		last = max(last, r.ID)
	}
	id := last + 1
	if uint32(id) >= l.maps.Gateways.Size() {
		oldest := slices.IndexFunc(l.state.Gateways, func(r pins.GatewayRecord) bool { return r.Gone })
		if oldest < 0 {
			return nil, fmt.Errorf("gateway %s: %d gateways are known already, which is as many as can be", address, last)
		}
		id = l.state.Gateways[oldest].ID
		l.state.Gateways = slices.Delete(l.state.Gateways, oldest, oldest+1)
	}
	l.state.Gateways = append(l.state.Gateways, pins.GatewayRecord{
		ID: id, Interface: key.device, Name: l.nameOf(key.device), Address: address, MAC: l.macBefore(key),
	})
	return &l.state.Gateways[len(l.state.Gateways)-1], nil
}

// macBefore is the MAC that a gateway had last on an interface of the same name that has gone: one
// that was deleted and made anew has another index. It is "" where nobody knows one.
func (l *Loader) macBefore(key gatewayKey) string {
	for _, r := range slices.Backward(l.state.Gateways) {
		if r.Address == key.address.String() && r.Name == l.nameOf(key.device) && r.MAC != "" && l.served[r.Interface] == nil {
			return r.MAC
		}
	}
	return ""
}

// observe notes what the kernel says of a gateway now.
func (l *Loader) observe(g *gateway, seen nexthop.Gateway) {
	before := g.Gateway
	g.Gateway = seen
	if seen.MAC != nil && !g.isUnanswered(&seen) {
		if !g.isOwnProbe(&seen) {
			l.logMAC(g, seen.MAC)
		}
		l.forgetLast(g, seen.MAC)
		g.mac, g.last, g.silent, g.released = seen.MAC, seen.MAC, false, false
	}
	g.awaited = g.awaited && g.awaitsMAC()
	g.restarted = g.restarted && (isStale(seen.State) || !isStale(before.State)) // an event may be of before
	l.tendHold(g, before.State == "")
	hasFailed := seen.State == nexthop.StateFailed && !g.held
	if hasFailed && before.State != seen.State {
		g.failed = time.Now()
		l.haveSocketsPassOver(g)
	}
	if hasFailed && !g.deleting {
		if !g.silent {
			l.log.Warn("gateway does not answer", "interface", l.nameOf(g.Interface), "gateway", g.Address)
		}
		g.mac, g.silent = nil, true
	}
	switch {
	case !l.served[g.Interface].enforces():
		g.resolveAt = time.Time{} // the kernel asks when it wants to know
	case hasFailed && before.State != seen.State:
		// At once: the kernel may have asked in vain with the address of another
		// NIC, that of the packet that waited for the answer.
		g.resolveAt = later(time.Now(), g.asked.Add(resolveFailed))
	case before.State != seen.State || g.resolveAt.IsZero():
		g.schedule(time.Now())
	}
}

// isUnanswered tells of a MAC that the entry has from us, and that nobody has answered with yet: while it is checked, and from
// probeAnew until then.
func (g *gateway) isUnanswered(seen *nexthop.Gateway) bool {
	switch {
	case seen.State == nexthop.StateProbe:
		return g.bridged || g.released
	case isStale(seen.State):
		return g.bridged && g.restarted && bytes.Equal(g.last, seen.MAC)
	}
	return false
}

// isStale tells of the states in which an entry is used that nobody has checked lately.
func isStale(state string) bool { return state == nexthop.StateStale || state == nexthop.StateDelay }

// isOwnProbe tells of a MAC that the entry has from hold, of this process or an earlier one.
func (g *gateway) isOwnProbe(seen *nexthop.Gateway) bool {
	return g.held && seen.State == nexthop.StateProbe && bytes.Equal(g.last, seen.MAC)
}

// noteDeletion counts an entry that somebody deletes and that is put back. The kernel has it
// fail first, without a question; one that goes for other reasons, with the carrier, a MAC
// of the interface's own or for want of use, goes as it is. Events tell that in order;
// what is read in between may be of a moment after the next.
func (l *Loader) noteDeletion(g *gateway, seen nexthop.Gateway) {
	switch seen.State {
	case nexthop.StateFailed:
		unasked := g.State == nexthop.StateReachable || g.State == nexthop.StateStale
		g.deleting = g.deleting || seen.Requested && !g.released || unasked
		return
	case nexthop.StateNone:
		if s := l.served[g.Interface]; g.deleting && s.enforces() && s.Up {
			l.countRepair(repairNeighbour)
			l.log.Info("the gateway's neighbour entry was deleted, put back", "interface", s.Name, "gateway", g.Address)
		}
	}
	g.deleting = false
}

func (l *Loader) logMAC(g *gateway, mac net.HardwareAddr) {
	switch {
	case g.mac == nil:
		l.log.Info("gateway is resolved", "interface", l.nameOf(g.Interface), "gateway", g.Address, "mac", mac.String())
	case !bytes.Equal(g.mac, mac):
		l.log.Info("gateway has another mac", "interface", l.nameOf(g.Interface), "gateway", g.Address,
			"mac", mac.String(), "before", g.mac.String())
	}
}

func (l *Loader) nameOf(index int) string {
	if s := l.served[index]; s != nil {
		return s.Name
	}
	return fmt.Sprintf("interface %d", index)
}

// schedule decides when the kernel has to be told to look for a gateway that has
// just got into its state. While the entry is valid and fresh the kernel does
// nothing; on a NIC that only receives it would stay cold for ever.
func (g *gateway) schedule(now time.Time) {
	switch {
	case g.awaited && g.isUnknown() && !g.held:
		g.resolveAt = g.asked.Add(unknownAfter)
	case g.awaited:
		g.resolveAt = g.asked.Add(bridgeAfter)
	case g.held && g.isUnknown() && g.awaitsMAC():
		g.resolveAt = later(now, g.probed.Add(resolveFailed))
	case g.held && g.isUnknown():
		g.resolveAt = g.probed.Add(askUnknownEvery)
	case g.State == nexthop.StateStale, g.State == nexthop.StateNone:
		g.resolveAt = later(now, g.asked.Add(resolveAtMost))
	case g.held && g.State == nexthop.StateFailed:
		g.resolveAt = later(now, g.probed.Add(resolveFailed))
	case g.held: // the kernel asks already
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

// neighbourChanged applies a neighbour event and tells whether it is about a
// gateway.
func (l *Loader) neighbourChanged(seen nexthop.Gateway) (bool, error) {
	g := l.gateways[keyOf(&seen)]
	if g == nil {
		return false, nil
	}
	seen.IPv4, seen.IPv6, seen.Main, seen.Reach4, seen.Reach6 = g.IPv4, g.IPv6, g.Main, g.Reach4, g.Reach6
	held, bridged, repairs := g.held, g.bridged, l.state.Repairs[repairNeighbour]
	l.noteDeletion(g, seen)
	l.observe(g, seen)
	if held != g.held || bridged != g.bridged || repairs != l.state.Repairs[repairNeighbour] {
		l.recordGateways()
		return true, errors.Join(l.writeGateways(), l.save())
	}
	return true, l.writeGateways()
}

// resolveDue has the kernel resolve the gateways whose time has come.
func (l *Loader) resolveDue(now time.Time) {
	for _, g := range l.gateways {
		if g.resolveAt.IsZero() || g.resolveAt.After(now) {
			continue
		}
		// What has just gone away is seen by the next reconciliation.
		err := l.resolve(g, now)
		if err != nil && !errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.ENETDOWN) {
			l.log.Debug("gateway cannot be resolved", "interface", l.nameOf(g.Interface), "error", err)
		}
	}
}

func (l *Loader) resolve(g *gateway, now time.Time) error {
	if !l.served[g.Interface].enforces() {
		g.resolveAt = time.Time{}
		return nil
	}
	if g.held && g.isUnknown() {
		return l.keepUnknown(g, now)
	}
	if g.held {
		g.resolveAt = now.Add(tellEvery)
		if g.State == nexthop.StateFailed {
			l.tendHold(g, false)
			return nil
		}
		return l.tellHeld(g)
	}
	if l.isPassedOver(g) && now.Before(later(g.asked, g.failed).Add(resolveSeldom)) {
		g.resolveAt = now.Add(resolveAgain)
		return nil
	}
	g.asked, g.resolveAt = now, now.Add(resolveAgain)
	if s := l.served[g.Interface]; s == nil || !s.Up {
		return nil
	}
	if asked, err := l.ask(g, now); asked {
		return err
	}
	return g.resolve(l.netlink)
}

// haveSocketsPassOver has sockets look for a route anew where the kernel may go over from a silent gateway to another one: by
// IPv6 they keep the route that they have until they have repeated a segment three times.
func (l *Loader) haveSocketsPassOver(g *gateway) {
	if !l.isOneOfSeveral(g) || l.fallback.device == nil {
		return
	}
	renew := func() error { return fallback.Renew(l.fallback.device, gateOf(l.datapath), unix.AF_INET6) }
	err := renew()
	if err == nil && !(g.silent && g.released) && len(g.last) != 0 {
		err = l.releaseFailed(g, renew)
	}
	if err != nil && !errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.ENETDOWN) {
		l.log.Error("open IPv6 connections go on to a silent gateway for a while", "gateway", g.Address, "error", err)
	}
}

// releaseFailed lets go what sockets have sent since the kernel gave a gateway up: it waits until the kernel has asked in vain
// once more, and TCP repeats no segment that waits. That is done once for each silence, as others may send by that gateway
// alone. It fails at once then, so that the kernel goes over to another one.
func (l *Loader) releaseFailed(g *gateway, renew func() error) error {
	const tries = 3 // in which more may be sent
	for range tries {
		state, err := nexthop.StateNow(l.netlink, g.Gateway)
		if err != nil || state != nexthop.StateIncomplete {
			return err
		}
		g.released = true
		err = errors.Join(nexthop.Probe(l.netlink, g.Gateway, g.last), nexthop.Fail(l.netlink, g.Gateway), renew())
		if err != nil {
			return err
		}
	}
	return nil
}

// isOneOfSeveral tells whether a gateway is one of the IPv6 routers among which the kernel chooses for its default routes.
func (l *Loader) isOneOfSeveral(g *gateway) bool {
	self, others := false, false
	for _, d := range l.fallback.defaults {
		if d.Family == unix.AF_INET6 {
			isSelf := (gatewayKey{d.Interface, d.Gateway}) == keyOf(&g.Gateway)
			self, others = self || isSelf, others || !isSelf
		}
	}
	return self && others
}

// isPassedOver tells whether the kernel may go over from a silent gateway to another one, for as long as that one's entry is a
// failed one. IPv4 passes over an entry that is being asked for as well (fib_good_nh() in net/ipv4/fib_semantics.c), IPv6 takes
// that for usable (rt6_check_neigh() in net/ipv6/route.c).
func (l *Loader) isPassedOver(g *gateway) bool {
	if g.State != nexthop.StateFailed || g.mac != nil || !g.IPv6 || !g.Main || g.only {
		return false
	}
	return slices.ContainsFunc(l.fallback.defaults, func(d nexthop.Default) bool {
		other := l.gateways[gatewayKey{d.Interface, d.Gateway}] // nil where nobody knows its state
		return d.Family == unix.AF_INET6 && other != g && (other == nil || nexthop.Usable(other.State))
	})
}

// resolve has the kernel find out the MAC. Where the entry is gone, or was made a failed
// one by somebody, the last one known is put back, to be checked when it is used: until
// it is there, a reply would have the kernel ask with the reply's source, which is another
// NIC's and which strict routers do not answer. One that the kernel believes in is asked
// all the same.
func (g *gateway) resolve(nl *netlink.Handle) error {
	switch {
	case (g.State == nexthop.StateNone || g.State == nexthop.StateFailed) && g.mac != nil:
		return nexthop.PutBack(nl, g.Gateway, g.mac)
	case g.State == nexthop.StateReachable && g.mac != nil:
		return nexthop.Probe(nl, g.Gateway, g.mac)
	}
	return nexthop.Resolve(nl, g.Gateway)
}

// nextResolve returns when resolveDue has something to do; zero for never.
func (l *Loader) nextResolve() time.Time {
	var next time.Time
	for _, g := range l.gateways {
		if !g.resolveAt.IsZero() && (next.IsZero() || g.resolveAt.Before(next)) {
			next = g.resolveAt
		}
	}
	return next
}
