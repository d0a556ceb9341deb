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
				h.sameMTU(i, largest)))
		}
	}
	return found
}

// sameMTU shows the smaller MTU. No command is safe to be typed unseen: a larger
// one needs a network that carries it, a smaller one on the other interface has
// frames of its network dropped there, and below 1280 takes IPv6 away. A tunnel's
// follows from the path that it takes, and is no measure for the others.
func (h *Host) sameMTU(smaller, larger discover.Interface) string {
	why := "nothing has to be done: replies are cut, or their sender told"
	if !h.isTunnel(smaller) && !h.isTunnel(larger) {
		why += fmt.Sprintf("; only if all of the network of %s carries %d: %s", smaller.Name, larger.MTU, setMTU(smaller.Name, larger.MTU))
	}
	return explained("ip link show dev "+smaller.Name, why)
}

func (h *Host) isTunnel(i discover.Interface) bool {
	d := h.device(i.Index)
	return len(i.MAC) == 0 || d != nil && d.Tunnel
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

// leftOut are the beginnings of the reasons that the configuration overrules, those
// first that are most likely meant (loader/discover/choose.go).
var leftOut = []string{"not named by the configuration", "no global address", "ignore_interfaces", "bridge with no port"}

// manage is what has an interface be managed that routes lead by. What can never be
// is refused by replypath, named or not.
func (h *Host) manage(name string) string {
	reason := h.reasonOf(name)
	overruled := append([]string{justCome, "dummy device"}, leftOut...)
	if slices.ContainsFunc(overruled, func(words string) bool { return strings.HasPrefix(reason, words) }) {
		return h.configureInterface(name, "")
	}
	return explained("ip -details link show dev "+name, "it can never be managed: "+reason)
}

// manageOne is what has one of the interfaces be managed that discovery left out. A
// configuration that names an interface overrules it.
func (h *Host) manageOne() string {
	for _, reason := range leftOut {
		for _, u := range h.Unmanaged {
			if strings.HasPrefix(u.Reason, reason) {
				return h.configureInterface(u.Name, "")
			}
		}
	}
	return explained("ip -brief address show", "no interface here can be managed: give the host one with a global address")
}
