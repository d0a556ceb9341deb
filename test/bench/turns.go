// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"replypath/test/bench/load"
	"replypath/test/bench/report"
)

// turnTime is how long a contender works until the next one does. Whoever else uses the machine
// disturbs it for longer than that, and thereby all of them alike.
const turnTime = 50 * time.Millisecond

// turnPatience bounds what a turn may take beside that.
const turnPatience = 30 * time.Second

// takeTurns measures the slots of a workload side by side: all are set up, and each works for a
// moment, again and again, while the others rest.
func (r *runner) takeTurns(ctx context.Context, slots []slot, shown func(part float64, s slot)) {
	patience := time.Duration(len(slots)) * (slotTime + 4*r.duration)
	bounded, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("not done in %s", patience))
	defer cancel()
	stands := r.setUpAll(bounded, slots, shown)
	turns := max(1, int(r.duration/turnTime))
	for t := range turns {
		shown((1+float64(t)/float64(turns))/2, slots[0])
		for _, st := range shuffled(stands, r.rounds, t+1) {
			r.takeTurn(bounded, st, t, r.duration/time.Duration(turns))
		}
	}
	for _, st := range stands {
		if err := r.end(st); ctx.Err() == nil { // else whatever failed did so for this
			r.noteAll(st, err)
		}
	}
}

// takeTurn has a stand at work, unless it has failed before. A turn in which the machine did other work is left out.
func (r *runner) takeTurn(ctx context.Context, st *stand, number int, d time.Duration) {
	if st.err != nil {
		return
	}
	ctx, cancel := context.WithTimeoutCause(ctx, d+turnPatience, fmt.Errorf("a turn is not over in %s", d+turnPatience))
	defer cancel()
	figure, err := st.work.Run(ctx, d)
	switch {
	case err == nil:
		st.values = append(st.values, report.Value{Turn: number, Value: figure})
	case !errors.Is(err, load.ErrIdle):
		st.err = err
	}
}

// setUpAll builds the stands, each of them with warm work.
func (r *runner) setUpAll(ctx context.Context, slots []slot, shown func(part float64, s slot)) (stands []*stand) {
	for i, s := range slots {
		shown(float64(i)/float64(2*len(slots)), s)
		stands = append(stands, r.setUp(ctx, s))
	}
	for _, st := range stands {
		if st.err == nil {
			st.err = st.warmUp(ctx, r.warmUp)
		}
	}
	return stands
}

// end takes a stand down, and returns the first thing that went wrong.
func (r *runner) end(st *stand) error {
	if st.err == nil && len(st.values) == 0 {
		st.err = load.ErrIdle
	}
	if st.err == nil {
		st.err = st.checkWay()
	}
	if err := st.close(); st.err == nil {
		st.err = err
	}
	return st.err
}

// noteAll notes what a stand has measured, or why that counts for nothing.
func (r *runner) noteAll(st *stand, err error) {
	if err != nil {
		r.note(st.slot, report.Value{}, err)
		return
	}
	for _, value := range st.values {
		r.note(st.slot, value, nil)
	}
}
