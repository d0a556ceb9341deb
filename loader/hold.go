package loader

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/loader/attach"
	"replypath/loader/fallback"
	"replypath/loader/nexthop"
	"replypath/loader/pins"
	"replypath/loader/undo"
)

// A gateway that has stopped answering takes the replies of every interface with
// it: the route by it stands, and the kernel hands no packet to a device for which
// it has no neighbour. So its entry is kept usable, with the MAC address that it had
// last, as one that the kernel is checking. It goes on asking; when it gives up, it
// is told to ask again. Nobody is kept from anything: once we end, the kernel gives
// up for good.
//
// One that has never answered has no such MAC. Its entry gets one that nobody has, with which no frame leaves:
// replies to other interfaces are moved, and the programs end everything else. The kernel's question whether the gateway
// has that MAC goes to everybody (bpf/src/nobody.h).
//
// That is done only to the one gateway of a family's default routes, by IPv4 of those of the smallest metric. Where
// there are others, the kernel may choose among them by the state of their entries (rt6_check_neigh() in
// net/ipv6/route.c, fib_detect_death() in net/ipv4/fib_semantics.c).

const (
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
	// askUnknownEvery is how often the check of such a MAC is begun anew. The kernel asks at once, then each second, and fails
	// the entry after 3 s. By IPv4 it heeds no answer in the first second (`locktime`, arp_process() in net/ipv4/arp.c).
	askUnknownEvery = 2200 * time.Millisecond
)

// onlyGateways returns those that are the only next hop of a family's default
// routes, but for those that the kernel does not go over to.
func onlyGateways(defaults []nexthop.Default) map[gatewayKey]bool {
	byFamily := make(map[int]map[gatewayKey]bool)
	for _, d := range defaults {
		if d.Behind {
			continue
		}
		if byFamily[d.Family] == nil {
			byFamily[d.Family] = make(map[gatewayKey]bool)
		}
		byFamily[d.Family][gatewayKey{d.Interface, d.Gateway}] = true
	}
	only := make(map[gatewayKey]bool)
	for _, gateways := range byFamily {
		for key := range gateways {
			if len(gateways) == 1 && key.address.IsValid() {
				only[key] = true
			}
		}
	}
	for _, gateways := range byFamily { // an IPv4 route may lead by one of several IPv6 routers
		for key := range gateways {
			if len(gateways) > 1 {
				delete(only, key)
			}
		}
	}
	return only
}

// mayHold tells whether a gateway is one whose silence is bridged. Without a carrier the default
// route gives way instead, where it may; when it begins to, IPv4 sockets go on by the route that they have.
func (l *Loader) mayHold(g *gateway) bool {
	s := l.served[g.Interface]
	return g.only && l.wantsFallback() && s.enforces() && (s.Up || l.staysWithoutCarrier(g) || g.held) &&
		(!g.isUnknown() || s.hasHeader())
}

// isUnknown tells whether nobody knows a MAC that a gateway has had.
func (g *gateway) isUnknown() bool { return len(g.last) == 0 }

// stopgap is the MAC that a gateway's entry gets while it is silent.
func (g *gateway) stopgap() net.HardwareAddr {
	if g.isUnknown() {
		return bpf.SilentGateway
	}
	return g.last
}

// staysWithoutCarrier tells whether the default route by a gateway is not passed over without a carrier, as where another
// interface has a default route too, or one to the same network.
func (l *Loader) staysWithoutCarrier(g *gateway) bool {
	stays := func(family int) bool {
		return !l.givesWay(undo.Setting{Device: g.Interface, Family: fallback.Name(family), Leaf: ignoreLinkDown})
	}
	return g.IPv4 && stays(unix.AF_INET) || g.IPv6 && stays(unix.AF_INET6)
}

