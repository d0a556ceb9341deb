// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"context"
	"fmt"
	"testing"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/product"
	"replypath/test/short"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// TestStrongHostRestarts has B hold a hundred connections that it began from eth1's address, half of them by IPv6, and
// ask in all of them while the daemon ends, is killed, and starts again: none breaks, and no packet leaves by eth0.
func TestStrongHostRestarts(t *testing.T) {
	s := newBeginner(t, topology.StrictSource)
	p := product.On(t, s.B.Host)
	config := product.WriteConfig(t, strongHost(s))
	d := p.Start("--config", config)
	awaitResolved(t, p)
	var all []*traffic.Conversation
	for n := range 100 {
		c := fromEth1(t, s, traffic.TCP, s.Families()[n%2])
		traffic.Ask(t, c)
		all = append(all, c)
	}
	wires := wire.Tap(t, s.B)
	ctx, stop := context.WithCancel(t.Context())
	asked := make([]int, len(all))
	var asks errgroup.Group
	for n, c := range all {
		asks.Go(func() error {
			for ctx.Err() == nil {
				if err := c.Ask(await.Within(t, await.AnswerTime)); err != nil {
					return fmt.Errorf("%s: %w", c, err)
				}
				asked[n]++
			}
			return nil
		})
	}
	restarts := 3
	if short.Run(t) {
		restarts = 1
	}
	for range restarts {
		d.Stop(unix.SIGTERM)
		d = p.Start("--config", config)
		d.Kill()
		d = p.Start("--config", config)
	}
	stop()
	await.Must(t, asks.Wait())
	for n, c := range all {
		if asked[n] == 0 {
			t.Errorf("%s: nothing was asked meanwhile", c)
		}
		if eth0, _ := wires.Left(c.Questions()); len(eth0) > 0 {
			t.Errorf("%s: %d questions left by eth0", c, len(eth0))
		}
	}
	t.Logf("%d connections went on over %d restarts", len(all), 2*restarts)
}

// TestStrongHostBesideRules: where a rule sends what B begins by eth1 already, the strong host model finds it right,
// moves nothing, and takes it over without a break when the rule goes.
func TestStrongHostBesideRules(t *testing.T) {
	s := ruled(t)
	p := product.On(t, s.B.Host)
	var kept []*traffic.Conversation
	for _, f := range s.Families() {
		c := fromEth1(t, s, traffic.TCP, f)
		traffic.Ask(t, c)
		kept = append(kept, c)
	}
	p.Start("--config", product.WriteConfig(t, strongHost(s)))
	awaitResolved(t, p)
	eachBegun(t, s, "by rule", func(t *testing.T, c *traffic.Conversation) { wantBegun(t, s, c) })
	if moved := p.Metrics().Sum("replypath_originated_packets_total"); moved != 0 {
		t.Errorf("%v packets were taken for originated by the wrong side, beside rules", moved)
	}
	host.Shell(t, s.B.Host, "ip rule del priority 100")
	host.Shell(t, s.B.Host, "ip -6 rule del priority 100")
	for _, c := range kept {
		wires := wire.Tap(t, s.B)
		traffic.Ask(t, c)
		wires.WantEth1(c.String()+" when its rule has gone", c.Questions())
	}
	eachBegun(t, s, "without rules", func(t *testing.T, c *traffic.Conversation) { wantBegun(t, s, c) })
}
