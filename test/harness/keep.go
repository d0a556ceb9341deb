// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"context"
	"testing"
	"time"
)

// pace is how often a question is asked: often enough that nothing goes wrong
// unseen, seldom enough to leave the processors to what is tested.
const pace = time.Millisecond

// Talk is a conversation that goes on in the background.
type Talk struct {
	t       testing.TB
	c       *Conversation
	stop    context.CancelFunc
	ended   chan struct{}
	answers int
	pause   time.Duration
	err     error
}

// Keep asks a question every millisecond, or as often as there are answers, until
// Stop. Nobody else may use the
// conversation meanwhile.
func (c *Conversation) Keep(t testing.TB) *Talk {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	talk := &Talk{t: t, c: c, stop: stop, ended: make(chan struct{})}
	go talk.run(ctx)
	t.Cleanup(func() {
		stop()
		<-talk.ended
	})
	return talk
}

func (k *Talk) run(ctx context.Context) {
	defer close(k.ended)
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for k.err == nil {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			asked := time.Now()
			k.err = k.askOnce()
			k.pause = max(k.pause, time.Since(asked))
			k.answers++
		}
	}
}

// askOnce lets a question that is on its way have its answer: the end of the
// conversation does not interrupt it.
func (k *Talk) askOnce() error {
	ctx, cancel := context.WithTimeout(context.Background(), AnswerTime)
	defer cancel()
	return k.c.Ask(ctx)
}

// Stop ends the conversation after its last answer and wants that every question
// was answered. It returns how many were.
func (k *Talk) Stop() int {
	k.t.Helper()
	k.stop()
	<-k.ended
	if k.err != nil {
		k.t.Errorf("after %d answers: %v", k.answers-1, k.err)
	}
	return k.answers
}

// Pause returns the longest time that an answer took. The conversation has to be
// stopped.
func (k *Talk) Pause() time.Duration { return k.pause }
