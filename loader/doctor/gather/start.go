package gather

import (
	"fmt"

	"github.com/cilium/ebpf/rlimit"

	"replypath/loader/doctor/snapshot"
	requirements "replypath/loader/kernel"
	"replypath/loader/pins"
)

// requirementsOf looks at what a start takes, whether there has been one, with a journal, or not. What is wrong with
// it is a finding, and keeps nothing else from being looked at. What the kernel can do is not known
// to who may not load programs.
func requirementsOf(pinDir string, journal *pins.Journal) (s snapshot.Start, known bool, err error) {
	missing, err := requirements.MissingRights()
	if err != nil {
		return s, false, err
	}
	mayLoad := true
	for _, r := range missing {
		s.Rights = append(s.Rights, snapshot.Right{Name: r.Name(), Purpose: r.Purpose})
		mayLoad = mayLoad && r.Name() == "CAP_PERFMON"
	}
	s.Place, s.BTF = pins.CheckPlace(pinDir), requirements.CheckBTF()
	switch {
	case journal != nil:
		s.Features = journal.Features
	case !mayLoad:
		return s, false, nil
	default:
		s.Features, s.Programs = probe(s.BTF != nil)
	}
	return s, true, nil
}

// probe asks the kernel. Without BTF, by which some features are found, it only asks whether it loads programs.
func probe(withoutBTF bool) ([]pins.FeatureRecord, error) {
	if err := requirements.CheckCall(); err != nil {
		return nil, err
	}
	// Before 5.11 maps count as locked memory.
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, fmt.Errorf("raise the limit of locked memory: %w", err)
	}
	if withoutBTF {
		return nil, requirements.CheckPrograms()
	}
	k, err := requirements.Probe()
	if err != nil {
		return nil, err
	}
	return k.Records(), nil
}
