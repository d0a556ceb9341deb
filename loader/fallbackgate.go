package loader

import (
	"replypath/loader/datapath"
	"replypath/loader/fallback"
)

// haveRoutesAsk has the fallback routes ask the gate of a datapath, unless they do. A start that fails takes it
// back.
func (l *Loader) haveRoutesAsk(by *datapath.Datapath) error {
	r, gate := &l.fallback, by.Gate()
	if r.device == nil || r.asked == gate {
		return nil
	}
	device := r.device
	l.tx.OnAbort(func() error { return fallback.RenewAll(l.netlink, device, by.Earlier().Gate()) })
	if err := fallback.RenewAll(l.netlink, device, gate); err != nil {
		return err
	}
	r.asked = gate
	return nil
}
