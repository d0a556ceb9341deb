package loader

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"

	"replypath/bpf"
	"replypath/loader/hostsettings"
	"replypath/loader/pins"
)

// btfPath is where the kernel describes its own types, by which the programs
// find the fields of its sockets.
const btfPath = "/sys/kernel/btf/vmlinux"

// requirement is a capability, what grants it as well, and what it is for.
type requirement struct {
	needed, orElse cap.Value
	purpose        string
}

// requirements are what loading and attaching take. Both of the newer capabilities
// are parts of CAP_SYS_ADMIN (capabilities(7)).
var requirements = []requirement{
	{cap.BPF, cap.SYS_ADMIN, "to load programs and make maps"},
	{cap.NET_ADMIN, cap.NET_ADMIN, "to attach programs to interfaces, and to set routes, neighbours and sysctls"},
	{cap.PERFMON, cap.SYS_ADMIN, "to let programs read the kernel's sockets"},
}

// checkRights returns an error that matches ErrUnsupported and names the
// capabilities that the process lacks, and what for.
func checkRights() error {
	process := cap.GetProc()
	var missing []string
	for _, r := range requirements {
		has, err := hasEither(process, r)
		if err != nil {
			return fmt.Errorf("read the capabilities of this process: %w", err)
		}
		if !has {
			missing = append(missing, strings.ToUpper(r.needed.String())+" "+r.purpose)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return fmt.Errorf("%w: this process lacks %s: run it as root, or grant them",
		ErrUnsupported, strings.Join(missing, "; "))
}

func hasEither(process *cap.Set, r requirement) (bool, error) {
	has, err := process.GetFlag(cap.Effective, r.needed)
	if has || err != nil {
		return has, err
	}
	return process.GetFlag(cap.Effective, r.orElse)
}

// checkCall returns an error that matches ErrUnsupported where bpf(2) itself is
// refused, which capabilities do not tell. No kernel has the command that it gives.
func checkCall() error {
	if _, _, err := unix.Syscall(unix.SYS_BPF, math.MaxInt32, 0, 0); err == unix.EPERM || err == unix.ENOSYS {
		return fmt.Errorf("%w: bpf(2) is refused, by a filter of system calls or a security module: allow it: %w",
			ErrUnsupported, err)
	}
	return nil
}

// checkKernel returns an error that matches ErrUnsupported where the kernel
// lacks what cannot be done without. What it takes besides to make maps and to attach
// is told when it comes to that.
func checkKernel() error {
	if _, err := os.Stat(btfPath); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: the kernel has no BTF (%s): use one that is built with CONFIG_DEBUG_INFO_BTF=y",
			ErrUnsupported, btfPath)
	}
	return checkPrograms(features.HaveProgramType(ebpf.SchedCLS))
}

// checkPrograms takes what the kernel says of programs for tc. That it loads them does
// not prove that it can attach them by clsact.
func checkPrograms(err error) error {
	switch {
	case errors.Is(err, ebpf.ErrNotSupported):
		return fmt.Errorf("%w: the kernel has no bpf programs for tc: use kernel 5.10 or later, built with CONFIG_BPF_SYSCALL=y and CONFIG_NET=y: %w",
			ErrUnsupported, err)
	case err != nil:
		return fmt.Errorf("ask the kernel for bpf programs for tc: %w", err)
	}
	return nil
}

// loopbackIndex is that of lo in every network namespace.
const loopbackIndex = 1

// haveTCX tells whether the kernel has TCX links: it can be asked for them on an
// interface that is always there. An attach type that it does not know is
// answered with EINVAL.
func haveTCX() (bool, error) {
	_, err := link.QueryPrograms(link.QueryOptions{Target: loopbackIndex, Attach: ebpf.AttachTCXIngress})
	switch {
	case errors.Is(err, unix.EINVAL) || errors.Is(err, ebpf.ErrNotSupported):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("ask the kernel for tcx: %w", err)
	}
	return true, nil
}

// kernel is what depends on the running kernel.
type kernel struct {
	tcx bool
	// keepsNeighbours: IPv6 entries may outlive the carrier (ndisc_evict_nocarrier, from 5.16).
	keepsNeighbours bool
	bpf.Features
}

func probeKernel() (kernel, error) {
	if err := checkKernel(); err != nil {
		return kernel{}, err
	}
	var (
		k    kernel
		errs [2]error
	)
	_, err := hostsettings.ReadNumber(hostsettings.Key("ipv6", "all", "ndisc_evict_nocarrier"))
	k.keepsNeighbours = err == nil
	k.tcx, errs[0] = haveTCX()
	k.Features, errs[1] = bpf.ProbeFeatures()
	return k, errors.Join(errs[:]...)
}

// features describes the kernel and this version for the status.
func (k kernel) features() []pins.FeatureRecord {
	tcx := pins.FeatureRecord{Name: "tcx", Available: k.tcx,
		Effect: "programs are replaced without a gap, beside those of others"}
	if !k.tcx {
		tcx.Effect = "programs are attached by clsact and cls_bpf, which costs 2 to 3 % of a core's packets"
	}
	checkMTU := pins.FeatureRecord{Name: "check_mtu", Available: k.CheckMTU,
		Effect: "what is too large for a flow's interface is told segment by segment"}
	if !k.CheckMTU {
		checkMTU.Effect = "what is too large for a flow's interface is estimated, and rather left than lost"
	}
	probeRead := pins.FeatureRecord{Name: pins.FeatureProbeRead, Available: k.ProbeRead,
		Effect: "transparent proxies are told from what the host itself sends, and whether a link is up is known without a daemon"}
	if !k.ProbeRead {
		probeRead.Effect = "the kernel is locked down: after a datagram that nobody took, a socket that is bound to the address " +
			"and not connected passes for a transparent proxy's; while no daemon runs, a link passes for what it was before; " +
			"masqueraded connections of containers do not outlive the loss of the default route"
	}
	kernelSKB := pins.FeatureRecord{Name: "kernel_skb", Available: k.KernelSKB,
		Effect: "replies whose data nobody shares are moved without a copying function, in two thirds of the time"}
	if !k.KernelSKB || !k.TailCalls {
		kernelSKB.Effect = "every reply is moved by way of a copying function, which takes half as long again"
	}
	tailCalls := pins.FeatureRecord{Name: "tail_calls", Available: k.TailCalls,
		Effect: "flows that begin while the flow tables are replaced are known at once"}
	if !k.TailCalls {
		tailCalls.Effect = "flows that begin while the flow tables are replaced are known with their next packet"
	}
	keepsNeighbours := pins.FeatureRecord{Name: "ndisc_evict_nocarrier", Available: k.keepsNeighbours,
		Effect: "open IPv6 connections go on at once when the carrier of the default route's interface is lost"}
	if !k.keepsNeighbours {
		keepsNeighbours.Effect = "by IPv6 a datagram may be lost when the carrier of the default route's interface is; without a daemon " +
			"open connections pause for some seconds"
	}
	return []pins.FeatureRecord{
		tcx,
		checkMTU,
		probeRead,
		kernelSKB,
		tailCalls,
		keepsNeighbours,
		{Name: "btf", Available: true, Effect: "the kernel's sockets can be read"},
	}
}
