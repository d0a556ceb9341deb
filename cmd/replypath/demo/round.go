package demo

import (
	"context"
	"errors"
	"sync"
	"time"

	"replypath/cmd/replypath/demo/network"
)

const (
	// answerTime is enough for any answer that comes at all.
	answerTime = 5 * time.Second
	// silence is how long an answer that went the wrong way has to arrive. It
	// is shorter than the second after which TCP repeats itself.
	silence = 900 * time.Millisecond
)

// round is all questions in both families, with all frames that passed the
// cables of B meanwhile. The frames are taken at the routers' ends: what is there
// has really left B.
type round struct {
	questions    []*question
	servers      servers
	byEth0       *network.Capture
	byEth1       *network.Capture
	network      *network.Network
	drops, begun uint64 // of the production router's policy
	wrong        int    // replies that had left by eth0 when drops was read
}

// newRound starts servers and captures. A's TCP and UDP sockets have the given
// port, which tells the packets of one round from another's.
func newRound(ctx context.Context, n *network.Network, port uint16) (r *round, err error) {
	r = &round{network: n}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.close())
		}
	}()
	if r.servers, err = serve(ctx, n.B); err != nil {
		return nil, err
	}
	if r.byEth0, err = n.B.Eth0.Peer().Capture(); err != nil {
		return nil, err
	}
	if r.byEth1, err = n.B.Eth1.Peer().Capture(); err != nil {
		return nil, err
	}
	for _, f := range network.Families {
		for _, k := range kinds {
			r.questions = append(r.questions, newQuestion(n, k, f, port))
		}
	}
	r.begun, err = r.network.Drops()
	return r, err
}

// close hangs up and ends captures and servers.
func (r *round) close() error {
	var errs []error
	for _, q := range r.questions {
		errs = append(errs, q.close())
	}
	for _, c := range []*network.Capture{r.byEth0, r.byEth1} {
		if c != nil {
			errs = append(errs, c.Close())
		}
	}
	return errors.Join(append(errs, r.servers.close())...)
}

// askInVain asks everything at once, until each reply has been seen on its wrong
// way and had time to arrive nevertheless.
func (r *round) askInVain(ctx context.Context) error {
	asking, giveUp := context.WithTimeout(ctx, answerTime)
	defer giveUp()
	go func() {
		for r.seenWrong() < len(r.questions) {
			select {
			case <-asking.Done(): // all are answered, or time is up
				return
			case <-time.After(time.Millisecond):
			}
		}
		time.AfterFunc(silence, giveUp)
	}()
	return r.ask(ctx, asking)
}

// seenWrong counts the questions whose replies left by eth0.
func (r *round) seenWrong() int {
	seen := 0
	for _, q := range r.questions {
		if len(r.byEth0.Frames(q.isReply)) > 0 {
			seen++
		}
	}
	return seen
}

// askAll asks everything at once and waits for the answers.
func (r *round) askAll(ctx context.Context) error {
	asking, giveUp := context.WithTimeout(ctx, answerTime)
	defer giveUp()
	return r.ask(ctx, asking)
}

// ask puts the questions until the context asking ends, and notes what the router
// has dropped. The error is that of ctx or of counting.
func (r *round) ask(ctx, asking context.Context) error {
	var all sync.WaitGroup
	for _, q := range r.questions {
		all.Go(func() { q.put(asking) })
	}
	all.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	// In this order: replies are still sent again meanwhile.
	r.wrong = len(frames(r.byEth0, r.questions))
	now, err := r.network.Drops()
	r.drops = now - r.begun
	return err
}

// of returns the questions in a family.
func (r *round) of(f network.Family) []*question {
	var found []*question
	for _, q := range r.questions {
		if q.family == f {
			found = append(found, q)
		}
	}
	return found
}

// frames returns the replies to questions that a capture has seen, in the order
// of the questions.
func frames(c *network.Capture, questions []*question) []*network.Frame {
	var found []*network.Frame
	for _, q := range questions {
		found = append(found, c.Frames(q.isReply)...)
	}
	return found
}
