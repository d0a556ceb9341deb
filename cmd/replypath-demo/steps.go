// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"replypath/test/topology"
)

// show takes the steps.
func (d *demo) show(ctx context.Context) error {
	d.title("replypath-demo: a server with two NICs whose replies leave by the wrong one")
	d.describeNetwork()
	if err := d.showWrong(ctx); err != nil {
		return err
	}
	s, err := d.start(ctx)
	if err != nil {
		return err
	}
	if err := d.showRight(ctx); err != nil {
		return errors.Join(err, s.end())
	}
	return d.showUndone(ctx, s)
}

func (d *demo) describeNetwork() {
	d.heading("The network: real interfaces, in namespaces of the demo's own")
	f := topology.IPv4
	for _, nic := range []struct {
		a, b   *topology.Interface
		router string
	}{
		{d.net.A.Eth0, d.net.B.Eth0, "production router"},
		{d.net.A.Eth1, d.net.B.Eth1, "replication router"},
	} {
		d.line("A %s %s ─── %s %-18s %s ─── %s %s B", nic.a.Name, nic.a.Address(f), nic.a.Gateway(f),
			nic.router, nic.b.Gateway(f), nic.b.Address(f), nic.b.Name)
	}
	d.line("B's default route is by eth0. A router drops what arrives on the wrong side (%s).", topology.StrictSource)
}

// showWrong asks B without replypath.
func (d *demo) showWrong(ctx context.Context) (err error) {
	r, err := d.newRound(ctx, withoutReplypath)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	d.heading("Without replypath: A asks %s, the address of B's eth1, from its own eth1", d.eth1.Address(topology.IPv4))
	before, err := d.net.Production.Drops()
	if err != nil {
		return err
	}
	if err := d.ask(ctx, r, d.eth0); err != nil {
		return err
	}
	wrong := len(d.eth0.replies(r.questions...)) // before drops are counted: replies are still sent again meanwhile
	drops, err := d.net.Production.Drops()
	if err != nil {
		return err
	}
	drops -= before
	d.showReplies(r)
	d.require(drops >= uint64(wrong), "%s: %d replies left by eth0, the production router dropped %d packets", r.name, wrong, drops)
	d.line("The production router dropped %d packets: such a source does not belong behind eth0.", drops)
	return nil
}

// start starts the service on B, waits until it is ready, and shows where it has attached itself.
func (d *demo) start(ctx context.Context) (*service, error) {
	// The host's own configuration has no say here.
	args := []string{"run", "--config", "/dev/null"}
	d.heading("On B: replypath %s", strings.Join(args, " "))
	begun := time.Now()
	s, err := d.launch(ctx, append(args, "--state-dir", "")) // the host may have a history of its own
	if err != nil {
		return nil, err
	}
	took := time.Since(begun).Round(10 * time.Millisecond)
	var status struct {
		Interfaces []struct {
			Name      string
			Attached  bool
			Mechanism string
		}
	}
	if err := d.read(ctx, &status, "status"); err != nil {
		return nil, errors.Join(err, s.end())
	}
	var attached []string
	for _, i := range status.Interfaces {
		if i.Attached && i.Mechanism != "" {
			attached = append(attached, fmt.Sprintf("%s (%s)", i.Name, i.Mechanism))
		}
	}
	d.told(true, "ready in %s: attached to %s, without any configuration", took, strings.Join(attached, " and "))
	return s, nil
}

// showRight asks the same questions and shows what replypath knows of them.
func (d *demo) showRight(ctx context.Context) (err error) {
	r, err := d.newRound(ctx, withReplypath)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	d.heading("The same questions again")
	if err := d.ask(ctx, r, d.eth1); err != nil {
		return err
	}
	d.showReplies(r)
	if err := d.showFlows(ctx, r); err != nil {
		return err
	}
	return d.showMetrics(ctx, r)
}

