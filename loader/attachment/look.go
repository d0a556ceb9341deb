package attachment

import (
	"errors"

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
