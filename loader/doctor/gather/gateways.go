package gather

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"replypath/loader/doctor/snapshot"
	"replypath/loader/nexthop"
)

// probeTime is enough for a gateway that was asked to answer, or not: three
// requests, one a second by default (ucast_solicit, mcast_solicit).
const probeTime = 4 * time.Second

// gateways finds the gateways and asks those that are not known to answer.
func gateways(handle *netlink.Handle, host *snapshot.Links) ([]nexthop.Gateway, error) {
	ctx, cancel := context.WithTimeout(context.Background(), probeTime)
	defer cancel()
	events, err := nexthop.Watch(ctx)
	if err != nil {
		return nil, err
	}
	defer func() {
		cancel()
		for range events { // until its socket is closed
		}
	}()
	found, err := nexthop.Gateways(handle, host.Interfaces)
	if err != nil {
		return found, err
	}
	if err := ask(handle, found); err != nil {
		return found, err
	}
	for {
		found, err = nexthop.Gateways(handle, host.Interfaces)
		if err != nil || !slices.ContainsFunc(found, func(g nexthop.Gateway) bool { return isAwaited(host, g) }) {
			return found, err
		}
		select {
		case <-ctx.Done():
			return found, nil
		case _, ok := <-events:
			if !ok {
				return found, nil
			}
		}
	}
}

// isAwaited tells whether the kernel is finding out about a gateway.
func isAwaited(host *snapshot.Links, gateway nexthop.Gateway) bool {
	switch gateway.State {
	case nexthop.StateNone, nexthop.StateIncomplete, nexthop.StateDelay, nexthop.StateProbe:
		i := host.Managed(gateway.Interface)
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
