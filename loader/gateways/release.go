// SPDX-License-Identifier: Apache-2.0

package gateways

import (
	"errors"
	"slices"

	"golang.org/x/sys/unix"

	"replypath/loader/nexthop"
)

// waiting is what the host has sent by a gateway that has no MAC yet.
type waiting struct{ *Host }

// release lets go what waits for one of several IPv6 routers where the carrier is gone, as TCP repeats no segment that waits
// (skb_still_in_host_queue() in net/ipv4/tcp_output.c). The kernel asks in vain for three seconds, and goes over to another
// one then: that is done once for each loss.
func (w *waiting) release(g *gateway) error {
	if !w.Interface(g.Interface).Enforces || len(g.last) == 0 || !w.WantsFallback() || g.wroteLast || !w.isOneOfSeveral(g) {
		return nil
	}
	g.wroteLast = true
	return nexthop.Probe(w.Netlink(), g.Gateway, g.last)
}

// haveSocketsPassOver has sockets look for a route anew where the kernel may go over from a silent gateway to another one: by
// IPv6 they keep the route that they have until they have repeated a segment three times.
func (w *waiting) haveSocketsPassOver(g *gateway) {
	if !w.isOneOfSeveral(g) {
		return
	}
	hasFallback, err := w.Renew()
	isDone := g.toldSilent && g.wroteLast // in this silence
	mayWrite := w.Interface(g.Interface).Enforces && len(g.last) != 0
	if err == nil && hasFallback && mayWrite && !isDone {
		err = w.releaseFailed(g)
	}
	if err = unlessGone(err); err != nil {
		w.Log.Error("open IPv6 connections go on to a silent gateway for a while", "gateway", g.Address, "error", err)
	}
}

// releaseFailed lets go what sockets have sent since the kernel gave a gateway up: it waits until the kernel has asked in vain
// once more, and TCP repeats no segment that waits. That is done once for each silence, as others may send by that gateway
// alone. It fails at once then, so that the kernel goes over to another one.
func (w *waiting) releaseFailed(g *gateway) error {
	const tries = 3 // in which more may be sent
	for range tries {
		state, err := nexthop.StateNow(g.Gateway)
		if err != nil || state != nexthop.StateIncomplete {
			return err
		}
		g.wroteLast = true
		probeErr, failErr := nexthop.Probe(w.Netlink(), g.Gateway, g.last), nexthop.Fail(w.Netlink(), g.Gateway)
		_, err = w.Renew()
		if err := errors.Join(probeErr, failErr, err); err != nil {
			return err
		}
	}
	return nil
}

// isOneOfSeveral tells whether a gateway is one of the IPv6 routers among which the kernel chooses for its default routes. Its
// own may count as lost already: the carrier's event is about both.
func (w *waiting) isOneOfSeveral(g *gateway) bool {
	return g.IPv6 && g.Main && slices.ContainsFunc(w.Defaults(), func(d nexthop.Default) bool {
		return d.Family == unix.AF_INET6 && (gatewayKey{d.Interface, d.Gateway}) != keyOf(&g.Gateway)
	})
}
