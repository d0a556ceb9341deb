package doctor

import (
	"fmt"

	"github.com/cilium/ebpf/rlimit"

	requirements "replypath/loader/kernel"
	"replypath/loader/pins"
)

// Start is what a start takes; what is zero is there.
type Start struct {
	Place    error // why nothing can be pinned
	BTF      error // that the kernel has none
	Programs error // why it loads no programs
	Rights   []Right
	// Features are those of the kernel, as far as they can be told.
	Features []pins.FeatureRecord
}

// Right is a capability that this process lacks.
type Right struct{ Name, Purpose string }

// start looks at what a start takes, whether there has been one or not. What is wrong with it is
// a finding, and keeps nothing else from being looked at.
func (g *gatherer) start() error {
	s := &g.host.Start
	missing, err := requirements.MissingRights()
	if err != nil {
		return err
	}
	mayLoad := true
	for _, r := range missing {
		s.Rights = append(s.Rights, Right{r.Name(), r.Purpose})
		mayLoad = mayLoad && r.Name() == "CAP_PERFMON"
	}
	s.Place, s.BTF = pins.CheckPlace(g.PinDir), requirements.CheckBTF()
	if g.journal != nil {
		s.Features = g.journal.Features
		return nil
	}
	if !mayLoad {
		g.host.Unread[partKernel] = "CAP_BPF and CAP_NET_ADMIN"
		return nil
	}
	s.Features, s.Programs = probe()
	return nil
}

// partKernel is what only who may load programs can find out.
const partKernel = "what the kernel's bpf can do"

// probe asks the kernel.
func probe() ([]pins.FeatureRecord, error) {
	if err := requirements.CheckCall(); err != nil {
		return nil, err
	}
	// Before 5.11 maps count as locked memory.
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, fmt.Errorf("raise the limit of locked memory: %w", err)
	}
	if err := requirements.CheckPrograms(); err != nil {
		return nil, err
	}
	if requirements.CheckBTF() != nil { // by which some are found
		return nil, nil
	}
	k, err := requirements.Probe()
	if err != nil {
		return nil, err
	}
	return k.Records(), nil
}
