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

// MechanismOf returns how programs are attached in all these places, attach.Auto where one is missing.
func (a *Attachments) MechanismOf(target attach.Interface, places ...attach.Direction) (mechanism attach.Mechanism, err error) {
	for _, place := range places {
		var attached bool
		mechanism, attached, err = a.host.Attacher().Attached(target, place)
		if !attached || err != nil {
			return attach.Auto, err
		}
	}
	return mechanism, nil
}

// IsComplete tells whether both programs are attached now.
func (a *Attachments) IsComplete(target attach.Interface) (bool, error) {
	mechanism, err := a.MechanismOf(target, attach.Directions[:]...)
	return mechanism != attach.Auto, err
}

// HasAny tells whether one of the programs is attached now.
func (a *Attachments) HasAny(target attach.Interface) (bool, error) {
	for _, direction := range attach.Directions {
		mechanism, err := a.MechanismOf(target, direction)
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
