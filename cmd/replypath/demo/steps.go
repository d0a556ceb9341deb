// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"replypath/cmd/replypath/demo/network"
	"replypath/cmd/replypath/output"
	"replypath/loader/flows"
	"replypath/loader/pins"
	"replypath/loader/status"
)

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
		d.line("A %s %s ─── %s %-18s %s ─── %s %s B", nic.a.Name, nic.a.Address(f), nic.a.Peer.Address(f),
			nic.router, nic.b.Peer.Address(f), nic.b.Address(f), nic.b.Name)
	}
	d.line("B's default route is by eth0. A router drops what arrives on the wrong side (strict uRPF).")
}

// showWrong asks B without replypath.
func (d *demo) showWrong(ctx context.Context) (err error) {
	r, err := newRound(ctx, d.net, withoutReplypath)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	d.heading("Without replypath: A asks %s, the address of B's eth1, from its own eth1", d.net.B.Eth1.Address(network.IPv4))
	if err := r.ask(ctx, true); err != nil {
		return err
	}
	d.showReplies(r)
	d.require(r.drops >= uint64(r.wrong), "%s: %d replies left by eth0, the production router dropped %d packets",
		r.name, r.wrong, r.drops)
	d.line("The production router dropped %d packets: such a source does not belong behind eth0.", r.drops)
	return nil
}

// showRight asks the same questions and shows what replypath knows of them.
func (d *demo) showRight(ctx context.Context) (err error) {
	r, err := newRound(ctx, d.net, withReplypath)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	d.heading("The same questions again")
	if err := r.ask(ctx, false); err != nil {
		return err
	}
	d.showReplies(r)
	if err := d.showFlows(ctx, r); err != nil {
		return err
	}
	return d.showMetrics(ctx, r)
}

// start starts the service on B, waits until it is ready, and shows where it has attached itself.
func (d *demo) start(ctx context.Context) (*service, error) {
	// The host's own configuration has no say here.
	args := []string{"run", "--config", "/dev/null"}
	d.heading("On B: replypath %s", strings.Join(args, " "))
	begun := time.Now()
	s, err := launch(ctx, d.net.B.Host, append(args, "--state-dir", "")) // the host may have a history of its own
	if err != nil {
		return nil, err
	}
	took := time.Since(begun).Round(10 * time.Millisecond)
	var status status.Status
	if err := d.read(ctx, &status, "status"); err != nil {
		return nil, errors.Join(err, s.failure())
	}
	var attached []string
	for _, i := range status.Interfaces {
		if i.Attached && i.Mechanism != nil {
			attached = append(attached, fmt.Sprintf("%s (%s)", i.Name, *i.Mechanism))
		}
	}
	d.told(true, "ready in %s: attached to %s, without any configuration", took, strings.Join(attached, " and "))
	return s, nil
}

// read asks a command of replypath on B for JSON.
func (d *demo) read(ctx context.Context, document any, command string) error {
	text, err := call(ctx, d.net.B.Host, command, "-o", "json")
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, document); err != nil {
		return fmt.Errorf("replypath %s: %w", command, err)
	}
	return nil
}

// showFlows shows the flow table while the questions' sockets are open.
func (d *demo) showFlows(ctx context.Context, r *round) error {
	d.heading("The flows that B remembers: replypath flows (some columns)")
	var table []flows.Flow
	if err := d.read(ctx, &table, "flows"); err != nil {
		return err
	}
	var rows [][]string
	for _, f := range table {
		rows = append(rows, []string{
			f.Protocol, f.Peer, f.Self, output.OrEmpty(f.Interface), output.OrEmpty(f.NextHopMAC), f.State,
			fmt.Sprint(f.CorrectedPackets),
		})
	}
	d.table([]string{"PROTOCOL", "PEER", "SELF", "INTERFACE", "NEXT HOP", "STATE", "CORRECTED"}, rows)
	for _, q := range r.questions {
		recorded := slices.ContainsFunc(table, func(f flows.Flow) bool { return q.isFlow(&f, d.net.B.Eth1.Name) })
		d.require(recorded, "replypath flows does not show %s on eth1", q)
	}
	return nil
}

// showUndone ends the service, which changes nothing for the replies, and then
// takes replypath away, which does.
func (d *demo) showUndone(ctx context.Context, s *service) error {
	d.heading("The end: the daemon gets SIGTERM, then replypath detach")
	if err := s.stop(); err != nil {
		return err
	}
	asking, giveUp := context.WithTimeout(ctx, answerTime)
	defer giveUp()
	q := newQuestion(d.net, kinds[0], network.IPv4, 0)
	q.put(asking)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	d.mustBe(q.err == nil, fmt.Sprintf("%s is answered without the daemon: what is in the kernel stays", q),
		fmt.Sprintf("%s is not answered without the daemon", q))
	removed, err := call(ctx, d.net.B.Host, "detach")
	if err != nil {
		return err
	}
	err = d.net.B.Do(func() error {
		_, err := os.Stat(pins.DefaultDir)
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("look for pins: %w", err)
	}
	d.require(err != nil, "replypath detach left %s", pins.DefaultDir)
	for line := range strings.Lines(string(removed)) {
		d.quote(strings.TrimSpace(line))
	}
	return nil
}
