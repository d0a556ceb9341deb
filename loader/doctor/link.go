package doctor

import (
	"fmt"
	"slices"
	"strings"

	"replypath/loader/discover"
)

// mtus finds managed interfaces whose MTU is smaller than another's: replies are
// cut for the interface that the kernel chose.
func mtus(h *Host) []Finding {
	var found []Finding
	for _, i := range h.Interfaces {
		largest := slices.MaxFunc(h.Interfaces, func(a, b discover.Interface) int { return a.MTU - b.MTU })
		if i.MTU < largest.MTU {
			found = append(found, problem(Warning, i.Name, fmt.Sprintf(
				"mtu %d, %s has %d: replies that are built for %s have to be cut, or their sender told", i.MTU, largest.Name, largest.MTU, largest.Name),
				sameMTU(i, largest)))
		}
	}
	return found
}

// usualMTU is what every Ethernet carries.
const usualMTU = 1500

// sameMTU is the command that gives two interfaces the same MTU. The smaller one is
// raised as far as any network goes along; beyond it, and where it is a tunnel's, the
// larger one is lowered.
func sameMTU(smaller, larger discover.Interface) string {
	isTunnel := smaller.NoARP || len(smaller.MAC) == 0
	switch {
	case isTunnel:
		return setMTU(larger.Name, smaller.MTU)
	case larger.MTU > usualMTU:
		return explained(setMTU(larger.Name, smaller.MTU),
			fmt.Sprintf("or, if all of its network carries %d: %s", larger.MTU, setMTU(smaller.Name, larger.MTU)))
	}
	return setMTU(smaller.Name, larger.MTU)
}

func setMTU(name string, mtu int) string { return fmt.Sprintf("ip link set dev %s mtu %d", name, mtu) }

// segmentation are the features whose absence costs when a packet that was built
// for another interface leaves here: the kernel then does in software what it had
// left to the hardware. name is what ethtool -K takes.
var segmentation = []struct{ feature, name string }{
	{"tx-tcp-segmentation", "tso"},
	{"tx-tcp6-segmentation", "tso"},
	{"tx-generic-segmentation", "gso"},
	{"tx-scatter-gather", "sg"},
}

// offloads finds managed interfaces that lack what another one has.
func offloads(h *Host) []Finding {
	var found []Finding
	for _, i := range h.Interfaces {
		d := h.device(i.Index)
		if d == nil || d.Features == nil {
			continue
		}
		var missing, names []string
		for _, s := range segmentation {
			if on, known := d.Features[s.feature]; known && !on && h.anyHas(s.feature) {
				missing = append(missing, s.feature)
				names = append(names, s.name+" on")
			}
		}
		if len(missing) > 0 {
			found = append(found, problem(Warning, i.Name,
				fmt.Sprintf("%s off, other managed interfaces have it on: replies that are moved here are cut in software", strings.Join(missing, ", ")),
				"ethtool -K "+i.Name+" "+strings.Join(slices.Compact(names), " ")))
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
		return []Finding{problem(Error, "", "no interface is managed ("+strings.Join(reasons, "; ")+")", h.manageOne())}
	}
	return []Finding{fine("", strings.Join(names, ", "))}
}

// manageOne is what has one of the interfaces be managed that discovery left out. A
// configuration that names an interface overrules it.
func (h *Host) manageOne() string {
	for _, reason := range []string{"not named by the configuration", "no global address", "ignore_interfaces", "bridge"} {
		for _, u := range h.Unmanaged {
			if strings.HasPrefix(u.Reason, reason) {
				return h.configureInterface("add", "name: "+u.Name)
			}
		}
	}
	return explained("ip -brief address show", "no interface here can be managed: give the host one with a global address")
}
