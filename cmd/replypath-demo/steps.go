// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"replypath/test/topology"
)

// show takes the steps.
func (d *demo) show(ctx context.Context) error {
	d.write("replypath-demo: a server with two NICs whose replies leave by the wrong one")
	d.showNetwork()
	if err := d.showWrong(ctx); err != nil {
		return err
	}
	args := []string{"run", "--config", "/dev/null"} // the host's own configuration has no say here
	d.heading("On B: replypath %s", strings.Join(args, " "))
	s, err := d.launch(ctx, args)
	if err != nil {
		return err
	}
	d.line("✓ ready, without any configuration")
	if err := d.showRight(ctx); err != nil {
		return errors.Join(err, s.end())
	}
	return d.showUndone(ctx, s)
}

func (d *demo) showNetwork() {
	d.heading("The network: real interfaces, in namespaces of the demo's own")
	f := topology.IPv4
	for _, ends := range [][2]*topology.Interface{{d.net.A.Eth0, d.net.B.Eth0}, {d.net.A.Eth1, d.net.B.Eth1}} {
		a, b := ends[0], ends[1]
		d.line("A %s %s ─── %s router %s ─── %s %s B", a.Name, a.Address(f), a.Gateway(f), b.Gateway(f), b.Address(f), b.Name)
	}
	d.line("B's default route is by eth0. A router drops what arrives on the wrong side (%s).", topology.StrictSource)
}

// showWrong asks B without replypath.
func (d *demo) showWrong(ctx context.Context) error {
	d.heading("Without replypath: A asks B's eth1 from its own eth1")
	before, err := d.net.Production.Drops()
	if err != nil {
		return err
	}
	replies, err := d.ask(ctx, withoutReplypath)
	if err != nil {
		return err
	}
	drops, err := d.net.Production.Drops()
	drops -= before
	d.require(drops >= uint64(replies), "%d replies left by eth0, the production router dropped %d packets", replies, drops)
	d.line("The production router dropped %d packets: such a source does not belong behind eth0.", drops)
	return err
}

// showRight asks the same questions with replypath, and shows what that knows of them.
func (d *demo) showRight(ctx context.Context) error {
	d.heading("The same questions again")
	replies, err := d.ask(ctx, withReplypath)
	if err != nil {
		return err
	}
	d.heading("On B: replypath flows, and the begin of replypath status")
	flows, err := d.call(ctx, "flows")
	if err != nil {
		return err
	}
	status, err := d.call(ctx, "status")
	if err != nil {
		return err
	}
	d.quote(flows + "\n" + strings.Join(strings.SplitN(status, "\n\n", 3)[:2], "\n\n"))
	d.require(strings.Contains(status, fmt.Sprintf("%d replies corrected, none lost", replies)), "replypath status does not count %d replies", replies)
	return nil
}

// quote shows what replypath has written.
func (d *demo) quote(text string) {
	for line := range strings.Lines(text) {
		d.line("%s", strings.TrimSpace(line))
	}
}

// showUndone ends the service, which changes nothing for the replies, and then takes replypath away, which does.
func (d *demo) showUndone(ctx context.Context, s *service) error {
	d.heading("The end: the daemon gets SIGTERM, then replypath detach")
	if err := s.stop(); err != nil {
		return err
	}
	if _, err := d.ask(ctx, withoutDaemon); err != nil {
		return err
	}
	removed, err := d.call(ctx, "detach")
	if err != nil {
		return err
	}
	d.quote(removed)
	return nil
}

// verdict ends the page. It returns an error that names what was not seen.
func (d *demo) verdict() error {
	if len(d.missing) > 0 {
		return fmt.Errorf("the demo did not show what it should: %s", strings.Join(d.missing, "; "))
	}
	d.write("\n   ✓ Seen both: wrong without replypath, right with it. The network is gone, nothing is left.")
	d.line("  On a host of yours: `replypath run` to begin, `replypath detach` to undo, `replypath --help` for more.")
	return d.err
}
