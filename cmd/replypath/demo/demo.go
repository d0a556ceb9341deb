// SPDX-License-Identifier: Apache-2.0

// Package demo shows on a network of its own what replypath is for: replies that
// leave by the wrong interface, and the same replies with replypath.
//
// Everything happens in network and mount namespaces without a name, so that
// nothing is left when the process ends, however it ends.
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
func Run(ctx context.Context, out io.Writer) error {
	if os.Geteuid() != 0 {
		return errors.New("the demo makes network namespaces, which only root may: run it as root")
	}
	ctx, stop := signal.NotifyContext(ctx, unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("not done after %s", patience))
	defer cancel()

	n, err := network.New(ctx, true)
	if errors.Is(err, unix.EPERM) {
		return errors.New("the demo needs CAP_SYS_ADMIN to make namespaces: in a container, start that as a privileged one")
	}
	d := &demo{page: newPage(out), net: n}
	if err == nil {
		err = errors.Join(d.show(ctx), n.Close())
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx) // whatever failed did so for this
	}
	if err != nil {
		return fmt.Errorf("the demo ended early, its network is gone: %w", err)
	}
	return d.verdict()
}

// show takes the steps.
func (d *demo) show(ctx context.Context) error {
	d.title("replypath demo: a server with two NICs whose replies leave by the wrong one")
	d.describeNetwork()
	if err := d.showWrong(ctx); err != nil {
		return err
	}
	s, err := d.start(ctx)
	if err != nil {
		return err
	}
	defer s.end()
	if err := d.showRight(ctx); err != nil {
		return errors.Join(err, s.failure())
	}
	return d.showUndone(ctx, s)
}

// verdict ends the page.
func (d *demo) verdict() error {
	d.line("")
	if len(d.missing) > 0 {
		for _, what := range d.missing {
			d.told(false, "%s", what)
		}
		return fmt.Errorf("%w: %s", ErrNotShown, strings.Join(d.missing, "; "))
	}
	d.told(true, "Seen both: wrong without replypath, right with it. The network is gone, nothing is left.")
	d.line("  On a host of yours: `replypath run` to begin, `replypath detach` to undo, `replypath --help` for more.")
	return d.err
}
