// SPDX-License-Identifier: Apache-2.0

package health

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"replypath/loader/config"
	"replypath/loader/doctor/finding"
	"replypath/loader/doctor/remedy"
	"replypath/loader/doctor/snapshot"
	"replypath/loader/pins"
)

// MissingInterfaces finds interfaces that the configuration, or the daemon's command line, calls by a
// name that nothing here has. Globs stand for whatever comes.
func MissingInterfaces(h *snapshot.Host) []finding.Finding {
	return finding.Each(h.Config.Interfaces, func(entry *config.Interface) finding.Finding {
		if config.IsGlob(entry.Name) || hasName(&h.Links, entry.Name) {
			return finding.None
		}
		who := h.ConfigPath
		if slices.Contains(h.Config.Flags.Interfaces, entry.Name) {
			who = "--interface"
		}
		text := fmt.Sprintf("%s is not there: %s names it, and nothing is done for it", entry.Name, who)
		if near := nearName(h, entry.Name); near != "" {
			return finding.Problem(finding.Error, entry.Name, fmt.Sprintf("%s; %s is there", text, near),
				remedy.Rename(&h.State, entry.Name, near))
		}
		return finding.Seen(finding.Error, entry.Name, text+"; there are "+listNames(h.Devices),
			finding.Explained("ip link show", "make it, or name one of these in "+who))
	})
}

// hasName tells whether an interface has a name, or an alternative name.
func hasName(l *snapshot.Links, name string) bool {
	return slices.ContainsFunc(l.Devices, func(d snapshot.Device) bool { return d.Name == name || slices.Contains(d.AltNames, name) })
}

// nearName returns a name that is there and that a slip of the finger explains, empty for none.
func nearName(h *snapshot.Host, name string) string {
	var names []string
	for _, d := range h.Devices {
		if d.Name != "lo" && remedy.EntryOf(h, d.Name) == nil { // else it is named already
			names = append(append(names, d.Name), d.AltNames...)
		}
	}
	return config.Nearest(name, names)
}

// mostNames bounds how many interfaces are listed: a host with containers has thousands.
const mostNames = 8

// listNames lists the interfaces that could have been meant, with their alternative names.
func listNames(devices []snapshot.Device) string {
	var names []string
	for _, d := range devices {
		if d.Name == "lo" {
			continue
		}
		name := d.Name
		if len(d.AltNames) > 0 {
			name += " (" + strings.Join(d.AltNames, ", ") + ")"
		}
		names = append(names, name)
	}
	if more := len(names) - mostNames; more > 0 {
		names = append(names[:mostNames], fmt.Sprintf("%d more", more))
	}
	if len(names) == 0 {
		return "none but lo"
	}
	return strings.Join(names, ", ")
}

// MissingPrograms finds managed interfaces from which somebody has taken our
// programs, and tells where there are none at all.
func MissingPrograms(h *snapshot.Host) []finding.Finding {
	if !h.Attached {
		return []finding.Finding{nothingAttached(h)}
	}
	expected, todo := ": a running daemon puts it back within a second, else start replypath run", finding.Remedy{Fix: remedy.Start(&h.State)}
	if h.Daemon != nil && h.Daemon.PID == 0 {
		expected = ", and the daemon, in a PID namespace that cannot be looked into from here, has not put it back"
		todo = finding.Remedy{Inspect: finding.Explained("replypath doctor --pin-dir "+finding.Quote(cmp.Or(h.PinDir, pins.DefaultDir)),
			"where the daemon runs, as on the host or in its container")}
	}
	return finding.Each(h.MissingPrograms(), func(p *snapshot.MissingProgram) finding.Finding {
		return finding.Advised(finding.Error, p.Interface, fmt.Sprintf("%s has no program of replypath at %s%s", p.Interface, p.Direction, expected), todo)
	})
}

// nothingAttached tells that nothing is, and who has this network namespace.
func nothingAttached(h *snapshot.Host) finding.Finding {
	e := h.Elsewhere
	if e == nil {
		return finding.Problem(finding.Note, "", "nothing is attached: start replypath run", remedy.Start(&h.State))
	}
	return finding.Seen(finding.Warning, "", fmt.Sprintf("nothing is attached here: %s", e), remedy.AskElsewhere(e))
}

// ManagedInterfaces tells which interfaces everything else is about; none is
// nothing to be right about.
func ManagedInterfaces(h *snapshot.Host) []finding.Finding {
	var names, reasons []string
	for _, i := range h.Interfaces {
		names = append(names, i.Name)
	}
	if len(names) > 0 {
		return []finding.Finding{finding.Fine("", strings.Join(names, ", "))}
	}
	for _, u := range h.Unmanaged {
		reasons = append(reasons, u.Name+": "+u.Reason)
	}
	return []finding.Finding{finding.Advised(finding.Error, "", "no interface is managed: "+strings.Join(reasons, "; "), remedy.ManageOne(h))}
}
