// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"replypath/test/harness"
	"replypath/test/topology"
)

// begunConnections is how many connections go on over restarts.
const begunConnections = 100

// TestStrongHostRestarts has B hold a hundred connections that it began from eth1's address, half of them by IPv6, and
// ask in all of them while the daemon ends, is killed, and starts again: none breaks, and no packet leaves by eth0.
func TestStrongHostRestarts(t *testing.T) {
	s := newBeginner(t, topology.StrictSource)
	p := harness.On(t, s.B.Host)
	config := harness.WriteConfig(t, strongHost(s))
	d := p.Start("--config", config)
	var all []*harness.Conversation
	for n := range begunConnections {
		c := fromEth1(t, s, harness.TCP, s.Families()[n%2])
		harness.Ask(t, c)
		all = append(all, c)
	}
	wires := harness.Tap(t, s.B)
	ctx, stop := context.WithCancel(t.Context())
	asked := make([]int, len(all))
	var asking errgroup.Group
	for n, c := range all {
		asking.Go(func() error {
			for ctx.Err() == nil {
				if err := c.Ask(harness.Within(t, harness.AnswerTime)); err != nil {
					return fmt.Errorf("%s: %w", c, err)
				}
				asked[n]++
			}
			return nil
		})
	}
	for range 3 {
		d.Stop(unix.SIGTERM)
		d = p.Start("--config", config)
		d.Kill()
		d = p.Start("--config", config)
	}
	stop()
	harness.Must(t, asking.Wait())
	total := 0
	for n, c := range all {
		if asked[n] == 0 {
			t.Errorf("%s: nothing was asked meanwhile", c)
		}
		if eth0, _ := wires.Left(c.Questions()); len(eth0) > 0 {
			t.Errorf("%s: %d questions left by eth0", c, len(eth0))
		}
		total += asked[n]
	}
	t.Logf("%d connections went on over 6 restarts, with %d questions", len(all), total)
}

// TestStrongHostBesideRules: where a rule sends what B begins by eth1 already, the strong host model finds it right, moves
// nothing, and takes it over without a break when the rule goes.
func TestStrongHostBesideRules(t *testing.T) {
	s := ruled(t)
	p := harness.On(t, s.B.Host)
	var kept []*harness.Conversation
	for _, f := range s.Families() {
		c := fromEth1(t, s, harness.TCP, f)
		harness.Ask(t, c)
		kept = append(kept, c)
	}
	p.Start("--config", harness.WriteConfig(t, strongHost(s)))
	eachBegun(t, s, "by rule", func(t *testing.T, c *harness.Conversation) { wantBegun(t, s, c) })
	if moved := p.Metrics().Sum("replypath_originated_packets_total"); moved != 0 {
		t.Errorf("%v packets were taken for originated by the wrong side, beside rules", moved)
	}
	run(t, s.B.Host, "ip rule del priority 100")
	run(t, s.B.Host, "ip -6 rule del priority 100")
	for _, c := range kept {
		wires := harness.Tap(t, s.B)
		harness.Ask(t, c)
		wires.WantEth1(c.String()+" when its rule has gone", c.Questions())
	}
	eachBegun(t, s, "without rules", func(t *testing.T, c *harness.Conversation) { wantBegun(t, s, c) })
}

const (
	poolStreams = 32
	poolSize    = 4 << 20 // bytes of each
)

// pool are the destinations of A, each with the address under which B forwards to it.
func pool(s *topology.S1, f topology.Family) (all []any) {
	return []any{s.A.Eth0.Address(f), s.B.Eth0.Address(f), s.A.Eth1.Address(f), s.B.Eth1.Address(f)}
}

// TestStrongHostPool has B forward bulk data under a pool of addresses of both uplinks.
// What got that of eth1 is lost without replypath, also beside a rule for the address, as routing comes before the
// translation. The strong host model has every stream arrive, each by the uplink of its address.
func TestStrongHostPool(t *testing.T) {
	s := newBeginner(t, topology.StrictSource)
	eth0, eth1 := hostBehind(t, s), s.B.Eth1
	loadRules(t, s.B.Host, fmt.Sprintf(`table inet masks {
	chain outward {
		type nat hook postrouting priority srcnat
		ip saddr 10.9.9.2 snat ip to ip daddr map { %s : %s, %s : %s }
		ip6 saddr 2001:db8:99::2 snat ip6 to ip6 daddr map { %s : %s, %s : %s }
	}
}`, append(pool(s, topology.IPv4), pool(s, topology.IPv6)...)...))
	for _, f := range s.Families() {
		harness.Must(t, s.B.AddRoute(topology.Route{Via: eth1.Gateway(f), Table: 101}))
	}
	half := func(name string) {
		for _, f := range s.Families() {
			if streams, _ := poolOf(t, s, eth0, f, harness.SilenceTime); len(streams) != poolStreams/2 {
				t.Errorf("%s, %s: %d of %d streams are connected, not half of them", name, f, len(streams), poolStreams)
			}
		}
	}
	half("without replypath")
	for _, f := range s.Families() {
		run(t, s.B.Host, fmt.Sprintf("ip %s rule add from %s lookup 101 priority 100", ipFlag(f), eth1.Address(f)))
	}
	half("by rules")
	harness.On(t, s.B.Host).Start("--config", harness.WriteConfig(t, strongHost(s)))
	for _, f := range s.Families() {
		streams, wires := poolOf(t, s, eth0, f, harness.AnswerTime)
		if len(streams) != poolStreams {
			t.Fatalf("strong, %s: %d of %d streams are connected", f, len(streams), poolStreams)
		}
		wires.WantEth1(f.String()+", of eth1's address", topology.All(topology.From(eth1.Address(f)), topology.To(s.A.Eth1.Address(f))))
		wires.WantEth0(f.String()+", of eth0's address", topology.All(topology.From(s.B.Eth0.Address(f)), topology.To(s.A.Eth0.Address(f))))
		t.Logf("%s: %d streams of %d MB by two uplinks in %s", f, len(streams), poolSize>>20, sendBulk(t, streams, poolSize))
	}
}

// poolOf connects streams from the host behind B, as far as they are answered in time, and returns what was on the wires meanwhile.
func poolOf(t *testing.T, s *topology.S1, from *topology.Interface, f topology.Family, patience time.Duration) (streams []net.Conn, wires *harness.Wires) {
	t.Helper()
	wires = harness.Tap(t, s.B)
	at := []string{takeBulk(t, s.A.Host, s.A.Eth0.Address(f), poolSize), takeBulk(t, s.A.Host, s.A.Eth1.Address(f), poolSize)}
	for n := range poolStreams {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		conn, err := from.Host.Dial(ctx, "tcp", at[n%2], topology.FromAddress(netip.AddrPortFrom(from.Address(f), 0)))
		cancel()
		if err == nil {
			t.Cleanup(func() { conn.Close() })
			streams = append(streams, conn)
		}
	}
	return streams, wires
}
