package doctor

import (
	"fmt"
	"slices"
	"strings"

	"replypath/loader/config"
	"replypath/loader/discover"
)

// mtus finds managed interfaces whose MTU is smaller than another's: replies are
// cut for the interface that the kernel chose.
func mtus(h *Host) []Finding {
	var found []Finding
	for _, i := range h.Interfaces {
		largest := slices.MaxFunc(h.Interfaces, func(a, b discover.Interface) int { return a.MTU - b.MTU })
		if i.MTU < largest.MTU {
			found = append(found, seen(Warning, i.Name, fmt.Sprintf(
				"mtu %d, %s has %d: replies that are built for %s have to be cut, or their sender told", i.MTU, largest.Name, largest.MTU, largest.Name),
				"ip link show dev "+quote(i.Name)).of(ownerOfDevice(i.Name)))
		}
	}
	return found
}

// segmentation are the features whose absence costs when a packet that was built
// for another interface leaves here: the kernel then does in software what it had
// left to the hardware.
var segmentation = []string{"tx-tcp-segmentation", "tx-tcp6-segmentation", "tx-generic-segmentation", "tx-scatter-gather"}

// offloads finds managed interfaces that lack what another one has.
func offloads(h *Host) []Finding {
	var found []Finding
	for _, i := range h.Interfaces {
		d := h.device(i.Index)
		if d == nil || d.Features == nil {
			continue
		}
		var missing []string
		for _, feature := range segmentation {
			if on, known := d.Features[feature]; known && !on && h.anyHas(feature) {
				missing = append(missing, feature)
			}
		}
		if len(missing) > 0 {
			found = append(found, seen(Warning, i.Name,
				fmt.Sprintf("%s off, other managed interfaces have it on: replies that are moved here are cut in software", strings.Join(missing, ", ")),
				"ethtool -k "+quote(i.Name)).of(ownerOfDevice(i.Name)))
		}
	}
	return found
}

func (h *Host) anyHas(feature string) bool {
	return slices.ContainsFunc(h.Interfaces, func(i discover.Interface) bool {
		d := h.device(i.Index)
		return d != nil && d.Features[feature]
	})
}

// managedInterfaces tells which interfaces everything else is about; none is
// nothing to be right about.
func managedInterfaces(h *Host) []Finding {
	var names []string
	for _, i := range h.Interfaces {
		names = append(names, i.Name)
	}
	if len(names) == 0 {
		var reasons []string
		for _, u := range h.Unmanaged {
			reasons = append(reasons, u.Name+": "+u.Reason)
		}
		return []Finding{advised(Error, "", "no interface is managed ("+strings.Join(reasons, "; ")+")", h.manageOne())}
	}
	return []Finding{fine("", strings.Join(names, ", "))}
}

// leftOut are the beginnings of the reasons that the configuration overrules, those
// first that are most likely meant (loader/discover/choose.go).
var leftOut = []string{"not named by the configuration", "no global address", "ignore_interfaces", "bridge with no port"}

// manage is what has an interface be managed that routes lead by. What can never be
// is refused by replypath, named or not.
func (h *Host) manage(name string) remedy {
	reason, show := h.reasonOf(name), "ip -details link show dev "+quote(name)
	overruled := append([]string{justCome, "dummy device"}, leftOut...)
	if !slices.ContainsFunc(overruled, func(words string) bool { return strings.HasPrefix(reason, words) }) {
		return remedy{inspect: explained(show, "it can never be managed: "+reason)}
	}
	if e := h.entryOf(name); e != nil && !config.IsGlob(e.Name) {
		return remedy{inspect: explained(show, "the configuration names it, and yet it is not managed: "+reason)}
	}
	return remedy{fix: h.configureInterface(name, "")}
}

// manageOne is what has one of the interfaces be managed that discovery left out. A
// configuration that names an interface overrules it.
func (h *Host) manageOne() remedy {
	for _, reason := range leftOut {
		for _, u := range h.Unmanaged {
			if strings.HasPrefix(u.Reason, reason) {
				return h.manage(u.Name)
			}
		}
	}
	return remedy{inspect: explained("ip -brief address show", "no interface here can be managed: give the host one with a global address")}
}
