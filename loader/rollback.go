package loader

import (
	"errors"
	"slices"
)

// rollback collects what takes back the steps of something that may fail
// half-way. A nil rollback forgets them: there is no way back then.
type rollback struct{ steps []func() error }

func (r *rollback) add(step func() error) {
	if r != nil {
		r.steps = append(r.steps, step)
	}
}

// run takes the steps back, the last one first, and goes on after errors.
func (r *rollback) run() error {
	var errs []error
	for _, step := range slices.Backward(r.steps) {
		errs = append(errs, step())
	}
	r.steps = nil
	return errors.Join(errs...)
}

// starting tells whether what is done now may still be taken back.
func (l *Loader) starting() bool { return l.rollback != nil }
