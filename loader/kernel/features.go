// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/loader/pins"
)

// loopbackIndex is that of lo in every network namespace.
const loopbackIndex = 1

// HaveTCX tells whether the kernel has TCX links: it can be asked for them on an
// interface that is always there. An attach type that it does not know is
// answered with EINVAL.
func HaveTCX() (bool, error) {
	_, err := link.QueryPrograms(link.QueryOptions{Target: loopbackIndex, Attach: ebpf.AttachTCXIngress})
	switch {
	case errors.Is(err, unix.EINVAL) || errors.Is(err, ebpf.ErrNotSupported):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("ask the kernel for tcx: %w", err)
	}
	return true, nil
}

// Kernel is what depends on the running kernel.
type Kernel struct {
	TCX bool
	bpf.Features
}

// Probe finds it out. The error matches attach.ErrUnsupported where the kernel lacks what cannot be
// done without.
func Probe() (Kernel, error) {
	if err := CheckBTF(); err != nil {
		return Kernel{}, err
	}
	if err := CheckPrograms(); err != nil {
		return Kernel{}, err
	}
	var (
		k    Kernel
		errs [2]error
	)
	k.TCX, errs[0] = HaveTCX()
	k.Features, errs[1] = bpf.ProbeFeatures()
	return k, errors.Join(errs[:]...)
}

// Records describes the kernel for the status; byTCX tells whether programs are attached so, as the kernel may have it in vain.
func (k Kernel) Records(byTCX bool) (records []pins.FeatureRecord) {
	for _, f := range []struct {
		name            string
		has             bool
		effect, without string
	}{
		{"tcx", k.TCX, "programs are replaced without a gap, beside those of others",
			"programs are attached by clsact and cls_bpf, which costs 2 to 3 % of a core's packets; no ingress qdisc can be added beside them"},
		{"check_mtu", k.CheckMTU, "the size is checked segment by segment",
			"what is too large for a flow's interface is estimated, and rather left than lost"},
		{pins.FeatureProbeRead, k.ProbeRead, "transparent proxies are recognised, and a link that goes down is seen without a daemon",
			"the kernel is locked down: after a datagram that nobody took, a socket that is bound to the address " +
				"and not connected passes for a transparent proxy's; while no daemon runs, a link passes for what it was before"},
		{"kernel_skb", k.KernelSKB, "replies whose data nobody shares are moved without a copying function, in two thirds of the time", copies},
		{"tail_calls", k.TailCalls, "what the host starts by a gateway that has never answered is refused at once",
			"what the host starts by a gateway that has never answered is dropped, not refused"},
		{"btf", true, "the kernel's sockets can be read", ""},
	} {
		record := pins.FeatureRecord{Name: f.name, Available: f.has, Effect: f.effect}
		if !f.has || f.name == "tcx" && !byTCX || f.without == copies && !k.TailCalls {
			record.Effect = f.without
		}
		records = append(records, record)
	}
	return records
}

// copies is how replies are moved without kernel_skb or tail calls.
const copies = "every reply is moved by a function that copies, which takes half as long again"
