package doctor

import (
	"fmt"
	"slices"
	"strings"

	"replypath/loader/attach"
	"replypath/loader/discover"
)

// mtus finds managed interfaces whose MTU is smaller than another's: replies are
// cut for the interface that the kernel chose.
func mtus(h *Host) []Finding {
	var found []Finding
	for _, i := range h.Interfaces {
		largest := slices.MaxFunc(h.Interfaces, func(a, b discover.Interface) int { return a.MTU - b.MTU })
		if i.MTU < largest.MTU {
			found = append(found, finding(Warning, i.Name, fmt.Sprintf(
				"mtu %d, %s has %d: replies that are built for %s have to be cut, or their sender told", i.MTU, largest.Name, largest.MTU, largest.Name), ""))
		}
	}
	return found
}

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
			found = append(found, finding(Warning, i.Name,
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
		return []Finding{finding(Error, "", "no interface is managed ("+strings.Join(reasons, "; ")+")", "")}
	}
	return []Finding{finding(OK, "", strings.Join(names, ", "), "")}
}

// missingPrograms finds managed interfaces from which somebody has taken our
// programs.
func missingPrograms(h *Host) []Finding {
	if !h.Attached {
		return nil
	}
	var found []Finding
	for _, i := range h.Interfaces {
		for _, direction := range attach.Directions {
			if !h.hasOurs(i.Index, direction == attach.Egress) {
				found = append(found, finding(Error, i.Name, fmt.Sprintf(
					"no program of replypath at %s: a running daemon puts it back within a second, else start replypath run", direction), ""))
			}
		}
	}
	return found
}

func (h *Host) hasOurs(device int, egress bool) bool {
	return slices.ContainsFunc(h.Hooks, func(hook Hook) bool {
		return hook.Interface == device && hook.Egress == egress && hook.Ours
	})
}

// otherPrograms finds programs and filters of others in the TC hooks of managed
// interfaces that replies may pass by: those at egress that run behind ours, and
// those at ingress that run before it and may take packets away.
func otherPrograms(h *Host) []Finding {
	var found []Finding
	for _, i := range h.Interfaces {
		for _, egress := range []bool{false, true} {
			found = append(found, h.otherPrograms(i, egress)...)
		}
	}
	return found
}

func (h *Host) otherPrograms(i discover.Interface, egress bool) []Finding {
	var hooks []Hook // in the order in which they run
	for _, hook := range h.Hooks {
		if hook.Interface == i.Index && hook.Egress == egress {
			hooks = append(hooks, hook)
		}
	}
	ours := slices.IndexFunc(hooks, func(h Hook) bool { return h.Ours })
	var found []Finding
	for n, hook := range hooks {
		isBehind := n > ours
		if ours < 0 {
			isBehind = !egress || h.TCX && !hook.TCX // where ours is going to be
		}
		switch {
		case hook.Ours:
		case egress && isBehind:
			found = append(found, finding(Warning, i.Name,
				hook.String()+" at egress runs behind replypath: it does not see replies that are moved away from here", ""))
		case !egress && !isBehind:
			found = append(found, finding(Warning, i.Name,
				hook.String()+" at ingress runs before replypath: what it takes away or redirects is not seen", ""))
		default:
			found = append(found, finding(OK, i.Name, hook.String()+where(egress), ""))
		}
	}
	return found
}

func where(egress bool) string {
	if egress {
		return " at egress sees what the kernel sends here, before replypath"
	}
	return " at ingress sees what replypath has seen"
}

// String names a program or filter.
func (h *Hook) String() string {
	if h.TCX {
		return fmt.Sprintf("tcx program %s", h.Name)
	}
	return fmt.Sprintf("filter %s", h.Name)
}

// xdpPrograms finds programs that see frames before TC does.
func xdpPrograms(h *Host) []Finding {
	return h.ofDevices(func(d *Device) (string, string) {
		if !d.XDP {
			return "", ""
		}
		return "an xdp program sees frames first: what it answers, redirects or hands to af_xdp is not seen", ""
	})
}

// virtualFunctions finds interfaces parts of which belong to others.
func virtualFunctions(h *Host) []Finding {
	return h.ofDevices(func(d *Device) (string, string) {
		if d.VFs == 0 {
			return "", ""
		}
		return fmt.Sprintf("%d virtual functions (sr-iov): what they receive and send passes this host's tc by", d.VFs), ""
	})
}

// hardwareTC finds interfaces whose hardware may work off filters.
func hardwareTC(h *Host) []Finding {
	return h.ofDevices(func(d *Device) (string, string) {
		if !d.Features["hw-tc-offload"] {
			return "", ""
		}
		return "hw-tc-offload is on: packets that a filter in the hardware redirects are not seen", "ethtool -K " + d.Name + " hw-tc-offload off"
	})
}

// offloadedIPsec finds interfaces whose hardware encrypts whole packets.
func offloadedIPsec(h *Host) []Finding {
	return h.ofDevices(func(d *Device) (string, string) {
		if !slices.Contains(h.Offloaded, d.Name) {
			return "", ""
		}
		return "ipsec packet offload: what the hardware decrypts and encrypts is not seen as what it is", ""
	})
}

// ofDevices asks for each managed interface what there is to warn of.
func (h *Host) ofDevices(look func(*Device) (found, fix string)) []Finding {
	var all []Finding
	for _, i := range h.Interfaces {
		if d := h.device(i.Index); d != nil {
			if found, fix := look(d); found != "" {
				all = append(all, finding(Warning, i.Name, found, fix))
			}
		}
	}
	return all
}
