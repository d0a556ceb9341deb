// SPDX-License-Identifier: Apache-2.0

package contender

import (
	"errors"
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

// Programs are those of a contender, opened, so that asking takes no time of its own.
type Programs []*ebpf.Program

// Timed is a contender at work whose programs can be asked what they have taken.
type Timed interface {
	Running
	OpenPrograms() (Programs, error)
}

// OpenPrograms opens those that were attached for the contender.
func (s *severalAttached) OpenPrograms() (Programs, error) {
	var all Programs
	for _, one := range s.running {
		program, err := one.program.Clone()
		if err != nil {
			return nil, errors.Join(fmt.Errorf("open %s: %w", one.program, err), all.Close())
		}
		all = append(all, program)
	}
	return all, nil
}

// OpenPrograms opens them by their pins.
func (d *Daemon) OpenPrograms() (Programs, error) {
	var all Programs
	for _, name := range []string{"ingress", "egress"} {
		path := filepath.Join(d.pinDir, datapath.MapsDir, "programs", name)
		program, err := ebpf.LoadPinnedProgram(path, nil)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("open %s: %w", path, err), all.Close())
		}
		all = append(all, program)
	}
	return all, nil
}

// Time adds up what they have taken.
func (p Programs) Time() (ProgramTime, error) {
	var all ProgramTime
	for _, program := range p {
		stats, err := program.Stats()
		if err != nil {
			return ProgramTime{}, fmt.Errorf("read the statistics of %s: %w", program, err)
		}
		all.Runs += stats.RunCount
		all.Time += stats.Runtime
	}
	return all, nil
}

// Close closes them.
func (p Programs) Close() error {
	var errs []error
	for _, program := range p {
		errs = append(errs, program.Close())
	}
	return errors.Join(errs...)
}
