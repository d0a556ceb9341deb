// SPDX-License-Identifier: Apache-2.0

package undo

import (
	"errors"
	"slices"
	"testing"
)

// steps notes which steps were taken, in their order.
type steps struct{ taken []int }

func (s *steps) step(i int, err error) func() error {
	return func() error {
		s.taken = append(s.taken, i)
		return err
	}
}

// TestAbort takes back all steps, the last one first, and once only.
func TestAbort(t *testing.T) {
	var s steps
	var tx Tx
	broken, refused := errors.New("broken"), errors.New("refused")
	tx.OnAbort(s.step(1, nil))
	tx.OnAbort(s.step(2, broken))
	if err := tx.Plan(func() (func() error, error) { return s.step(3, nil), refused }); !errors.Is(err, refused) {
		t.Errorf("the plan's error is %v", err)
	}
	if err := tx.Plan(func() (func() error, error) { return nil, nil }); err != nil {
		t.Error(err)
	}
	if err := tx.Abort(); !errors.Is(err, broken) || !slices.Equal(s.taken, []int{3, 2, 1}) {
		t.Errorf("error %v after %v", err, s.taken)
	}
	if err := tx.Abort(); err != nil || len(s.taken) != 3 {
		t.Errorf("the second time: error %v after %v", err, s.taken)
	}
}

// TestPostpone: what nothing would take back is left until the transaction is committed, and done at once then.
func TestPostpone(t *testing.T) {
	var s steps
	var tx Tx
	broken := errors.New("broken")
	if err := tx.Postpone(s.step(1, broken)); err != nil || len(s.taken) > 0 {
		t.Errorf("open: error %v after %v", err, s.taken)
	}
	tx.OnAbort(s.step(2, nil))
	tx.Commit()
	if !tx.Postponed() || tx.Postponed() {
		t.Error("that something was postponed is not told once")
	}
	if err := tx.Postpone(s.step(3, broken)); !errors.Is(err, broken) || !slices.Equal(s.taken, []int{3}) || tx.Postponed() {
		t.Errorf("committed: error %v after %v", err, s.taken)
	}
	tx.Leave()
	if !tx.Postponed() {
		t.Error("what is left is not told")
	}
}

// TestCommitted: steps after that stay, and nobody asks how they would be taken back.
func TestCommitted(t *testing.T) {
	var s steps
	var tx Tx
	tx.OnAbort(s.step(1, nil))
	tx.Commit()
	tx.OnAbort(s.step(2, nil))
	err := tx.Plan(func() (func() error, error) {
		t.Error("a plan was asked for")
		return nil, nil
	})
	if err = errors.Join(err, tx.Abort()); err != nil || len(s.taken) > 0 {
		t.Errorf("error %v after %v", err, s.taken)
	}
}
