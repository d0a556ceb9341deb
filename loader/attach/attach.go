// SPDX-License-Identifier: Apache-2.0

// Package attach puts the programs on an interface, by TCX where the kernel
// has it and by clsact with cls_bpf where it has not, and takes them off again.
// It never touches a filter, link or qdisc of somebody else.
package attach

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
)

// Attach puts the programs on their hooks, or replaces earlier ones of ours
// without a gap. The other mechanism is cleaned up after success. On error what
// this call newly attached is taken off again.
func (a *Attacher) Attach(iface Interface, programs Programs) (Result, error) {
	if a.force != Clsact {
		result, err := a.attachTCX(iface, programs)
		if err == nil {
			return result, a.detachClsact(iface)
		}
		if a.force == TCX || !errors.Is(err, ebpf.ErrNotSupported) {
			return Result{}, err
		}
	}
	result, err := a.attachClsact(iface, programs)
	if err != nil {
		return Result{}, err
	}
	return result, a.detachTCX(iface)
}

// Attached returns the mechanism by which our program is attached to the hook,
// and false where it is not, whatever is pinned.
func (a *Attacher) Attached(iface Interface, direction Direction) (Mechanism, bool, error) {
	attached, err := a.link(iface, direction).IsAttached()
	if err != nil {
		return Auto, false, err
	}
	if attached {
		return TCX, true, nil
	}
	filter, err := a.findFilter(iface, direction)
	if filter == nil || err != nil {
		return Auto, false, err
	}
	return Clsact, true, nil
}

// MechanismOf returns how programs are attached in all these places, Auto where one is missing.
func MechanismOf(a Means, target Interface, places ...Direction) (mechanism Mechanism, err error) {
	for _, place := range places {
		var attached bool
		mechanism, attached, err = a.Attached(target, place)
		if !attached || err != nil {
			return Auto, err
		}
	}
	return mechanism, nil
}

// Detach takes our programs off all places. An interface that is gone, or has
// none, is no error.
func (a *Attacher) Detach(iface Interface) error {
	return errors.Join(a.detachTCX(iface), a.detachClsact(iface))
}

// DetachFrom takes our program off one place.
func (a *Attacher) DetachFrom(iface Interface, direction Direction) error {
	return errors.Join(a.removeLink(iface, direction), a.removeFilter(iface, direction))
}

// DetachStrays takes our programs off interfaces that nobody knows: those that are gone, and those of a process that was
// killed in its start.
func DetachStrays(a Means, isKnown func(index int) bool) error {
	pinned, err := a.Pinned()
	errs := []error{err}
	for _, index := range pinned {
		if !isKnown(index) {
			errs = append(errs, a.Detach(Interface{Index: index, Name: fmt.Sprintf("interface %d", index)}))
		}
	}
	return errors.Join(errs...)
}
