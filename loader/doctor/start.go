package doctor

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"replypath/loader/pins"
)

// pinPlaces finds a pin directory in which nothing can be pinned.
func pinPlaces(h *Host) []Finding {
	err := h.Start.Place
	switch {
	case err == nil:
		return nil
	case errors.Is(err, pins.ErrNoBPFFS) && isBelowUsual(h.PinDir):
		return []Finding{problem(Error, "", withoutRemedy(err)+": nothing can be pinned there", mount("-t bpf bpf"))}
	case errors.Is(err, pins.ErrNoBPFFS), errors.Is(err, pins.ErrForeignContents) && !h.isByUnit():
		return []Finding{problem(Error, "", withoutRemedy(err), runAtUsual())}
	case errors.Is(err, unix.EROFS) && isBelowUsual(h.PinDir):
		return []Finding{problem(Error, "", oneLine(err), mount("-o remount,rw"))}
	case errors.Is(err, fs.ErrPermission):
		return []Finding{seen(unlessPinned(&h.State), "", oneLine(err)+": this process may not", asRoot(&h.State))}
	}
	return []Finding{seen(Error, "", oneLine(err), explained("ls -ld "+quote(cmp.Or(h.PinDir, pins.DefaultDir)), "what is there in its place"))}
}

var (
	usualBPFFS = filepath.Dir(pins.DefaultDir)
	mountBPFFS = "mount -t bpf bpf " + usualBPFFS
)

// mount is the command that has the usual pin directory be one that can be pinned into.
func mount(how string) string { return "mount " + how + " " + usualBPFFS }

// runAtUsual starts replypath with a pin directory that can be one.
func runAtUsual() string {
	return explained("replypath run --pin-dir "+pins.DefaultDir, "names a directory of its own below a bpf file system")
}

// withoutRemedy is an error without the command that stands beside it.
func withoutRemedy(err error) string { return strings.TrimSuffix(oneLine(err), ": "+mountBPFFS) }

func isBelowUsual(pinDir string) bool {
	return pinDir == "" || strings.HasPrefix(filepath.Clean(pinDir), usualBPFFS+"/")
}

// unlessPinned is the severity of what keeps this process from starting replypath: where something is
// pinned already, somebody else could.
func unlessPinned(s *State) Severity {
	if s.Pinned {
		return Warning
	}
	return Error
}

// kernelTypes finds a kernel that does not describe its types.
func kernelTypes(h *Host) []Finding {
	if h.Start.BTF == nil {
		return nil
	}
	return []Finding{seen(Error, "", oneLine(h.Start.BTF), explained("uname -r",
		"start a kernel that is built with CONFIG_DEBUG_INFO_BTF=y in the place of this one; in a container, mount the host's /sys"))}
}

// kernelPrograms finds a kernel that loads no programs, or that lacks what makes them do better.
func kernelPrograms(h *Host) []Finding {
	if err := h.Start.Programs; err != nil {
		return []Finding{seen(Error, "", oneLine(err), explained("uname -r",
			"start kernel 5.10 or later in the place of this one, and have no filter of system calls keep bpf(2) from this process"))}
	}
	var found []Finding
	for _, f := range h.Start.Features {
		if !f.Available {
			found = append(found, seen(Warning, "", fmt.Sprintf("without %s: %s", f.Name, f.Effect), comesWith(f.Name)))
		}
	}
	return found
}

// comesWith tells which kernels have a feature.
func comesWith(feature string) string {
	if feature == "fallback_route" {
		return explained("modinfo dummy ifb", "one of these modules has to be loaded")
	}
	return explained("uname -r", cmp.Or(kernels[feature], "another kernel may have it"))
}

var kernels = map[string]string{
	"tcx":                   "kernel 6.6 and later have it",
	"check_mtu":             "kernel 5.12 and later have it",
	pins.FeatureProbeRead:   "lockdown=integrity on the kernel's command line leaves it, lockdown=confidentiality takes it away",
	"kernel_skb":            "kernel 6.2 and later have it",
	"tail_calls":            "kernel 6.0 and later have it on every machine",
	"ndisc_evict_nocarrier": "kernel 5.16 and later have it",
}

// capabilities finds what this process may not do, which is what one that it starts may not either.
func capabilities(h *Host) []Finding {
	var found []Finding
	for _, r := range h.Start.Rights {
		found = append(found, seen(unlessPinned(&h.State), "", fmt.Sprintf("this process lacks %s, which a start takes %s", r.Name, r.Purpose), asRoot(&h.State)))
	}
	return found
}
