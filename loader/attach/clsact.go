// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	// The handles and the priorities below keep clear of priority 1, handle 1,
	// where two products once deleted each other's filters, and of the numbers
	// that the kernel hands out by itself (49152 and below).
	filterHandle = 0x7270
	lastHandle   = 0x7271 // of the second filter at egress
	// filterName is the prefix of our filters' names: with handle and priority
	// it tells them from everybody else's.
	filterName = "replypath_"
	// attempts is how many priorities are tried where somebody has the first.
	attempts = 16
)

// priority returns where our filter belongs: early at ingress, late at egress, and
// later still the second one there. Later attempts move towards the middle.
func priority(direction Direction, attempt int) uint16 {
	switch direction {
	case Ingress:
		return uint16(5 + attempt)
	case Egress:
		return uint16(65520 - attempt)
	}
	return uint16(65535 - attempt)
}

func handle(direction Direction) uint32 {
	if direction == Last {
		return lastHandle
	}
	return filterHandle
}

func isOurPriority(direction Direction, p uint16) bool {
	first, last := priority(direction, 0), priority(direction, attempts-1)
	return p >= min(first, last) && p <= max(first, last)
}

func parent(direction Direction) uint32 {
	if direction == Ingress {
		return netlink.HANDLE_MIN_INGRESS
	}
	return netlink.HANDLE_MIN_EGRESS
}

func (a *Attacher) attachClsact(iface Interface, programs Programs) (Result, error) {
	addedQdisc, err := a.addQdisc(iface)
	if err != nil {
		return Result{}, err
	}
	fresh, err := attachEach(iface, programs, a.attachFilter, a.removeFilter)
	if err != nil {
		if addedQdisc {
			err = errors.Join(err, a.RemoveQdisc(iface))
		}
		return Result{}, err
	}
	return Result{Mechanism: Clsact, New: fresh}, nil
}

func (a *Attacher) qdisc(iface Interface) (netlink.Qdisc, error) {
	qdiscs, err := a.nl.QdiscList(&netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: iface.Index}})
	if err != nil {
		return nil, fmt.Errorf("list qdiscs of %s: %w", iface.Name, blameKernel(err, clsactQdisc))
	}
	for _, qdisc := range qdiscs {
		if qdisc.Attrs().LinkIndex == iface.Index && qdisc.Attrs().Parent == netlink.HANDLE_CLSACT {
			return qdisc, nil
		}
	}
	return nil, nil
}

func newClsact(iface Interface) netlink.Qdisc {
	return &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: iface.Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}}
}

// addQdisc adds a clsact qdisc where there is none.
func (a *Attacher) addQdisc(iface Interface) (added bool, err error) {
	present, err := a.qdisc(iface)
	if err != nil {
		return false, err
	}
	if present != nil {
		if present.Type() == "clsact" {
			return false, nil
		}
		return false, fmt.Errorf("%s %s where clsact is needed: tc qdisc del dev %s %[2]s takes it away, with its filters, such as a shaper's",
			Occupied(iface.Name), present.Type(), iface.Name)
	}
	if err := a.nl.QdiscAdd(newClsact(iface)); err != nil && !errors.Is(err, unix.EEXIST) {
		return false, fmt.Errorf("add clsact qdisc to %s: %w", iface.Name, blameKernel(err, clsactQdisc))
	}
	return true, nil
}

// Occupied begins what is said of an interface where somebody else's qdisc has the place of ours.
func Occupied(name string) string { return name + " has a qdisc of kind" }

// LacksQdisc tells whether attaching by clsact has to add the qdisc.
func (a *Attacher) LacksQdisc(iface Interface) (bool, error) {
	present, err := a.qdisc(iface)
	return present == nil, err
}

// RemoveQdisc deletes the clsact qdisc of an interface unless somebody has a
// filter in it. It is meant for one that Attach added.
func (a *Attacher) RemoveQdisc(iface Interface) error {
	present, err := a.qdisc(iface)
	if isGone(err) || err == nil && (present == nil || present.Type() != "clsact") {
		return nil
	}
	if err != nil {
		return err
	}
	for _, direction := range Directions {
		filters, err := a.filters(iface, direction)
		if err != nil {
			return err
		}
		if len(filters) > 0 {
			return nil
		}
	}
	if err := a.nl.QdiscDel(newClsact(iface)); err != nil && !isGone(err) {
		return fmt.Errorf("remove clsact qdisc of %s: %w", iface.Name, err)
	}
	return nil
}

