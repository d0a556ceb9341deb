// SPDX-License-Identifier: Apache-2.0

package gather

import (
	"fmt"

	"github.com/cilium/ebpf/rlimit"

	"replypath/loader/doctor/snapshot"
	"replypath/loader/kernel"
	"replypath/loader/pins"
)

// start looks at what a start takes, whether there has been one or not. What is wrong with
// it is a finding, and keeps nothing else from being looked at. What the kernel can do is not known
// to who may not load programs.
func (g *gatherer) start() error {
	missing, err := kernel.MissingRights()
	if err != nil {
		return err
	}
	s, mayLoad := &g.host.Start, true
	for _, r := range missing {
		s.Rights = append(s.Rights, snapshot.Right{Name: r.Name(), Purpose: r.Purpose})
		mayLoad = mayLoad && r.Name() == "CAP_PERFMON"
	}
	s.Place, s.BTF = pins.CheckPlace(g.PinDir), kernel.CheckBTF()
	switch {
	case g.journal != nil:
		s.Features = g.journal.Features
	case !mayLoad:
		g.host.Unread[snapshot.PartKernel] = "CAP_BPF and CAP_NET_ADMIN"
	default:
		s.Features, s.Programs = probe(s.BTF != nil)
	}
	return nil
}

// probe asks the kernel. Without BTF, by which some features are found, it only asks whether it loads programs.
func probe(withoutBTF bool) ([]pins.FeatureRecord, error) {
	if err := kernel.CheckCall(); err != nil {
		return nil, err
	}
	// Before 5.11 maps count as locked memory.
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, fmt.Errorf("raise the limit of locked memory: %w", err)
	}
	if withoutBTF {
		return nil, kernel.CheckPrograms()
	}
	k, err := kernel.Probe()
	if err != nil {
		return nil, err
	}
	return k.Records(), nil
}
