// SPDX-License-Identifier: Apache-2.0

// Package checks has the checks of doctor: for replypath itself (a start, what is in force, what it manages), for routes, rules and
// sysctls, for gateways and peers, and for what packets pass replypath by at: programs and firewalls.
package checks

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"replypath/loader/config"
	"replypath/loader/discover"
	"replypath/loader/doctor/remedy"
	"replypath/loader/doctor/snapshot"
	"replypath/loader/finding"
	"replypath/loader/hostsettings"
	"replypath/loader/kernel"
	"replypath/loader/pins"
	"replypath/loader/problems"
)

// PinPlaces finds a pin directory in which nothing can be pinned.
func PinPlaces(h *snapshot.Host) []finding.Finding {
	err := h.Start.Place
	switch {
	case err == nil:
		return nil
	case errors.Is(err, pins.ErrNoBPFFS) && isBelowUsual(h.PinDir):
		return []finding.Finding{finding.Problem(finding.Error, "", withoutRemedy(err)+": nothing can be pinned there", mount("-t bpf bpf"))}
	case errors.Is(err, pins.ErrNoBPFFS), errors.Is(err, pins.ErrForeignContents) && !h.IsUsual():
		return []finding.Finding{finding.Problem(finding.Error, "", withoutRemedy(err), runAtUsual())}
	case errors.Is(err, unix.EROFS) && isBelowUsual(h.PinDir):
		return []finding.Finding{finding.Problem(finding.Error, "", problems.OneLine(err), mount("-o remount,rw"))}
	case errors.Is(err, fs.ErrPermission):
		return []finding.Finding{finding.Seen(unlessPinned(&h.State), "", problems.OneLine(err)+": this process may not", remedy.AsRoot(&h.State))}
	}
	return []finding.Finding{finding.Seen(finding.Error, "", problems.OneLine(err),
		finding.Explained("ls -ld "+finding.Quote(cmp.Or(pins.Shown(h.PinDir), pins.DefaultDir)), "what is there in its place"))}
}

var (
	usualBPFFS = filepath.Dir(pins.DefaultDir)
	mountBPFFS = "mount -t bpf bpf " + usualBPFFS
)

// mount is the command that has the usual pin directory be one that can be pinned into.
func mount(how string) string { return "mount " + how + " " + usualBPFFS }

// runAtUsual starts replypath with a pin directory that can be one.
func runAtUsual() string {
	return finding.Explained("replypath run --pin-dir "+pins.DefaultDir, "names a directory of its own below a bpf file system")
}

// withoutRemedy is an error without the command that stands beside it.
func withoutRemedy(err error) string {
	return strings.TrimSuffix(problems.OneLine(err), ": "+mountBPFFS)
}

func isBelowUsual(pinDir string) bool {
	return pinDir == "" || strings.HasPrefix(filepath.Clean(pinDir), usualBPFFS+"/")
}

// unlessPinned is the severity of what keeps this process from starting replypath: where something is
// pinned already, somebody else could, and where another datapath is, nobody may.
func unlessPinned(s *snapshot.State) finding.Severity {
	if s.Pinned || s.Elsewhere != nil {
		return finding.Note
	}
	return finding.Error
}

// KernelTypes finds a kernel that does not describe its types.
func KernelTypes(h *snapshot.Host) []finding.Finding {
	if h.Start.BTF == nil {
		return nil
	}
	return []finding.Finding{finding.Seen(finding.Error, "", problems.OneLine(h.Start.BTF), finding.Explained("uname -r",
		"start a kernel that is built with CONFIG_DEBUG_INFO_BTF=y instead of this one; in a container, mount the host's /sys"))}
}

