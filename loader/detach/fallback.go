package detach

import (
	"errors"
	"fmt"
	"slices"

	"replypath/loader/attach"
	"replypath/loader/discover"
	"replypath/loader/fallback"
	"replypath/loader/nexthop"
)

// fallback removes the routes. Those for bound sockets would be everybody's without the others.
func (d *detacher) fallback() error {
	if d.beside {
		return nil
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

// fallback puts the earlier programs on the device, or takes it and the routes away where there was
// none.
func (r *restorer) fallback() error {
	if r.before.Fallback == nil {
		return r.detacher.fallback()
	}
	device, err := fallback.Find(r.netlink, true)
	if device == nil || err != nil {
		return errors.Join(err, r.detacher.boundRoutes())
	}
	programs, known := r.earlier.FallbackPrograms()
	if !known {
		return fmt.Errorf("interface %s: the programs that were attached before are not pinned", discover.OwnDevice)
	}
	target := fallback.Target(device.Index)
	result, err := r.by(r.before.Fallback.Mechanism).Attach(target, programs)
	err = errors.Join(err, fallback.RenewAll(r.netlink, device, r.earlier.Gate()), r.boundRoutes())
	if err != nil || result.Mechanism == attach.Clsact {
		return err
	}
	return r.attacher.RemoveQdisc(target) // that a trial by clsact has added
}

// boundRoutes removes them, whoever made them.
func (d *detacher) boundRoutes() error {
	routers, err := nexthop.FindOwn(d.netlink)
	if err != nil {
		return err
	}
	removed, err := fallback.RemoveBound(d.netlink, routers.Bound)
	if len(removed) > 0 {
		d.done("%d default routes for sockets that are bound to a device", len(removed))
	}
	return err
}

// boundRoutes makes them those of before, on interfaces that are still there.
func (r *restorer) boundRoutes() error {
	routers, err := nexthop.FindOwn(r.netlink)
	if err != nil {
		return err
	}
	present, err := r.identities(r.before).PresentFallback(r.before.Fallback)
	if err != nil {
		return err
	}
	var before []nexthop.Default
	for _, record := range present.Bound {
		before = append(before, nexthop.Default{Interface: record.Interface, Gateway: record.Gateway, Family: record.Family})
	}
	wasThere := func(hop nexthop.Default) bool { return slices.Contains(before, hop) }
	_, removeErr := fallback.RemoveBound(r.netlink, slices.DeleteFunc(routers.Bound, wasThere))
	_, addErr := fallback.AddBound(r.netlink, before)
	return errors.Join(removeErr, addErr)
}
