// Package demo shows on a network of its own what replypath is for: replies that
// leave by the wrong interface, and the same replies with replypath.
//
// Everything happens in network namespaces without a name and in a mount
// namespace of the demo's own, so that nothing is left when the process ends,
// however it ends.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"replypath/cmd/replypath/demo/network"
)

// patience bounds the whole demo, which takes a few seconds, half a minute on an
// emulated machine.
const patience = 2 * time.Minute

// ErrNotShown says that the demo did not see both the wrong and the right
// replies.
var ErrNotShown = errors.New("the demo did not show what it should")

// Run shows everything and writes about it to out. It returns nil only if the
// captures and the clients saw the replies go wrong without replypath and right
// with it; else the error matches ErrNotShown and says what was missing. A signal
// that ends a program ends the demo early, with an error.
//
// It may replace the process by another one of the same program with the same
// arguments: call it before anything else is begun.
func Run(ctx context.Context, out io.Writer) error {
	if os.Geteuid() != 0 {
		return errors.New("the demo makes network namespaces, which only root may: run it as root")
	}
	if err := enterOwnMounts(); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(ctx, unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("not done after %s", patience))
	defer cancel()

	d := &demo{page: newPage(out)}
	if err := d.run(ctx); err != nil {
		return fmt.Errorf("the demo ended early, its network is gone: %w", err)
	}
	return d.verdict()
}

// demo is what the steps share.
type demo struct {
	*page
	net *network.Network
}

// run builds the network, shows everything and takes the network down.
func (d *demo) run(ctx context.Context) (err error) {
	d.title("replypath demo: a server with two NICs whose replies leave by the wrong one")
	d.net, err = network.New(ctx, true)
	if err == nil {
		err = errors.Join(d.show(ctx), d.net.Close())
	}
	if ctx.Err() != nil {
		// Whatever failed did so for this.
		return context.Cause(ctx)
	}
	return err
}

// show takes the steps.
func (d *demo) show(ctx context.Context) error {
	d.describeNetwork()
	if err := d.showWrong(ctx); err != nil {
		return err
	}
	return d.showRight(ctx)
}

// verdict ends the page.
func (d *demo) verdict() error {
	d.line("")
	if len(d.missing) > 0 {
		for _, what := range d.missing {
			d.bad("%s", what)
		}
		return fmt.Errorf("%w: %s", ErrNotShown, strings.Join(d.missing, "; "))
	}
	d.good("Seen both: wrong without replypath, right with it. The network is gone, nothing is left.")
	d.line("  On a host of yours: `replypath run` to begin, `replypath detach` to undo, `replypath --help` for more.")
	return d.err
}

func (d *demo) describeNetwork() {
	d.heading("The network: real interfaces, in namespaces of the demo's own")
	f := network.IPv4
	for _, nic := range []struct {
		a, b   *network.Interface
		router string
	}{
		{d.net.A.Eth0, d.net.B.Eth0, "production router"},
		{d.net.A.Eth1, d.net.B.Eth1, "replication router"},
	} {
		d.line("A %s %s ─── %s %-18s %s ─── %s %s B", nic.a.Name, nic.a.Address(f), nic.a.Gateway(f),
			nic.router, nic.b.Gateway(f), nic.b.Address(f), nic.b.Name)
	}
	d.line("B's default route is by eth0. A router drops what comes in on the wrong side (strict uRPF).")
}