// KernelPrograms finds a kernel that loads no programs, or that lacks what makes them do better.
func KernelPrograms(h *snapshot.Host) []finding.Finding {
	if err := h.Start.Programs; err != nil {
		return []finding.Finding{finding.Seen(finding.Error, "", problems.OneLine(err), finding.Explained("uname -r",
			"start kernel 5.10 or later instead of this one, and let no filter of system calls keep bpf(2) from this process"))}
	}
	return finding.Each(h.Start.Features, func(f *pins.FeatureRecord) finding.Finding {
		if f.Available {
			return finding.None
		}
		return finding.Seen(finding.Note, "", fmt.Sprintf("without %s: %s", f.Name, f.Effect), comesWith(f.Name))
	})
}

// comesWith tells which kernels have a feature.
func comesWith(feature string) string {
	if feature == "fallback_route" {
		return finding.Explained("modinfo dummy ifb", "one of these modules has to be loaded")
	}
	return finding.Explained("uname -r", cmp.Or(kernels[feature], "another kernel may have it"))
}

var kernels = map[string]string{
	"tcx":                 "kernel 6.6 and later have it",
	"check_mtu":           "kernel 5.12 and later have it",
	pins.FeatureProbeRead: "lockdown=integrity on the kernel's command line leaves it, lockdown=confidentiality takes it away",
	"kernel_skb":          "kernel 6.2 and later have it",
	"tail_calls":          "kernel 6.0 and later have it on every machine",
}

// Capabilities finds what this process may not do, which is what one that it starts may not either.
func Capabilities(h *snapshot.Host) []finding.Finding {
	return finding.Each(h.Start.Rights, func(r *kernel.Right) finding.Finding {
		return finding.Seen(unlessPinned(&h.State), "",
			fmt.Sprintf("this process lacks %s, which a start needs %s", r.Name(), r.Purpose), remedy.AsRoot(&h.State))
	})
}

// Configurations tells what the datapath works by, and what of that is not what its operator may think.
func Configurations(h *snapshot.Host) []finding.Finding {
	f := h.InForce
	if f == nil {
		return nil
	}
	var found []finding.Finding
	if !f.Running && (h.Status == nil || h.Status.TrialEnded == nil) { // else EndedTrial tells
		found = append(found, finding.Problem(finding.Warning, "", "no daemon runs: what is attached goes on by "+describeInForce(f)+
			", and follows neither new interfaces and addresses nor gateways", remedy.StartAgain(&h.State)))
	}
	changed := fmt.Sprintf("%s: %s: in force is what ", f.LoadedFrom(), f.File)
	switch {
	case f.Refused != "" && (f.File == "" || f.Wrong):
		text := "a later configuration was refused: the one before stays: " + f.Refused
		if f.Wrong {
			text += ", and the next start fails"
		}
		found = append(found, finding.Seen(finding.Warning, "", text, checkFile(f)))
	case f.File == "":
	case f.Wrong:
		found = append(found, finding.Seen(finding.Warning, "",
			changed+"it said "+when(f)+", and the next start fails", checkFile(f)))
	case f.Running:
		found = append(found, finding.Problem(finding.Warning, "", changed+"was loaded "+when(f), remedy.Reload(&h.State)))
	default:
		found = append(found, finding.Problem(finding.Warning, "", changed+"was loaded "+when(f), remedy.StartAgain(&h.State)))
	}
	if len(found) == 0 {
		found = append(found, finding.Fine("", "in force: "+describeInForce(f)))
	}
	return found
}

// describeInForce names the configuration and the flags.
func describeInForce(f *snapshot.InForce) string {
	text := cmp.Or(f.Path, "the defaults")
	if f.Config != nil && len(f.Config.Flags.Words()) > 0 {
		text += " with" + remedy.Flags(f.Config.Flags)
	}
	return text + ", loaded " + when(f)
}

func when(f *snapshot.InForce) string { return "at " + f.LoadedAt.Format(time.DateTime) }

// checkFile is the command that shows what is wrong with the file in force.
func checkFile(f *snapshot.InForce) string {
	return "replypath check --config " + finding.Quote(f.LoadedFrom())
}

