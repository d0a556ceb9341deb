// SPDX-License-Identifier: Apache-2.0

package gateways

import (
	"errors"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"replypath/loader/nexthop"
)

// Track makes what was found the known gateways.
func (t *Table) Track(found *nexthop.Routers) error {
	var errs []error
	present := make(map[gatewayKey]bool)
	only := onlyGateways(found.Defaults, func(a, b gatewayKey) bool { return a == b })
	alone := onlyGateways(found.Defaults, func(a, b gatewayKey) bool { return a.device == b.device })
	t.records.recall()
	for _, seen := range found.Gateways {
		key := keyOf(&seen)
		present[key] = true
		if t.gateways[key] == nil {
			record, err := t.records.identify(key)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			t.gateways[key] = &gateway{id: record.ID}
			t.gateways[key].recall(record)
		}
		t.gateways[key].only, t.gateways[key].alone = only[key], alone[key]
		t.observe(t.gateways[key], seen)
	}
	for key, g := range t.gateways {
		if present[key] {
			continue
		}
		if t.letGo(g); !g.isHeld() {
			delete(t.gateways, key)
		}
	}
	t.records.write()
	return errors.Join(append(errs, t.settings.keep(), t.settings.restore())...)
}

// observe notes what the kernel says of a gateway now.
func (t *Table) observe(g *gateway, seen nexthop.Gateway) {
	before := g.Gateway
	g.Gateway = seen
	if seen.MAC != nil && !g.isUnanswered(&seen) {
		if !g.isOwnProbe(&seen) {
			t.host.logMAC(g, seen.MAC)
		}
		t.programs.forgetLast(g, seen.MAC)
		g.mac, g.last, g.toldSilent, g.wroteLast = seen.MAC, seen.MAC, false, false
	}
	if !g.awaitsMAC() {
		g.on(onMAC)
	}
	g.wroteStale = g.wroteStale && (isStale(seen.State) || !isStale(before.State)) // an event may be of before
	t.tendHold(g, before.State == "")
	if seen.State == nexthop.StateIncomplete && before.State != seen.State && !g.isHeld() && !t.host.Interface(g.Interface).Up {
		if err := unlessGone(t.waiting.release(g)); err != nil { // the kernel has dropped the entry after the event of the carrier
			t.host.Log.Error("what waits for a gateway is not released", "gateway", g.Address, "error", err)
		}
	}
	hasFailed := seen.State == nexthop.StateFailed && !g.isHeld()
	if hasFailed && before.State != seen.State {
		g.failed = time.Now()
		t.waiting.haveSocketsPassOver(g)
	}
	if hasFailed && !g.deleting {
		if !g.toldSilent {
			t.host.Log.Warn("gateway does not answer", "interface", t.host.NameOf(g.Interface), "gateway", g.Address)
		}
		g.mac, g.toldSilent = nil, true
	}
	switch {
	case !t.host.Interface(g.Interface).Enforces:
		g.resolveAt = time.Time{} // the kernel asks when it wants to know
	case hasFailed && before.State != seen.State:
		// At once: the kernel may have asked in vain with the address of another
		// NIC, that of the packet that waited for the answer.
		g.resolveAt = later(time.Now(), g.asked.Add(resolveFailed))
	case before.State != seen.State || g.resolveAt.IsZero():
		g.schedule(time.Now())
	}
}

// Neighbour applies a neighbour event and tells whether it is about a
// gateway, and whether the journal is to be saved.
func (t *Table) Neighbour(seen nexthop.Gateway) (isGateway, recorded bool) {
	g := t.gateways[keyOf(&seen)]
	if g == nil {
		return false, false
	}
	now := g.Gateway // what routes tell stays
	now.State, now.MAC, now.Requested = seen.State, seen.MAC, seen.Requested
	wasHeld, wasBridged := g.isHeld(), g.isBridged()
	counted := t.host.noteDeletion(g, now)
	t.observe(g, now)
	if recorded = wasHeld != g.isHeld() || wasBridged != g.isBridged() || counted; recorded {
		t.records.write()
	}
	return true, recorded
}

// Due has the kernel resolve the gateways whose time has come.
func (t *Table) Due(now time.Time) {
	for _, g := range t.gateways {
		if g.resolveAt.IsZero() || g.resolveAt.After(now) {
			continue
		}
		if err := unlessGone(t.resolve(g, now)); err != nil {
			t.host.Log.Debug("gateway cannot be resolved", "interface", t.host.NameOf(g.Interface), "error", err)
		}
	}
}

func (t *Table) resolve(g *gateway, now time.Time) error {
	if !t.host.Interface(g.Interface).Enforces {
		g.resolveAt = time.Time{}
		return nil
	}
	if g.isHeld() && g.isUnknown() {
		return t.keepUnknown(g, now)
	}
	if g.isHeld() {
		g.resolveAt = now.Add(tellEvery)
		if g.State == nexthop.StateFailed {
			t.tendHold(g, false)
			return nil
		}
		return t.programs.tell(g)
	}
	if t.isPassedOver(g) && now.Before(later(g.asked, g.failed).Add(resolveSeldom)) {
		g.resolveAt = now.Add(resolveAgain)
		return nil
	}
	g.asked, g.resolveAt = now, now.Add(resolveAgain)
	if !t.host.Interface(g.Interface).Up {
		return nil
	}
	if asked, err := t.ask(g, now); asked {
		return err
	}
	return g.resolve(t.host.Netlink())
}

// isPassedOver tells whether the kernel may go over from a silent gateway to another one, for as long as that one's entry is a
// failed one. IPv4 passes over an entry that is being asked for as well (fib_good_nh() in net/ipv4/fib_semantics.c), IPv6 takes
// that for usable (rt6_check_neigh() in net/ipv6/route.c).
func (t *Table) isPassedOver(g *gateway) bool {
	if g.State != nexthop.StateFailed || g.mac != nil || !g.IPv6 || !g.Main || g.only {
		return false
	}
	return slices.ContainsFunc(t.host.Defaults(), func(d nexthop.Default) bool {
		other := t.gateways[gatewayKey{d.Interface, d.Gateway}] // nil where nobody knows its state
		return d.Family == unix.AF_INET6 && other != g && (other == nil || nexthop.Usable(other.State))
	})
}
