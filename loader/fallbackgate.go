package loader

import (
	"github.com/cilium/ebpf"

	"replypath/loader/datapath"
	"replypath/loader/fallback"
)

// gateOf returns the program that the fallback routes ask, nil for none: that of a datapath that asks an
// earlier one does not know what only that one has recorded, and would take answers for what the host starts.
func gateOf(by *datapath.Datapath) *ebpf.Program {
	if by == nil || by.AsksEarlier() {
		return nil
	}
	return by.Gate()
}

// haveRoutesAsk has the fallback routes ask the gate of a datapath, unless they do. A start that fails takes it
// back, openGate does so where flows are recorded in two datapaths.
func (l *Loader) haveRoutesAsk(by *datapath.Datapath) error {
	r, gate := &l.fallback, gateOf(by)
	if r.device == nil || r.told && r.asked == gate {
		return nil
	}
	device := r.device
	if !by.AsksEarlier() {
		l.tx.OnAbort(func() error { return fallback.RenewAll(l.netlink, device, by.Earlier().Gate()) })
	}
	if err := fallback.RenewAll(l.netlink, r.device, gate); err != nil {
		return err
	}
	r.told, r.asked = true, gate
	return nil
}

// openGate has the fallback routes of a device ask nobody while flows are recorded in two datapaths. A start that
// fails has them ask the earlier program again.
func (l *Loader) openGate(index int, earlier *ebpf.Program) error {
	device := &fallback.Device{Index: index}
	l.tx.OnAbort(func() error { return fallback.RenewAll(l.netlink, device, earlier) })
	l.fallback.told = false
	return fallback.RenewAll(l.netlink, device, nil)
}
