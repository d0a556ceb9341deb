// SPDX-License-Identifier: Apache-2.0

// Package health has the checks of doctor for replypath itself: what a start takes, what is in force, what it manages.
package health

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"replypath/loader/doctor/finding"
	"replypath/loader/doctor/remedy"
	"replypath/loader/doctor/snapshot"
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
	case errors.Is(err, pins.ErrNoBPFFS), errors.Is(err, pins.ErrForeignContents) && !h.IsByUnit():
		return []finding.Finding{finding.Problem(finding.Error, "", withoutRemedy(err), runAtUsual())}
	case errors.Is(err, unix.EROFS) && isBelowUsual(h.PinDir):
		return []finding.Finding{finding.Problem(finding.Error, "", problems.OneLine(err), mount("-o remount,rw"))}
	case errors.Is(err, fs.ErrPermission):
		return []finding.Finding{finding.Seen(unlessPinned(&h.State), "", problems.OneLine(err)+": this process may not", remedy.AsRoot(&h.State))}
	}
	return []finding.Finding{finding.Seen(finding.Error, "", problems.OneLine(err),
		finding.Explained("ls -ld "+finding.Quote(cmp.Or(h.PinDir, pins.DefaultDir)), "what is there in its place"))}
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
	"tcx":                   "kernel 6.6 and later have it",
	"check_mtu":             "kernel 5.12 and later have it",
	pins.FeatureProbeRead:   "lockdown=integrity on the kernel's command line leaves it, lockdown=confidentiality takes it away",
	"kernel_skb":            "kernel 6.2 and later have it",
	"tail_calls":            "kernel 6.0 and later have it on every machine",
	"ndisc_evict_nocarrier": "kernel 5.16 and later have it",
}

// Capabilities finds what this process may not do, which is what one that it starts may not either.
func Capabilities(h *snapshot.Host) []finding.Finding {
	return finding.Each(h.Start.Rights, func(r *snapshot.Right) finding.Finding {
		return finding.Seen(unlessPinned(&h.State), "",
			fmt.Sprintf("this process lacks %s, which a start needs %s", r.Name, r.Purpose), remedy.AsRoot(&h.State))
	})
}
