package loader

import (
	"errors"
	"fmt"

	"replypath/loader/attach"
	"replypath/loader/discover"
	"replypath/loader/fallback"
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
	target := fallbackTarget(device.Index)
	result, err := r.by(r.before.Fallback.Mechanism).Attach(target, programs)
	err = errors.Join(err, renewRoutes(r.netlink, device, r.earlier.Gate()), r.boundRoutes())
	if err != nil || result.Mechanism == attach.Clsact {
		return err
	}
	return r.attacher.RemoveQdisc(target) // that a trial by clsact has added
}
