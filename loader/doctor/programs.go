package doctor

import (
	"cmp"
	"fmt"
	"slices"

	"replypath/loader/attach"
	"replypath/loader/discover"
	"replypath/loader/pins"
)

// missingPrograms finds managed interfaces from which somebody has taken our
// programs.
func missingPrograms(h *Host) []Finding {
	if !h.Attached {
		return nil
	}
	expected, todo := ": a running daemon puts it back within a second, else start replypath run", remedy{fix: h.start()}
	if h.Daemon != nil && h.Daemon.PID == 0 {
		expected = ", and the daemon, in a PID namespace that cannot be looked into from here, has not put it back"
		todo = remedy{inspect: explained("replypath doctor --pin-dir "+quote(cmp.Or(h.PinDir, pins.DefaultDir)), "where the daemon runs, as on the host or in its container")}
	}
	var found []Finding
	for _, i := range h.Interfaces {
		for _, direction := range attach.Directions {
			if !h.hasOurs(i.Index, direction == attach.Egress) {
				found = append(found, advised(Error, i.Name, fmt.Sprintf("no program of replypath at %s%s", direction, expected), todo))
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
			found = append(found, seen(Warning, i.Name,
				hook.String()+" at egress runs behind replypath: it does not see replies that are moved away from here"+hook.order(),
				hook.show(i)).of(ownerOfProgram(hook.Name)))
		case !egress && !isBehind:
			found = append(found, seen(Warning, i.Name,
				hook.String()+" at ingress runs before replypath: what it takes away or redirects is not seen"+hook.order(),
				hook.show(i)).of(ownerOfProgram(hook.Name)))
		default:
			found = append(found, fine(i.Name, hook.String()+where(egress)).of(ownerOfProgram(hook.Name)))
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

// order says when the order changes. Programs of TCX run in the order in which they
// came, so that ours only would have to come again; no command does that, as replies
// go wrong in between. A filter of clsact cannot be put before TCX.
func (h *Hook) order() string {
	switch {
	case !h.TCX:
		return ""
	case h.Egress:
		return "; replypath is last again once it is attached anew"
	}
	return "; replypath is first again once it is attached anew"
}

// show is the command that shows it among the others.
func (h *Hook) show(i discover.Interface) string {
	if h.TCX {
		return "bpftool net show dev " + quote(i.Name)
	}
	at := " ingress"
	if h.Egress {
		at = " egress"
	}
	return "tc filter show dev " + quote(i.Name) + at
}