// MissingInterfaces finds interfaces that the configuration, or the daemon's command line, calls by a
// name that nothing here has. Globs stand for whatever comes.
func MissingInterfaces(h *snapshot.Host) []finding.Finding {
	return finding.Each(h.Config.Interfaces, func(entry *config.Interface) finding.Finding {
		isIt := func(d snapshot.Device) bool { return d.Name == entry.Name || slices.Contains(d.AltNames, entry.Name) }
		if config.IsGlob(entry.Name) || slices.ContainsFunc(h.Devices, isIt) {
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
// programs, or keeps them away, and tells where there are none at all.
func MissingPrograms(h *snapshot.Host) []finding.Finding {
	occupied := finding.Each(h.Interfaces, func(i *discover.Interface) finding.Finding {
		if !isOccupied(h, i) {
			return finding.None
		}
		return finding.Seen(finding.Error, i.Name, fmt.Sprintf("an ingress qdisc of somebody else is on %s, where replypath needs clsact: without tcx (kernel 6.6) "+
			"only one of both can be there, so replies go as routed. Its filters would do in clsact, too: tc filter add dev %[1]s ingress", i.Name), "tc qdisc show dev "+finding.Quote(i.Name)+" ingress")
	})
	if !h.Attached {
		return append(occupied, nothingAttached(h))
	}
	expected, todo := ": a running daemon puts it back within a second, else start replypath run", finding.Remedy{Fix: remedy.Start(&h.State)}
	if h.Daemon != nil && h.Daemon.PID == 0 {
		expected = ", and the daemon, in a PID namespace that cannot be looked into from here, has not put it back"
		todo = finding.Remedy{Inspect: finding.Explained("replypath doctor --pin-dir "+finding.Quote(cmp.Or(pins.Shown(h.PinDir), pins.DefaultDir)),
			"where the daemon runs, as on the host or in its container")}
	}
	return append(occupied, finding.Each(h.MissingPrograms(), func(p *snapshot.MissingProgram) finding.Finding {
		if isOccupied(h, h.Named(p.Interface)) {
			return finding.None
		}
		return finding.Advised(finding.Error, p.Interface, fmt.Sprintf("%s has no program of replypath at %s%s", p.Interface, p.Direction, expected), todo)
	})...)
}

// isOccupied tells whether somebody has the only place where programs could be on an interface.
func isOccupied(h *snapshot.Host, i *discover.Interface) bool {
	isOurs := func(hook snapshot.Hook) bool { return hook.Interface == i.Index && hook.Ours }
	return h.ByClsact() && slices.Contains(h.Ingress, i.Index) && !slices.ContainsFunc(h.Hooks, isOurs)
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
	guests := finding.Each(h.Guests, func(i *discover.Interface) finding.Finding {
		filter := ""
		if s, _ := settingOf(h, "ipv4", i.Name, "rp_filter"); max(s.device, s.all) == hostsettings.RPFilterStrict {
			filter = " strict: it drops requests by ipv4 from beyond the bridge" + hostsettings.Dropped(h.RPFilterDrops)
		} else if h.IsAskedFromAfar(i) {
			return finding.None
		}
		return finding.Seen(finding.Note, i.Name, i.Name+" records requests for its own addresses only: a bridge to a container or virtual machine, "+
			"which no route leads out of. Its rp_filter stays"+filter+". If a router is there, "+remedy.ConfigureInterface(h, i.Name, ""),
			"ip link show master "+finding.Quote(i.Name))
	})
	if len(names) > 0 || len(h.Guests) > 0 {
		return append(guests, finding.Fine("", cmp.Or(strings.Join(names, ", "), "no other")))
	}
	for _, u := range h.Unmanaged {
		reasons = append(reasons, u.Name+": "+u.Reason)
	}
	return []finding.Finding{finding.Advised(finding.Error, "", "no interface is managed: "+strings.Join(reasons, "; "), remedy.ManageOne(h))}
}