// flow is an entry of the JSON document of `replypath flows`.
type flow struct {
	Protocol, Peer, Self, Interface, State string
	NextHopMAC                             string `json:"next_hop_mac"`
	CorrectedPackets                       uint64 `json:"corrected_packets"`
}

// showFlows shows the flow table while the questions' sockets are open.
func (d *demo) showFlows(ctx context.Context, r *round) error {
	d.heading("The flows that B remembers: replypath flows (some columns)")
	var flows []flow
	if err := d.read(ctx, &flows, "flows"); err != nil {
		return err
	}
	rows := [][]string{{"PROTOCOL", "PEER", "SELF", "INTERFACE", "NEXT HOP", "STATE", "CORRECTED"}}
	for _, f := range flows {
		rows = append(rows, []string{
			f.Protocol, f.Peer, f.Self, cmp.Or(f.Interface, "-"), cmp.Or(f.NextHopMAC, "-"), f.State, fmt.Sprint(f.CorrectedPackets),
		})
	}
	d.table(rows)
	for _, q := range r.questions {
		recorded := slices.ContainsFunc(flows, func(f flow) bool {
			return f.Protocol == q.protocol && f.Peer == q.asker.Addr().String() && f.Self == q.asked.Addr().String() &&
				f.Interface == d.eth1.Name
		})
		d.require(recorded, "replypath flows does not show %s on eth1", q)
	}
	return nil
}

// showMetrics shows counters and compares them with the captures.
func (d *demo) showMetrics(ctx context.Context, r *round) error {
	const address = "http://127.0.0.1:9945/metrics"
	d.heading("What Prometheus reads from B: %s", address)
	text, err := d.scrape(ctx, address)
	if err != nil {
		return fmt.Errorf("read the metrics: %w", err)
	}
	corrected, counted, err := samples(text, "replypath_corrected_packets_total")
	if err != nil {
		return err
	}
	for _, sample := range corrected {
		d.quote(sample)
	}
	captured := len(d.eth1.replies(r.questions...))
	d.mustBe(counted == float64(captured),
		fmt.Sprintf("%g packets counted, as many as captured on the cable of eth1", counted),
		fmt.Sprintf("%g packets counted, %d captured on the cable of eth1", counted, captured))
	return nil
}

// showUndone ends the service, which changes nothing for the replies, and then takes replypath away, which does.
func (d *demo) showUndone(ctx context.Context, s *service) error {
	d.heading("The end: the daemon gets SIGTERM, then replypath detach")
	if err := s.stop(); err != nil {
		return err
	}
	asking, giveUp := context.WithTimeout(ctx, answerTime)
	defer giveUp()
	to := d.eth1.Address(topology.IPv4)
	_, err := d.net.A.Ping(asking, topology.Echo{From: d.net.A.Eth1.Address(topology.IPv4), To: to})
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	d.mustBe(err == nil, fmt.Sprintf("ping to %s is answered without the daemon: what is in the kernel stays", to),
		fmt.Sprintf("ping to %s is not answered without the daemon", to))
	removed, err := d.call(ctx, "detach")
	if err != nil {
		return err
	}
	if _, err = os.Stat(pinDir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("look for pins: %w", err)
	}
	d.require(err != nil, "replypath detach left %s", pinDir)
	for line := range strings.Lines(string(removed)) {
		d.quote(strings.TrimSpace(line))
	}
	return nil
}

// verdict ends the page. It returns an error that names what was not seen.
func (d *demo) verdict() error {
	d.line("")
	if len(d.missing) > 0 {
		for _, what := range d.missing {
			d.told(false, "%s", what)
		}
		return fmt.Errorf("the demo did not show what it should: %s", strings.Join(d.missing, "; "))
	}
	d.told(true, "Seen both: wrong without replypath, right with it. The network is gone, nothing is left.")
	d.line("  On a host of yours: `replypath run` to begin, `replypath detach` to undo, `replypath --help` for more.")
	return d.err
}
