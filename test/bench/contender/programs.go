package contender

import (
	"fmt"
	"path/filepath"
	"time"

	"github.com/cilium/ebpf"

	"replypath/loader/datapath"
)

// ProgramTime is what the programs at an interface's hooks have taken since they were loaded,
// while the kernel kept statistics.
type ProgramTime struct {
	Runs uint64
	Time time.Duration
}

// ReadProgramTime adds up the programs of a daemon that is at work.
func ReadProgramTime() (ProgramTime, error) {
	var all ProgramTime
	for _, name := range []string{"ingress", "egress"} {
		one, err := programTime(name)
		if err != nil {
			return ProgramTime{}, err
		}
		all.Runs += one.Runs
		all.Time += one.Time
	}
	return all, nil
}

func programTime(name string) (ProgramTime, error) {
	path := filepath.Join(pinDir, datapath.MapsDir, "programs", name)
	program, err := ebpf.LoadPinnedProgram(path, nil)
	if err != nil {
		return ProgramTime{}, fmt.Errorf("open %s: %w", path, err)
	}
	defer program.Close()
	stats, err := program.Stats()
	if err != nil {
		return ProgramTime{}, fmt.Errorf("read the statistics of %s: %w", path, err)
	}
	return ProgramTime{Runs: stats.RunCount, Time: stats.Runtime}, nil
}
