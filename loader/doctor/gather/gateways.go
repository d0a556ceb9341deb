// SPDX-License-Identifier: Apache-2.0

package gather

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"replypath/loader/nexthop"
)

// probeTime is enough for a gateway that was asked to answer, or not: three
// requests, one a second by default (ucast_solicit, mcast_solicit).
const probeTime = 4 * time.Second

// gateways finds the gateways and asks those that are not known to answer.
func (g *gatherer) gateways() (err error) {
	if g.Quiet {
		g.host.Gateways, err = nexthop.Gateways(g.netlink, g.host.Interfaces)
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), probeTime)
	defer cancel()
	events, err := nexthop.Watch(ctx)
	if err != nil {
		return err
	}
	defer func() {
		cancel()
		for range events { // until its socket is closed
		}
	}()
	g.host.Gateways, err = nexthop.Gateways(g.netlink, g.host.Interfaces)
	if err != nil {
		return err
	}
	if err := ask(g.netlink, g.host.Gateways); err != nil {
		return err
	}
	g.host.Asked = true
	for ok := true; ok; {
		g.host.Gateways, err = nexthop.Gateways(g.netlink, g.host.Interfaces)
		if err != nil || !slices.ContainsFunc(g.host.Gateways, g.isAwaited) {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case _, ok = <-events:
		}
	}
	return nil
}

// isAwaited tells whether the kernel is finding out about a gateway.
func (g *gatherer) isAwaited(gateway nexthop.Gateway) bool {
	switch gateway.State {
	case nexthop.StateNone, nexthop.StateIncomplete, nexthop.StateDelay, nexthop.StateProbe:
		i := g.host.Managed(gateway.Interface)
		return i != nil && i.Up
	}
	return false
}

// ask has the kernel find out about every gateway that has not answered lately.
// One that is stale is probed at once, which does not keep packets from using it.
func ask(handle *netlink.Handle, gateways []nexthop.Gateway) error {
	for _, gateway := range gateways {
		var err error
		switch gateway.State {
		case nexthop.StateNone, nexthop.StateFailed:
			err = nexthop.Resolve(handle, gateway)
		case nexthop.StateStale, nexthop.StateDelay:
			err = handle.NeighSet(&netlink.Neigh{
				LinkIndex: gateway.Interface, IP: gateway.Address.AsSlice(), State: netlink.NUD_PROBE,
			})
		}
		if err != nil && !errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.ENETDOWN) {
			return fmt.Errorf("ask gateway %s: %w", gateway.Address, err)
		}
	}
	return nil
}
