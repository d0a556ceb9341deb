// SPDX-License-Identifier: Apache-2.0

package gateways

import (
	"errors"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"replypath/loader/attach"
	"replypath/loader/nexthop"
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
// has that MAC goes to everybody (bpf/src/outage.h).
//
// By reading: where the kernel has no tail calls beside functions (arm64 before 6.0), what the host starts by it is dropped,
// and not refused. Frames that leave with a tag by the parent of a VLAN device pass the programs of the VLAN alone. A
// gateway that answers IPv6 without the Override flag is heeded after 35 s at most (withoutMACEvery).
//
// That is done only to the one gateway of a family's default routes, by IPv4 of those of the smallest metric, and without a
// carrier to all of the one interface by which these lead. Where there are others, the kernel may choose among them by the state of their entries (rt6_check_neigh() in
// net/ipv6/route.c, fib_detect_death() in net/ipv4/fib_semantics.c).

// onlyGateways returns those beside which the default routes of their families have no other next hop, but for those that the
// kernel does not go over to. What is no other one is told by same.
func onlyGateways(defaults []nexthop.Default, same func(a, b gatewayKey) bool) map[gatewayKey]bool {
	keyOf := func(d nexthop.Default) gatewayKey { return gatewayKey{d.Interface, d.Gateway} }
	only := make(map[gatewayKey]bool)
	for _, d := range defaults {
		if d.Behind || !d.Gateway.IsValid() {
			continue
		}
		isOther := func(o nexthop.Default) bool { return !o.Behind && o.Family == d.Family && !same(keyOf(o), keyOf(d)) }
		before, known := only[keyOf(d)] // of the other family: an IPv4 route may lead by one of several IPv6 routers
		only[keyOf(d)] = !slices.ContainsFunc(defaults, isOther) && (before || !known)
	}
	return only
}

// tendHold holds a gateway that has just failed, and lets go of one that has
// answered. One that had failed before a route led by it is asked first, but without a carrier nobody can be.
func (t *Table) tendHold(g *gateway, isNew bool) {
	on := t.host.Interface(g.Interface)
	switch {
	case !on.Enforces:
		t.letGo(g)
	case g.State == nexthop.StateFailed && isNew && on.Up && !g.isHeld() && !g.isBridged():
	case g.State == nexthop.StateFailed, g.isHeld() && g.State == nexthop.StateNone,
		g.State == nexthop.StateIncomplete && (g.isHeld() || !on.Up && !t.host.hasCarrier(g)): // without one nobody can answer
		if t.host.mayHold(g) {
			t.hold(g)
		} else {
			t.letGo(g)
		}
	case g.State == nexthop.StateNone && g.isBridged(): // somebody deleted it, or the carrier went
		t.letGo(g)
	case g.isNobodys() && g.isHeld() && !t.host.mayHold(g): // the kernel would not fail it, as keepUnknown goes on
		t.letGo(g)
	case g.State == nexthop.StateProbe || g.State == nexthop.StateNone || g.State == nexthop.StateSilent || g.isUnanswered(&g.Gateway):
		// It is asked, or is about to be, or somebody deleted the entry: that tells nothing.
	default:
		t.letGo(g)
	}
}

// hasCarrier asks the kernel, whose event that a carrier is back may come behind that of what waits: what the host starts by the
// gateway is not to be refused then.
func (h *Host) hasCarrier(g *gateway) bool {
	link, err := h.Netlink().LinkByIndex(g.Interface)
	return err == nil && link.Attrs().RawFlags&(unix.IFF_UP|unix.IFF_LOWER_UP) == unix.IFF_UP|unix.IFF_LOWER_UP
}

// hold keeps the entry of a gateway usable. Where the kernel fails it at once, as somebody has it ask
// nobody, that is done so often only until askedSettings.keep has changed the settings again.
func (t *Table) hold(g *gateway) {
	if g.isHeld() && g.isUnknown() {
		return // keepUnknown does so
	}
	if g.isHeld() && g.State == nexthop.StateFailed && time.Since(g.probed) < resolveFailed {
		return // schedule has the time
	}
	isNew, isUp := !g.isHeld(), t.host.Interface(g.Interface).Up
	g.probed, g.checkFor = time.Now(), t.host.askUnknownEvery(g)
	var errs []error
	if isNew {
		g.on(onHold)
		g.progress = progress{} // what was found before is of another silence
		t.host.logHeld(g, isUp)
		errs = append(errs, t.programs.attach(g))
	}
	if !isUp { // a SYN that waits is refused when it is let go
		errs = append(errs, t.programs.tell(g))
	}
	errs = append(errs, nexthop.Probe(t.host.Netlink(), g.Gateway, g.stopgap()))
	if isUp { // it may take its time to look at connections
		errs = append(errs, t.programs.tell(g))
	}
	if isNew && !g.isUnknown() {
		errs = append(errs, t.settings.haveEverybodyAsked(g))
	}
	if err := unlessGone(errors.Join(errs...)); err != nil {
		t.host.Log.Error("the neighbour entry of a silent gateway is not held", "gateway", g.Address, "error", err)
	}
}

// keepUnknown keeps the entry of a held gateway usable that has never answered, while the kernel asks for it. Where the
// kernel failed the entry, as somebody has it ask less or sooner, and now and then, the gateway has bridgeAfter to answer
// without a MAC: then any answer is heeded.
func (t *Table) keepUnknown(g *gateway, now time.Time) error {
	if !t.host.mayHold(g) {
		t.letGo(g)
		t.records.write()
		return t.host.Save()
	}
	inVain := g.isAwaited()
	g.on(onOver)
	if g.checks++; !inVain && (g.awaitsMAC() || g.checks%withoutMACEvery == 0) {
		return t.host.askWithoutMAC(g, now)
	}
	g.probed, g.checkFor = now, t.host.askUnknownEvery(g)
	g.schedule(now)
	return errors.Join(
		nexthop.PutBack(t.host.Netlink(), g.Gateway, g.stopgap()), // a timer begins with another state only: see probeAnew
		nexthop.Probe(t.host.Netlink(), g.Gateway, g.stopgap()))
}

// askWithoutMAC has the kernel ask for a gateway that is held as for one that it knows no MAC of.
func (h *Host) askWithoutMAC(g *gateway, now time.Time) (err error) {
	g.on(onAsk)
	g.asked = now
	g.schedule(now)
	if !g.awaitsMAC() {
		err = nexthop.Fail(h.Netlink(), g.Gateway)
	}
	return errors.Join(err, nexthop.Resolve(h.Netlink(), g.Gateway))
}

// bridge has replies built while a gateway is asked for that has not answered yet since a
// route leads by it again, or its link is up: a router that boots is slower than its cable.
// Its entry gets the last MAC, as one that is being checked, and the kernel asks everybody
// meanwhile, as it would without. Nothing is said of the gateway, and nothing of what the host
// starts is refused: once the kernel has asked in vain it is held.
func (t *Table) bridge(g *gateway) error {
	g.on(onBridge)
	t.records.write()
	t.host.Log.Debug("gateway has not answered yet, replies by other interfaces are built with the mac that it had",
		"interface", t.host.NameOf(g.Interface), "gateway", g.Address, "mac", g.last.String())
	return errors.Join(t.settings.haveEverybodyAsked(g), t.probeAnew(g), t.host.Save())
}

// probeAnew has the last MAC of a gateway checked from now on. One that is being checked already would be asked again only
// at its own time, up to a second later: a timer begins with another state (__neigh_update() in net/core/neighbour.c). So the
// entry is made stale, which a packet that is sent in between makes delay.
func (t *Table) probeAnew(g *gateway) error {
	g.wroteStale = true
	if err := nexthop.PutBack(t.host.Netlink(), g.Gateway, g.last); err != nil {
		return err
	}
	return nexthop.Probe(t.host.Netlink(), g.Gateway, g.last)
}

// ask has the kernel look for a gateway whose silence is bridged, and tells whether it did.
func (t *Table) ask(g *gateway, now time.Time) (bool, error) {
	anew, inVain := g.stage == fresh, g.isAwaited()
	g.on(onOver)
	switch {
	case !t.host.mayHold(g) || g.isBridged():
		return false, nil
	case g.awaitsMAC() && !inVain && (g.State != nexthop.StateIncomplete || g.isUnknown()): // else it has been asked already
		g.on(onAsk)
		g.schedule(now)
		return true, nexthop.Resolve(t.host.Netlink(), g.Gateway)
	case g.awaitsMAC() && g.isUnknown():
		return true, t.holdUnknown(g)
	case g.isUnknown():
		return false, nil
	case g.awaitsMAC(), anew && g.State != nexthop.StatePermanent && g.State != nexthop.StateNoARP:
		return true, t.bridge(g)
	}
	return false, nil
}

// holdUnknown holds a gateway that has never answered, unless the kernel has its MAC by now.
func (t *Table) holdUnknown(g *gateway) error {
	state, err := nexthop.StateNow(g.Gateway)
	if err != nil || nexthop.Usable(state) {
		return err // the event is on its way
	}
	t.hold(g)
	t.records.write()
	return t.host.Save()
}

// letGo takes back what hold and bridge did. A start that may still fail leaves that for later.
func (t *Table) letGo(g *gateway) {
	if !g.isHeld() && !g.isBridged() {
		return
	}
	err := t.host.Tx.Postpone(func() error { return t.endHold(g) })
	if err != nil {
		t.host.Log.Error("what was done for a gateway that did not answer is not taken back", "gateway", g.Address, "error", err)
	}
}

// endHold has the kernel's own neighbour entry count again.
func (t *Table) endHold(g *gateway) (err error) {
	if g.isHeld() {
		t.host.Log.Info("neighbour entry of the gateway is the kernel's again",
			"interface", t.host.NameOf(g.Interface), "gateway", g.Address, "state", g.State)
		err = t.releaseHeld(g)
	}
	g.on(onLetGo)
	g.heldBy = nil
	if g.isNobodys() { // so that the kernel asks for it, or goes over to another one
		err = errors.Join(err, unlessGone(nexthop.Fail(t.host.Netlink(), g.Gateway)))
	}
	return errors.Join(err, t.settings.restore())
}

// releaseHeld has the programs take a gateway for any other.
func (t *Table) releaseHeld(g *gateway) error {
	err := t.programs.forget(g)
	for _, other := range t.gateways {
		if other != g && other.isHeld() && other.Interface == g.Interface {
			return err
		}
	}
	target := attach.Interface{Index: g.Interface, Name: t.host.NameOf(g.Interface)}
	return errors.Join(err, t.host.Attacher().DetachFrom(target, attach.Last))
}
