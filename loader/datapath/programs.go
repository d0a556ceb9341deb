// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"

	"replypath/loader/attach"
	"replypath/loader/source"
)

// Names of pinned programs: those that reading commands run, and those that are
// attached, for whoever has to put them back. They are the names in the object without
// its prefix.
const (
	programPrefix = "replypath_"

	clockName    = "clock"
	sendName     = "send"
	ingressName  = "ingress"
	egressName   = "egress"
	ingress3Name = "ingress_l3" // of devices without an Ethernet header
	egress3Name  = "egress_l3"
	fallbackName = "fallback"
	heldName     = "held"
	send4Name    = "sendmsg4"
	send6Name    = "sendmsg6"
)

// forEgress and forAll are loaded for every host. The verifier takes half of the time from start to ready for each of the two: it
// looks at both at once. Those of devices without an Ethernet header are loaded once one needs them: they take as long as all others.
//
// Fallback and Held stand behind Egress: at the device of the fallback route, and where a silent gateway is held. Egress calls
// Fallback for what is for nobody.
var (
	forEgress = []string{egressName}
	forAll    = []string{ingressName, sendName, clockName, fallbackName, heldName}
)

// ProgramSet are the programs of one datapath: those that are loaded, or those that an
// earlier process has pinned. One that is nil has none.
type ProgramSet struct{ byName map[string]*ebpf.Program }

// openPrograms opens what is pinned in a directory of programs. Where there is
// none, it holds nothing.
func openPrograms(path string) (*ProgramSet, error) {
	s := &ProgramSet{make(map[string]*ebpf.Program)}
	entries, err := os.ReadDir(path)
	if errors.Is(err, os.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for pinned programs: %w", err)
	}
	for _, entry := range entries {
		program, err := ebpf.LoadPinnedProgram(filepath.Join(path, entry.Name()), nil)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("open program %s: %w", entry.Name(), err), s.Close())
		}
		s.byName[entry.Name()] = program
	}
	return s, nil
}

// program returns the one of this name, nil for none.
func (s *ProgramSet) program(name string) *ebpf.Program {
	if s == nil {
		return nil
	}
	return s.byName[name]
}

// Programs returns what belongs to an interface with or without an Ethernet
// header, which may be one that only catches replies; false where that is not known.
func (s *ProgramSet) Programs(hasHeader, catches bool) (attach.Programs, bool) {
	ingress, egress := ingressName, egressName
	if !hasHeader {
		ingress, egress = ingress3Name, egress3Name
	}
	programs := attach.Programs{Egress: s.program(egress)}
	if !catches {
		programs.Ingress = s.program(ingress)
	}
	return programs, programs.Egress != nil && (catches || programs.Ingress != nil)
}

// FallbackPrograms returns what belongs to the device of the fallback route;
// false where that is not known.
func (s *ProgramSet) FallbackPrograms() (attach.Programs, bool) {
	programs := attach.Programs{Egress: s.program(egressName), Last: s.program(fallbackName)}
	return programs, programs.Egress != nil && programs.Last != nil
}

// Source returns what belongs to the cgroup; false where that is not known.
func (s *ProgramSet) Source() (*source.Programs, bool) {
	programs := &source.Programs{Send4: s.program(send4Name), Send6: s.program(send6Name)}
	return programs, programs.Send4 != nil && programs.Send6 != nil
}

// Close closes the programs; where they are attached or pinned they stay.
func (s *ProgramSet) Close() error {
	if s == nil {
		return nil
	}
	var errs []error
	for _, program := range s.byName {
		errs = append(errs, program.Close())
	}
	return errors.Join(errs...)
}
