// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// fallbackThefts are ways in which others remove what is on the device of the fallback route: the program that moves
// replies off it, the one that ends what the host starts, or both.
var fallbackThefts = []theft{
	{"every link is detached", "tcx", detachLinks},
	{"the pins of its links are deleted", "tcx", deletePins("egress", "last")},
	{"the pin of the first link is deleted", "tcx", deletePins("egress")},
	{"the pin of the last link is deleted", "tcx", deletePins("last")},
	byTC("the qdisc is deleted", "qdisc del dev replypath0 clsact"),
	byTC("all filters are flushed", "filter del dev replypath0 egress"),
	byTC("the filters of our first priority are flushed", "filter del dev replypath0 egress prio 65520"),
	byTC("the filters of our last priority are flushed", "filter del dev replypath0 egress prio 65535"),
}

// TestTakenFallback has others remove our programs from the device of the fallback route,
// three times, while there is no other default route: within a second answers leave by eth1
// again, and what the host starts fails at once instead of hanging. It is logged and counted.
func TestTakenFallback(t *testing.T) {
	for _, theft := range fallbackThefts {
		t.Run(theft.name, func(t *testing.T) {
			needMechanism(t, theft.mechanism)
			n := traffic.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.AnySource})
			p := product.On(t, n.Server.Host)
			d := p.Start("--mechanism", theft.mechanism)
			useFallback(t, n, p)
			talks, wires := talkAll(t, n), wire.Tap(t, n.Server)
			talks.awaitMore(wires)
			device := await.Must1[*topology.Interface](t)(n.Server.Interface("replypath0"))
			const times = 3
			var took []time.Duration
			failed := 0
			release := product.Quiet(t)
			for i := range times {
				began := time.Now()
				await.Must(t, theft.steal(t, p, device))
				await.Eventually(t, "the repair is logged", func() error {
					if fallbackWorks(t, n) != nil {
						failed++
					}
					return lacksLines(d, i+1, "level=WARN", takenOff, "interface=replypath0")
				})
				await.Eventually(t, "all is as before", func() error { return fallbackWorks(t, n) })
				took = append(took, time.Since(began).Round(time.Millisecond))
				talks.awaitMore(wires)
			}
			release()
			talks.wantEth1(wires)
			t.Logf("%s, %d times: failed %d times, all as before after %v, %d answers of both families",
				theft.name, times, failed, took, talks.stop())
			if failed == 0 {
				t.Error("nobody would have noticed that they were gone")
			}
			wantRepairs(t, p, took)
		})
	}
}

// lacksLines tells that there are not so many lines with all the words.
func lacksLines(d *product.Daemon, want int, words ...string) error {
	if lines := d.Log.Lines(words...); len(lines) != want {
		return fmt.Errorf("%d lines, not %d: %q", len(lines), want, lines)
	}
	return nil
}

// useFallback removes the default routes, and returns when the fallback routes are all that the server has.
func useFallback(t *testing.T, n *topology.TwoNIC, p *product.Product) {
	t.Helper()
	host.Shell(t, n.Server.Host, "ip route del default dev eth0; ip -6 route del default dev eth0")
	await.Eventually(t, "the fallback routes are in use", func() error {
		if active := p.Metrics().Sum("replypath_fallback_active"); active != float64(len(n.Families())) {
			return fmt.Errorf("of %v families", active)
		}
		return fallbackWorks(t, n)
	})
}

// atOnce, 50 ms, is how soon an answer comes, and what the host starts fails, where nothing
// is missing. A datagram that is lost is not asked again, and a SYN after a second.
var atOnce = await.AnswerTime / 200

// strangers ask nothing: what the host opens towards them is related to no answer.
var strangers = map[topology.Family]netip.Addr{
	topology.IPv4: netip.MustParseAddr("198.51.100.1"), topology.IPv6: netip.MustParseAddr("2001:db8:ffff::1"),
}

// fallbackWorks tells what of either family does not: that a new question by UDP to eth1 is
// answered, and that a connection that the host opens from eth1's address is refused.
func fallbackWorks(t *testing.T, n *topology.TwoNIC) error {
	t.Helper()
	for _, f := range n.Families() {
		c := traffic.NewConversation(t, traffic.UDP, n.ClientEth0, n.Server.Eth1.Address(f))
		if err := c.Ask(await.Within(t, atOnce)); err != nil {
			return err
		}
		stranger := netip.AddrPortFrom(strangers[f], traffic.EchoPort).String()
		bound := topology.FromAddress(netip.AddrPortFrom(n.Server.Eth1.Address(f), 0)) // what is not finds no route
		conn, err := n.Server.Dial(await.Within(t, atOnce), "tcp", stranger, bound)
		if err == nil {
			conn.Close()
		}
		if !errors.Is(err, unix.ECONNREFUSED) {
			return fmt.Errorf("the host's connection to %s: %v", stranger, err)
		}
	}
	return nil
}
