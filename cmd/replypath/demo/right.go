package demo

import (
	"context"
	"errors"
	"fmt"

	"replypath/cmd/replypath/demo/network"
)

// portRight is the port of A's sockets while replypath runs.
const portRight = 40002

// showRight asks B again, with replypath on it, and takes replypath away.
func (d *demo) showRight(ctx context.Context) error {
	s, err := start(ctx, d.page, d.net.B)
	if err != nil {
		return err
	}
	defer s.end()
	if err := d.showMended(ctx); err != nil {
		return errors.Join(err, s.failure())
	}
	return d.showUndone(ctx, s)
}

// showMended asks the same questions and shows what replypath knows of them.
func (d *demo) showMended(ctx context.Context) (err error) {
	r, err := newRound(ctx, d.net, portRight)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	d.heading("The same questions again")
	if err := r.askAll(ctx); err != nil {
		return err
	}
	for _, f := range network.Families {
		d.showRightFamily(r, f)
	}
	if err := showFlows(ctx, d.page, r); err != nil {
		return err
	}
	return showMetrics(ctx, d.page, r)
}

// showRightFamily shows IPv4 in full and IPv6 in a line.
func (d *demo) showRightFamily(r *round, f network.Family) {
	b, questions := d.net.B, r.of(f)
	for _, q := range questions {
		d.requireRight(r, q)
	}
	if f == network.IPv6 {
		showCompact(d.page, r, questions)
		return
	}
	showAnswers(d.page, questions)
	d.line("Captured on the cable of eth1 (its MAC > that of %s), and %d replies on that of eth0:",
		b.Eth1.Gateway(f), len(frames(r.byEth0, questions)))
	showFrames(d.page, frames(r.byEth1, questions))
}

// requireRight wants a question to have been answered by eth1 alone.
func (d *demo) requireRight(r *round, q *question) {
	what := fmt.Sprintf("with replypath: %s to %s", q.name, q.target())
	one := []*question{q}
	d.require(q.answered(), "%s was not answered", what)
	d.require(allFromTo(d.net.B.Eth1, frames(r.byEth1, one)), "%s: not all replies left by eth1 to its gateway", what)
	d.require(len(frames(r.byEth0, one)) == 0, "%s: a reply left by eth0", what)
}
