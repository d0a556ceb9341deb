// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/product"
	"replypath/test/server"
	"replypath/test/short"
	"replypath/test/topology"
	"replypath/test/traffic"
)

// longEnough is how long who asks in vain goes on: past the 3 s within which an answer is due, and past the first SYN that is sent
// again.
const longEnough = 3500 * time.Millisecond

// wantRecent wants a status to tell what became of requests by an interface, and its first line to say so.
func wantRecent(t *testing.T, p *product.Product, name, state string, want product.Recent) *product.Status {
	t.Helper()
	var s *product.Status
	await.Eventually(t, fmt.Sprintf("%s by %s: %+v", state, name, want), func() error {
		s = p.Diagnosed()
		got := s.Interface(name).Recent
		got.FirstAt, got.LastAt = nil, nil
		if got != want || s.Health.State != state {
			return fmt.Errorf("%s %+v: %+v", s.Summary, got, s.Health.Findings)
		}
		return nil
	})
	return s
}

// TestEvidence: the first line rests on what became of requests: how many were answered rightly, and that one which a socket listens
// for was not, whatever drops it. A scan of ports that nobody listens at is no fault. What one interface lacks is not another's.
func TestEvidence(t *testing.T) {
	for name, drop := range map[string]string{
		"input":       "chain in { type filter hook input priority 0; iifname eth1 meta l4proto tcp drop; };",
		"output":      "chain out { type filter hook output priority 0; tcp sport 7 drop; };",
		"kill switch": "chain out { type filter hook output priority 0; oifname eth0 meta l4proto tcp drop; };",
	} {
		if name != "output" && short.Run(t) {
			continue // what becomes of requests is the same, whatever drops them
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel() // it waits for seconds
			n, p := server.NewExact(t)
			p.Start("--listen", "127.0.0.1:9945")
			s := wantRecent(t, p, "eth1", "ok", product.Recent{})
			await.Says(t, "the first line", s.Summary, "ok: no requests in the last 10 minutes; ")

			askByEth1(t, &bed{TwoNIC: n})
			s = wantRecent(t, p, "eth1", "ok", product.Recent{Right: 2})
			await.Says(t, "the first line", s.Summary, "ok: 2 of 2 replies seen leaving rightly in the last 10 minutes; ")

			host.Nft(t, n.Server.Host, "table inet suspect { "+drop+" }")
			scan(t, n)
			var asking sync.WaitGroup
			for _, f := range n.Families() {
				c := traffic.NewConversation(t, traffic.TCP, n.ClientEth0, n.Server.Eth1.Address(f))
				asking.Go(func() { askInVain(t, c) })
			}
			asking.Wait()
			s = wantRecent(t, p, "eth1", "failed", product.Recent{Right: s.Interface("eth1").Recent.Right, Unanswered: 2})
			await.Says(t, "the first line", s.Summary, "failed: 2 of 2 requests by eth1 since ", " got no reply from this host: ", ":7")
			f := onlyOne(t, p.Doctor(3), "unanswered", "eth1", "error", "and 1 more, the last from ")
			if f.Evidence == nil || f.Evidence.Count != 2 || f.Evidence.Until == nil || time.Since(*f.Evidence.Until) > time.Minute {
				t.Errorf("evidence %+v", f.Evidence)
			}
			await.Eventually(t, "the metrics tell", func() error {
				text, err := p.Get("/metrics")
				for _, line := range []string{`replypath_recent_requests{interface="eth1",outcome="unanswered"} 2`, `replypath_findings{check="unanswered",severity="error"} 1`} {
					if err == nil && !strings.Contains(text, line) {
						err = fmt.Errorf("%s is none of\n%s", line, text)
					}
				}
				return err
			})
			if _, err := p.Get("/healthz"); err != nil { // it is replypath's own
				t.Error(err)
			}

			host.Shell(t, n.Server.Host, "nft delete table inet suspect")
			askByEth1(t, &bed{TwoNIC: n})
			await.Eventually(t, "it is over", func() error {
				if s := p.Diagnosed(); s.Health.State != "ok" {
					return fmt.Errorf("%s: %+v", s.Summary, s.Health.Findings)
				}
				return nil
			})
		})
	}
}

// scan asks for connections to ports that nobody listens at, while a firewall may drop that.
func scan(t *testing.T, n *topology.TwoNIC) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), await.SilenceTime)
	defer cancel()
	for port := 81; port < 89; port++ {
		if conn, err := n.ClientEth0.Host.Dial(ctx, "tcp", fmt.Sprintf("10.4.0.100:%d", port)); err == nil {
			t.Errorf("port %d was answered", port)
			conn.Close()
		}
	}
}

// askInVain asks for a connection, and again.
func askInVain(t *testing.T, c *traffic.Conversation) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), longEnough)
	defer cancel()
	if err := c.Connect(ctx); err == nil {
		t.Errorf("%s was answered", c)
	}
}
