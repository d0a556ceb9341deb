// SPDX-License-Identifier: Apache-2.0

// Package undo takes back what was done to a host.
package undo

import (
	"errors"
	"slices"
)

// Tx is a start that may fail half-way. Its steps need not know whether it may: once it is committed, steps stay, and
// Postpone postpones nothing any more. The zero value is open.
type Tx struct {
	committed bool
	steps     []func() error
	postponed bool
}

// OnAbort has a step taken back by Abort.
func (t *Tx) OnAbort(undo func() error) {
	if !t.committed {
		t.steps = append(t.steps, undo)
	}
}

// Plan asks how the next step is taken back, where it may be. The plan may return nil for one that stays.
func (t *Tx) Plan(plan func() (undo func() error, err error)) error {
	if t.committed {
		return nil
	}
	undo, err := plan()
	if undo != nil {
		t.steps = append(t.steps, undo)
	}
	return err
}

// Postpone does something that nothing would take back. An open transaction drops it: who reconciles the host after Commit
// finds that it is still to be done, see Postponed.
func (t *Tx) Postpone(do func() error) error {
	if t.committed {
		return do()
	}
	t.postponed = true
	return nil
}

// Leave notes that something is left to be done, also in a committed transaction: by whoever asks Postponed next.
func (t *Tx) Leave() { t.postponed = true }

// Postponed tells once whether something was: who reconciles the host then finds it.
func (t *Tx) Postponed() bool {
	postponed := t.postponed
	t.postponed = false
	return postponed
}

// Commit ends the transaction: its steps stay.
func (t *Tx) Commit() { t.committed, t.steps = true, nil }

// Abort takes the steps back, the last one first, and goes on after errors, which it returns.
func (t *Tx) Abort() error {
	var errs []error
	for _, step := range slices.Backward(t.steps) {
		errs = append(errs, step())
	}
	t.steps = nil
	return errors.Join(errs...)
}