// tendHold holds a gateway that has just failed, and lets go of one that has
// answered. One that had failed before a route led by it is asked first.
func (l *Loader) tendHold(g *gateway, isNew bool) {
	switch {
	case !l.served[g.Interface].enforces():
		l.letGo(g)
	case g.State == nexthop.StateFailed && isNew && !g.held && !g.bridged:
	case g.State == nexthop.StateFailed || g.held && g.State == nexthop.StateIncomplete:
		if l.mayHold(g) {
			l.hold(g)
		} else {
			l.letGo(g)
		}
	case g.State == nexthop.StateNone && g.held:
		if l.mayHold(g) {
			l.hold(g)
		} else {
			l.letGo(g)
		}
	case g.State == nexthop.StateNone && g.bridged: // somebody deleted it, or the carrier went
		l.letGo(g)
	case g.State == nexthop.StateProbe || g.State == nexthop.StateNone || g.State == nexthop.StateSilent || g.isUnanswered(&g.Gateway):
		// It is asked, or is about to be, or somebody deleted the entry: that tells nothing.
	default:
		l.letGo(g)
	}
}

// hold keeps the entry of a gateway usable. Where the kernel fails it at once, as somebody has it ask
// nobody, that is done so often only until keepAsking has changed the settings again.
func (l *Loader) hold(g *gateway) {
	if g.held && g.isUnknown() {
		return // keepUnknown does so
	}
	if g.held && g.State == nexthop.StateFailed && time.Since(g.probed) < resolveFailed {
		return // schedule has the time
	}
	isNew := !g.held
	if isNew {
		g.progress = progress{} // what was found before is of another silence
	}
	g.probed = time.Now()
	errs := []error{nexthop.Probe(l.netlink, g.Gateway, g.stopgap()), l.tellHeld(g)}
	if isNew {
		g.held, g.bridged, g.awaited = true, false, false
		l.log.Warn("gateway does not answer: its neighbour entry is held, so that replies by other interfaces are built",
			"interface", l.nameOf(g.Interface), "gateway", g.Address, "mac", g.macOrNone())
		if !g.isUnknown() {
			errs = append(errs, l.haveEverybodyAsked(g))
		}
		errs = append(errs, l.attachHeld(g))
	}
	if err := errors.Join(errs...); err != nil && !errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.ENETDOWN) {
		l.log.Error("the neighbour entry of a silent gateway is not held", "gateway", g.Address, "error", err)
	}
}

