package demo

import (
	"context"
	"errors"
	"fmt"

	"replypath/cmd/replypath/demo/network"
)

// portWrong is the port of A's sockets before replypath runs.
const portWrong = 40001

// showWrong asks B without replypath.
func (d *demo) showWrong(ctx context.Context) (err error) {
	r, err := newRound(ctx, d.net, portWrong)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	b := d.net.B
	d.heading("Without replypath: A asks %s, the address of B's eth1, from its own eth1", b.Eth1.Address(network.IPv4))
	if err := r.askInVain(ctx); err != nil {
		return err
	}
	for _, f := range network.Families {
		d.showWrongFamily(r, f)
	}
	d.showDrops(r)
	return nil
}

// showDrops shows what became of the replies that left by eth0.
func (d *demo) showDrops(r *round) {
	d.require(r.drops >= uint64(r.wrong), "without replypath: %d replies left by eth0, the production router dropped %d packets", r.wrong, r.drops)
	d.line("The production router dropped %d packets: such a source does not belong behind eth0.", r.drops)
}

// showWrongFamily shows IPv4 in full and IPv6 in a line.
func (d *demo) showWrongFamily(r *round, f network.Family) {
	b, questions := d.net.B, r.of(f)
	for _, q := range questions {
		d.requireWrong(r, q)
	}
	if f == network.IPv6 {
		showCompact(d.page, r, questions)
		return
	}
	showAnswers(d.page, questions)
	d.line("B did reply, but by its default route. Captured on the cable of eth0 (its MAC > that of %s):", b.Eth0.Gateway(f))
	showFrames(d.page, frames(r.byEth0, questions))
}

// requireWrong wants a question to have been answered in vain.
func (d *demo) requireWrong(r *round, q *question) {
	what := fmt.Sprintf("without replypath: %s to %s", q.name, q.target())
	one := []*question{q}
	d.require(!q.answered(), "%s was answered", what)
	d.require(allFromTo(d.net.B.Eth0, frames(r.byEth0, one)), "%s: no reply left by eth0 to its gateway", what)
	d.require(len(frames(r.byEth1, one)) == 0, "%s: a reply left by eth1", what)
}