func isGone(err error) bool {
	return errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENOENT)
}

// filters lists the filters of a hook; none where there is no qdisc, nor where the
// kernel has no filters at all, which TCX does not take.
func (a *Attacher) filters(iface Interface, direction Direction) ([]netlink.Filter, error) {
	filters, err := a.nl.FilterList(
		&netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: iface.Index}}, parent(direction))
	if isGone(err) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) { // EINVAL: no such qdisc
		return nil, nil
	}
	if err != nil {
		return nil, wrap(err, iface, direction, "list filters")
	}
	return filters, nil
}

// findFilter returns our filter, nil where there is none.
func (a *Attacher) findFilter(iface Interface, direction Direction) (*netlink.BpfFilter, error) {
	filters, err := a.filters(iface, direction)
	if err != nil {
		return nil, err
	}
	for _, filter := range filters {
		bpf, ok := filter.(*netlink.BpfFilter)
		if ok && bpf.Handle == handle(direction) && isOurPriority(direction, bpf.Priority) &&
			strings.HasPrefix(bpf.Name, filterName) {
			return bpf, nil
		}
	}
	return nil, nil
}

// freePriority returns the first of our priorities that nobody uses.
func (a *Attacher) freePriority(iface Interface, direction Direction) (uint16, error) {
	filters, err := a.filters(iface, direction)
	if err != nil {
		return 0, err
	}
	for attempt := range attempts {
		p := priority(direction, attempt)
		if !slices.ContainsFunc(filters, func(f netlink.Filter) bool { return f.Attrs().Priority == p }) {
			return p, nil
		}
	}
	return 0, wrap(errors.New("all our priorities are taken"), iface, direction, "attach filter")
}

// attachFilter adds our filter. One that is there already is replaced at the
// same priority and handle, which cls_bpf does without a gap.
func (a *Attacher) attachFilter(iface Interface, direction Direction, program *ebpf.Program) (fresh bool, err error) {
	present, err := a.findFilter(iface, direction)
	if err != nil {
		return false, err
	}
	var prio uint16
	if present != nil {
		prio = present.Priority
	} else if prio, err = a.freePriority(iface, direction); err != nil {
		return false, err
	}
	err = a.nl.FilterReplace(&netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: iface.Index, Parent: parent(direction), Priority: prio,
			Handle: handle(direction), Protocol: unix.ETH_P_ALL,
		},
		Fd: program.FD(), Name: filterName + string(direction), DirectAction: true,
	})
	if err != nil {
		return false, wrap(blameKernel(err, bpfFilter), iface, direction, "attach filter")
	}
	return present == nil, nil
}

func (a *Attacher) detachClsact(iface Interface) error { return removeEach(iface, a.removeFilter) }

func (a *Attacher) removeFilter(iface Interface, direction Direction) error {
	filter, err := a.findFilter(iface, direction)
	if filter == nil || err != nil {
		return err
	}
	if err := a.nl.FilterDel(filter); err != nil && !isGone(err) {
		return wrap(err, iface, direction, "remove filter")
	}
	return nil
}

// What attaching by clsact takes of the kernel.
const (
	clsactQdisc = "clsact qdisc"
	bpfFilter   = "bpf filter"
)

// blameKernel explains an error of tc that says that the kernel lacks something: it
// knows no qdisc or filter of that kind (ENOENT), or none at all (EOPNOTSUPP). Others
// stay as they are. The remedy is for both, so that nobody comes back for the second.
func blameKernel(err error, lacking string) error {
	if !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EOPNOTSUPP) {
		return err
	}
	return fmt.Errorf("%w: the kernel has no %s: modprobe -a sch_ingress cls_bpf, "+
		"or use a kernel that is built with CONFIG_NET_SCH_INGRESS and CONFIG_NET_CLS_BPF: %w", ErrUnsupported, lacking, err)
}