// keepUnknown keeps the entry of a held gateway usable that has never answered, while the kernel asks for it. Where the
// kernel failed the entry, as somebody has it ask less or sooner, the gateway has bridgeAfter to answer without a MAC: then
// any answer is heeded.
func (l *Loader) keepUnknown(g *gateway, now time.Time) error {
	inVain := g.awaited
	if g.awaited = g.awaitsMAC() && !inVain; g.awaited {
		g.asked = now
		g.schedule(now)
		return nexthop.Resolve(l.netlink, g.Gateway)
	}
	g.probed = now
	g.schedule(now)
	return errors.Join(
		nexthop.PutBack(l.netlink, g.Gateway, g.stopgap()), // a timer begins with another state only: see probeAnew
		nexthop.Probe(l.netlink, g.Gateway, g.stopgap()))
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

// bridge has replies built while a gateway is asked for that has not answered yet since a
// route leads by it again, or its link is up: a router that boots is slower than its cable.
// Its entry gets the last MAC, as one that is being checked, and the kernel asks everybody
// meanwhile, as it would without. Nothing is said of the gateway, and nothing of what the host
// starts is refused: once the kernel has asked in vain it is held.
func (l *Loader) bridge(g *gateway) error {
	g.bridged = true
	l.recordGateways()
	l.log.Debug("gateway has not answered yet, replies by other interfaces are built with the mac that it had",
		"interface", l.nameOf(g.Interface), "gateway", g.Address, "mac", g.last.String())
	return errors.Join(l.haveEverybodyAsked(g), l.probeAnew(g), l.save())
}

// probeAnew has the last MAC of a gateway checked from now on. One that is being checked already would be asked again only
// at its own time, up to a second later: a timer begins with another state (__neigh_update() in net/core/neighbour.c). So the
// entry is made stale, which a packet that is sent in between makes delay.
func (l *Loader) probeAnew(g *gateway) error {
	g.restarted = true
	if err := nexthop.PutBack(l.netlink, g.Gateway, g.last); err != nil {
		return err
	}
	return nexthop.Probe(l.netlink, g.Gateway, g.last)
}

// releaseWaiting has what waits for a gateway's MAC go where the carrier of its interface is gone. On egress replies are
// moved to the interfaces of their flows; everything else is lost, as without.
func (l *Loader) releaseWaiting(device int) error {
	var errs []error
	for _, g := range l.gateways {
		if g.Interface != device || len(g.last) == 0 || !l.wantsFallback() || !l.served[device].enforces() {
			continue
		}
		var err error
		switch {
		case g.only:
			err = l.releaseOnly(g)
		case l.isOneOfSeveral(g):
			err = l.releaseOneOfSeveral(g)
		}
		if !errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.ENETDOWN) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// releaseOnly does so for the one gateway of a family's default routes. The kernel drops the entry a moment before it passes
// over the route, and asks in vain for three seconds, as long as TCP repeats no segment that waits
// (skb_still_in_host_queue() in net/ipv4/tcp_output.c).
func (l *Loader) releaseOnly(g *gateway) error {
	if state, err := nexthop.StateNow(l.netlink, g.Gateway); err != nil || state != nexthop.StateIncomplete {
		return err
	}
	return nexthop.Probe(l.netlink, g.Gateway, g.last)
}

// releaseOneOfSeveral does so for an IPv6 router, from which the kernel goes over to another one once it has asked in vain:
// replies are built until then, so once for each loss.
func (l *Loader) releaseOneOfSeveral(g *gateway) error {
	if g.released {
		return nil
	}
	state, err := nexthop.StateNow(l.netlink, g.Gateway)
	if err != nil || state != nexthop.StateIncomplete && state != nexthop.StateNone {
		return err
	}
	g.released = true
	return nexthop.Probe(l.netlink, g.Gateway, g.last)
}

// askAnew has the gateways of an interface asked whose carrier is back: who is at the other end
// may be another, or not be there yet.
func (l *Loader) askAnew(device int) {
	for _, g := range l.gateways {
		if g.Interface == device {
			g.released = false
		}
		if g.Interface == device && !g.held && l.served[device].enforces() {
			g.anew, g.asked, g.resolveAt = true, time.Time{}, time.Now()
		}
	}
}

// ask has the kernel look for a gateway whose silence is bridged, and tells whether it did.
func (l *Loader) ask(g *gateway, now time.Time) (bool, error) {
	anew, inVain := g.anew, g.awaited
	g.anew, g.awaited = false, false
	switch {
	case !l.mayHold(g) || g.bridged:
		return false, nil
	case g.awaitsMAC() && !inVain && (g.State != nexthop.StateIncomplete || g.isUnknown()): // else it has been asked already
		g.awaited = true
		g.schedule(now)
		return true, nexthop.Resolve(l.netlink, g.Gateway)
	case g.awaitsMAC() && g.isUnknown():
		return true, l.holdUnknown(g)
	case g.isUnknown():
		return false, nil
	case g.awaitsMAC(), anew && g.State != nexthop.StatePermanent && g.State != nexthop.StateNoARP:
		return true, l.bridge(g)
	}
	return false, nil
}

// holdUnknown holds a gateway that has never answered, unless the kernel has its MAC by now.
func (l *Loader) holdUnknown(g *gateway) error {
	state, err := nexthop.StateNow(l.netlink, g.Gateway)
	if err != nil || nexthop.Usable(state) {
		return err // the event is on its way
	}
	l.hold(g)
	l.recordGateways()
	return l.save()
}

// letGo takes back what hold and bridge did. A start that may still fail leaves that for later.
func (l *Loader) letGo(g *gateway) {
	if !g.held && !g.bridged {
		return
	}
	err := l.tx.Postpone(func() error { return l.endHold(g) })
	if err != nil {
		l.log.Error("what was done for a gateway that did not answer is not taken back", "gateway", g.Address, "error", err)
	}
}

// endHold has the kernel's own neighbour entry count again.
func (l *Loader) endHold(g *gateway) (err error) {
	if g.held {
		l.log.Info("neighbour entry of the gateway is the kernel's again",
			"interface", l.nameOf(g.Interface), "gateway", g.Address, "state", g.State)
		err = l.releaseHeld(g)
	}
	g.held, g.bridged, g.heldBy = false, false, nil
	return errors.Join(err, l.restoreAsking())
}

// releaseHeld has the programs take a gateway for any other.
func (l *Loader) releaseHeld(g *gateway) error {
	err := l.forgetHeld(g)
	for _, other := range l.gateways {
		if other != g && other.held && other.Interface == g.Interface {
			return err
		}
	}
	target := attach.Interface{Index: g.Interface, Name: l.nameOf(g.Interface)}
	return errors.Join(err, l.attacher.DetachFrom(target, attach.Last))
}

// attachHeld attaches the program that answers what the host starts by a gateway
// that is held: without the entry, it would get an error. Where the interface has no
// programs yet, attachAllHeld does.
func (l *Loader) attachHeld(g *gateway) error {
	s := l.served[g.Interface]
	if s == nil || s.mechanism == attach.Auto || !s.hasHeader() || g.heldBy == l.datapath || g.isUnknown() {
		return nil
	}
	if _, err := l.attacher.Attach(s.target(), l.datapath.HeldPrograms()); err != nil {
		return fmt.Errorf("interface %s: %w", s.Name, err)
	}
	g.heldBy = l.datapath
	return nil
}

// forgetHeldPrograms has attachAllHeld attach them again on an interface whose programs
// were all taken off.
func (l *Loader) forgetHeldPrograms(device int) {
	for _, g := range l.gateways {
		if g.Interface == device {
			g.heldBy = nil
		}
	}
}

// attachAllHeld does so for the gateways that are held since before their interfaces had
// programs, or since before there were others.
func (l *Loader) attachAllHeld() error {
	var errs []error
	for _, g := range l.gateways {
		if g.held {
			errs = append(errs, l.tx.Postpone(func() error { return l.attachHeld(g) }))
		}
	}
	return errors.Join(errs...)
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

// heldKey is the key of a gateway in the map `held_gateways`, for packets of a family.
func heldKey(g *gateway, family uint8) bpf.DatapathGatewayMac {
	key := bpf.DatapathGatewayMac{Ifindex: uint32(g.Interface), Family: family}
	copy(key.Mac[:], g.last)
	return key
}

// tellHeld tells the programs that an entry is held, for a while, unless the gateway forwards all
// the same. They know the MAC that nobody has.
func (l *Loader) tellHeld(g *gateway) error {
	if g.isUnknown() {
		return nil
	}
	if s := l.served[g.Interface]; s != nil && l.makesProgress(g) {
		return l.forgetHeld(g)
	}
	clock, err := l.datapath.Clock()
	if err != nil {
		return err
	}
	for _, family := range g.families() {
		if err := l.datapath.HeldGateways.Put(heldKey(g, family), clock.After(heldFor)); err != nil {
			return fmt.Errorf("write held gateway %s: %w", g.Address, err)
		}
	}
	return nil
}

func (l *Loader) forgetHeld(g *gateway) error {
	for _, family := range g.families() { // the other one may be another gateway's, of the same MAC
		if err := l.datapath.HeldGateways.Delete(heldKey(g, family)); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("forget held gateway %s: %w", g.Address, err)
		}
	}
	return nil
}

// forgetLast has the programs forget the MAC that a held gateway had, where it has got another:
// by that one nobody would ask for it again.
func (l *Loader) forgetLast(g *gateway, mac net.HardwareAddr) {
	if !g.held || g.isUnknown() || bytes.Equal(g.last, mac) {
		return
	}
	if err := l.forgetHeld(g); err != nil {
		l.log.Error("the earlier mac of a silent gateway is kept", "gateway", g.Address, "error", err)
	}
}

// recall fills in what an earlier process wrote down of a gateway.
func (g *gateway) recall(r *pins.GatewayRecord) {
	g.held, g.bridged = r.Held, r.Bridged
	if mac, err := net.ParseMAC(r.MAC); err == nil {
		g.last = mac
	}
}
