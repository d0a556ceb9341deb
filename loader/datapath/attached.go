package datapath

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/cilium/ebpf"

	"replypath/loader/attach"
	"replypath/loader/source"
)

// Names of pinned programs: those that reading commands run, and those that are
// attached, for whoever has to put them back.
const (
	clockName    = "clock"
	forgetName   = "forget"
	sendName     = "send"
	ingressName  = "ingress"
	egressName   = "egress"
	ingress3Name = "ingress_l3" // of devices without an Ethernet header
	egress3Name  = "egress_l3"
	fallbackName = "fallback"
	heldName     = "held"
	gateName     = "gate"
	send4Name    = "sendmsg4"
	send6Name    = "sendmsg6"
)

// named returns the programs that are loaded, by the names under which they are
// pinned.
func (d *Datapath) named() map[string]*ebpf.Program {
	named := map[string]*ebpf.Program{
		clockName: d.programs.Clock, forgetName: d.programs.Forget, sendName: d.programs.Send,
		ingressName: d.programs.Ingress, egressName: d.programs.Egress,
		fallbackName: d.programs.Fallback, heldName: d.programs.Held,
		gateName: d.programs.Gate,
	}
	if d.noHeader != nil {
		named[ingress3Name], named[egress3Name] = d.noHeader.Ingress, d.noHeader.Egress
	}
	if d.source != nil {
		named[send4Name], named[send6Name] = d.source.Send4, d.source.Send6
	}
	return named
}

// Attached are the programs that an earlier process attached, as it has pinned
// them.
type Attached struct{ byName map[string]*ebpf.Program }

// openAttached opens what is pinned in a directory of programs. Where there is
// none, it holds nothing.
func openAttached(path string) (*Attached, error) {
	a := &Attached{make(map[string]*ebpf.Program)}
	entries, err := os.ReadDir(path)
	if errors.Is(err, os.ErrNotExist) {
		return a, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for pinned programs: %w", err)
	}
	for _, entry := range entries {
		program, err := ebpf.LoadPinnedProgram(filepath.Join(path, entry.Name()), nil)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("open program %s: %w", entry.Name(), err), a.Close())
		}
		a.byName[entry.Name()] = program
	}
	return a, nil
}

// All returns all of them.
func (a *Attached) All() []*ebpf.Program { return slices.Collect(maps.Values(a.byName)) }

// program returns the one of this name, nil for none.
func (a *Attached) program(name string) *ebpf.Program {
	if a == nil {
		return nil
	}
	return a.byName[name]
}

// Programs returns what was attached to an interface with or without an Ethernet
// header; false where that is not known.
func (a *Attached) Programs(hasHeader bool) (attach.Programs, bool) {
	ingress, egress := ingressName, egressName
	if !hasHeader {
		ingress, egress = ingress3Name, egress3Name
	}
	programs := attach.Programs{Ingress: a.program(ingress), Egress: a.program(egress)}
	return programs, programs.Ingress != nil && programs.Egress != nil
}

// FallbackPrograms returns what was attached to the device of the fallback route;
// false where that is not known.
func (a *Attached) FallbackPrograms() (attach.Programs, bool) {
	programs := attach.Programs{Egress: a.program(egressName), Last: a.program(fallbackName)}
	return programs, programs.Egress != nil && programs.Last != nil
}

// Gate returns what the fallback routes asked, nil where that is not known, or was nothing.
func (a *Attached) Gate() *ebpf.Program { return a.program(gateName) }

// Source returns what was attached to the cgroup; false where that is not known.
func (a *Attached) Source() (*source.Programs, bool) {
	programs := &source.Programs{Send4: a.program(send4Name), Send6: a.program(send6Name)}
	return programs, programs.Send4 != nil && programs.Send6 != nil
}

// Close closes the programs; where they are attached they stay.
func (a *Attached) Close() error {
	if a == nil {
		return nil
	}
	var errs []error
	for _, program := range a.byName {
		errs = append(errs, program.Close())
	}
	return errors.Join(errs...)
}
