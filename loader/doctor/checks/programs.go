// SPDX-License-Identifier: Apache-2.0

package checks

import (
	"slices"

	"replypath/loader/discover"
	"replypath/loader/doctor/snapshot"
	"replypath/loader/finding"
)

// XDPPrograms finds programs that see frames before TC does.
func XDPPrograms(h *snapshot.Host) []finding.Finding {
	return finding.Each(h.Interfaces, func(i *discover.Interface) finding.Finding {
		if !h.Device(i.Index).XDP {
			return finding.None
		}
		return finding.Seen(finding.Note, i.Name, "an xdp program sees frames first: replypath does not see what it answers, redirects or hands to af_xdp",
			"ip -details link show dev "+finding.Quote(i.Name))
	})
}

// OtherPrograms finds programs and filters of others in the TC hooks of managed
// interfaces that replies may pass by: those at egress that run behind ours, and
// those at ingress that run before it and may take packets away. Where ours are filters, somebody may want their place.
func OtherPrograms(h *snapshot.Host) []finding.Finding {
	var found []finding.Finding
	if n := slices.IndexFunc(h.Hooks, func(h snapshot.Hook) bool { return h.Ours && !h.TCX }); n >= 0 {
		found = append(found, finding.Seen(finding.Note, "", "attached by clsact: a shaper's \"tc qdisc add dev ... ingress\" is refused on managed interfaces. "+
			"Its filters can go into clsact: tc filter add dev ... ingress, not parent ffff:. A qdisc of its own takes tcx (kernel 6.6), "+
			"or an interface that is left to it (ignore_interfaces)", "tc qdisc show dev "+finding.Quote(h.DeviceName(h.Hooks[n].Interface))+" clsact"))
	}
	for _, i := range h.Interfaces {
		for _, egress := range []bool{false, true} {
			found = append(found, programsAt(&h.Hooked, &i, egress)...)
		}
	}
	return found
}

func programsAt(h *snapshot.Hooked, i *discover.Interface, egress bool) []finding.Finding {
	var hooks []snapshot.Hook // in the order in which they run
	for _, hook := range h.Hooks {
		if hook.Interface == i.Index && hook.Egress == egress {
			hooks = append(hooks, hook)
		}
	}
	ours := slices.IndexFunc(hooks, func(h snapshot.Hook) bool { return h.Ours })
	var found []finding.Finding
	for n, hook := range hooks {
		isBehind := n > ours
		if ours < 0 {
			isBehind = !egress || h.TCX && !hook.TCX // where ours is going to be
		}
		if !hook.Ours {
			found = append(found, programAt(&hook, i.Name, isBehind))
		}
	}
	return found
}

// programAt tells of somebody's program or filter that runs behind ours or before it.
func programAt(h *snapshot.Hook, device string, isBehind bool) finding.Finding {
	name := "filter " + h.Name
	if h.TCX {
		name = "tcx program " + h.Name
	}
	switch {
	case h.Egress && isBehind:
		return finding.Seen(finding.Note, device,
			name+" at egress runs behind replypath: it does not see replies that are moved away from here"+order(h),
			showHook(h, device))
	case h.Egress && h.Redirects:
		return finding.Seen(finding.Warning, device,
			name+" at egress runs before replypath, which does not see what it redirects", showHook(h, device))
	case h.Egress:
		return finding.Fine(device, name+" at egress sees what the kernel sends here, before replypath, which does not see what it redirects")
	case isBehind:
		return finding.Fine(device, name+" at ingress sees what replypath has seen")
	}
	return finding.Seen(finding.Note, device,
		name+" at ingress runs before replypath, which does not see what it takes away or redirects"+order(h), showHook(h, device))
}

// order says when the order changes. Programs of TCX run in the order in which they
// came, so that ours only would have to come again; no command does that, as replies
// go wrong in between. A filter of clsact cannot be put before TCX.
func order(h *snapshot.Hook) string {
	switch {
	case !h.TCX:
		return ""
	case h.Egress:
		return "; replypath is last again once it is attached again"
	}
	return "; replypath is first again once it is attached again"
}

// showHook is the command that shows it among the others.
func showHook(h *snapshot.Hook, device string) string {
	switch device = finding.Quote(device); {
	case h.TCX:
		return "bpftool net show dev " + device
	case h.Egress:
		return "tc filter show dev " + device + " egress"
	}
	return "tc filter show dev " + device + " ingress"
}
