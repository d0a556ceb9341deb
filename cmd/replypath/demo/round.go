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

// setting is whether replypath runs, and what is expected then.
type setting struct {
	name     string
	port     uint16 // of A's TCP and UDP sockets: it tells the packets of one round from another's
	answered bool
}

var (
	withoutReplypath = setting{"without replypath", 40001, false}
	withReplypath    = setting{"with replypath", 40002, true}
)

// round is all questions in both families, those in IPv4 first, with all frames
// that passed the cables of B meanwhile.
type round struct {
	setting
	questions    []*question
	servers      servers
	eth0, eth1   *way
	network      *network.Network
	drops, begun uint64 // of the production router's policy
	wrong        int    // replies that had left by eth0 when drops was read
}

// way is an interface of B's, with the frames that the router's end of its cable
// gets: what is there has really left B.
type way struct {
	*network.Interface
	capture *network.Capture
}

func newWay(i *network.Interface) (*way, error) {
	capture, err := i.Peer.Capture()
	return &way{i, capture}, err
}

// replies returns those to questions, in the order of the questions.
func (w *way) replies(questions ...*question) []*network.Frame {
	var found []*network.Frame
	for _, q := range questions {
		found = append(found, w.capture.Frames(q.isReply)...)
	}
	return found
}

// newRound starts servers and captures.
func newRound(ctx context.Context, n *network.Network, s setting) (r *round, err error) {
	r = &round{setting: s, network: n}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.close())
		}
	}()
	if r.servers, err = serve(ctx, n.B); err != nil {
		return nil, err
	}
	if r.eth0, err = newWay(n.B.Eth0); err != nil {
		return nil, err
	}
	if r.eth1, err = newWay(n.B.Eth1); err != nil {
		return nil, err
	}
	for _, f := range network.Families {
		for _, k := range kinds {
			r.questions = append(r.questions, newQuestion(n, k, f, s.port))
		}
	}
	r.begun, err = n.Drops()
	return r, err
}

// close hangs up and ends captures and servers.
func (r *round) close() error {
	errs := []error{r.servers.close()}
	for _, q := range r.questions {
		errs = append(errs, q.close())
	}
	for _, w := range []*way{r.eth0, r.eth1} {
		if w != nil && w.capture != nil {
			errs = append(errs, w.capture.Close())
		}
	}
	return errors.Join(errs...)
}

// ask asks everything at once and waits for the answers, or in vain until each
// reply has been seen on its wrong way and had time to arrive nevertheless. Then
// it notes what the router has dropped.
func (r *round) ask(ctx context.Context, inVain bool) error {
	asking, giveUp := context.WithTimeout(ctx, answerTime)
	defer giveUp()
	var all sync.WaitGroup
	for _, q := range r.questions {
		all.Go(func() { q.put(asking) })
	}
	if inVain {
		for r.seenWrong() < len(r.questions) && asking.Err() == nil {
			time.Sleep(time.Millisecond)
		}
		time.AfterFunc(silence, giveUp)
	}
	all.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	// In this order: replies are still sent again meanwhile.
	r.wrong = len(r.eth0.replies(r.questions...))
	now, err := r.network.Drops()
	r.drops = now - r.begun
	return err
}

// seenWrong counts the questions whose replies left by eth0.
func (r *round) seenWrong() int {
	seen := 0
	for _, q := range r.questions {
		if len(r.eth0.replies(q)) > 0 {
			seen++
		}
	}
	return seen
}
