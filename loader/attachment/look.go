package attachment

import (
	"errors"
	"fmt"

	"replypath/loader/attach"
)

// each does something for each interface, and goes on after errors.
func each(interfaces []Interface, do func(Interface) error) error {
	var errs []error
	for _, i := range interfaces {
		errs = append(errs, do(i))
	}
	return errors.Join(errs...)
}

// IsComplete tells whether both programs are attached now.
func (a *Attachments) IsComplete(target attach.Interface) (bool, error) {
	mechanism, err := attach.MechanismOf(a.host.Attacher(), target, attach.Directions[:]...)
	return mechanism != attach.Auto, err
}

// HasAny tells whether one of the programs is attached now.
func (a *Attachments) HasAny(target attach.Interface) (bool, error) {
	for _, direction := range attach.Directions {
		mechanism, err := attach.MechanismOf(a.host.Attacher(), target, direction)
		if mechanism != attach.Auto || err != nil {
			return mechanism != attach.Auto, err
		}
	}
	return false, nil
}

// DetachStrays takes the programs off interfaces that nobody knows, as a process leaves them that is killed in its start.
func (a *Attachments) DetachStrays(isKnown func(index int) bool) error {
	pinned, err := a.host.Attacher().Pinned()
	errs := []error{err}
	for _, index := range pinned {
		if !isKnown(index) {
			errs = append(errs, a.host.Attacher().Detach(attach.Interface{Index: index, Name: fmt.Sprintf("interface %d", index)}))
		}
	}
	return errors.Join(errs...)
}
