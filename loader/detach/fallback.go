// SPDX-License-Identifier: Apache-2.0

package detach

import (
	"errors"

	"replypath/loader/discover"
	"replypath/loader/fallback"
	"replypath/loader/nexthop"
)

// fallback removes rules and routes. Those for bound sockets would be everybody's without the others.
func (d *detacher) fallback() error {
	rules, err := fallback.RemoveRules(d.netlink)
	if err != nil {
		return err
	}
	if rules > 0 {
		d.done("%d rules for replies", rules)
	}
	if err := d.boundRoutes(); err != nil {
		return err
	}
	return d.fallbackDevice()
}

// fallbackDevice removes the device with its routes, if its record or its alias
// says that it is ours.
func (d *detacher) fallbackDevice() error {
	device, err := fallback.Find(d.netlink, d.journal.Fallback != nil)
	if errors.Is(err, fallback.ErrForeign) {
		return nil
	}
	if device == nil || err != nil {
		return err
	}
	if err := fallback.Remove(d.netlink, device); err != nil {
		return err
	}
	d.done("device %s with the fallback default routes", discover.OwnDevice)
	return nil
}

// boundRoutes removes them, whoever made them.
func (d *detacher) boundRoutes() error {
	routers, err := nexthop.FindOwn()
	if err != nil {
		return err
	}
	removed, err := fallback.RemoveBound(d.netlink, routers.Bound)
	if len(removed) > 0 {
		d.done("%d default routes for sockets that are bound to a device", len(removed))
	}
	return err
}
