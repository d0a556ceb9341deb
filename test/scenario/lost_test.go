// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"context"
	"errors"
	"runtime"
	"testing"

	"golang.org/x/sync/errgroup"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/product"
	"replypath/test/short"
	"replypath/test/topology"
	"replypath/test/traffic"
)

// TestLost has many clients ask all the time while replypath starts: what eth0's program moves before eth1 has one is not
// taken for lost. Then somebody's program at eth1 takes what was moved there: it is counted as lost, and nothing else is.
func TestLost(t *testing.T) {
	s := traffic.NewS1(t, topology.S1Options{Policy: topology.AnySource})
	p := product.On(t, s.B.Host)
	startBesideQuestions(t, s, p)
	each(t, s, "before", func(t *testing.T, c *traffic.Conversation) { wantAnswers(t, s.B, c, true) })
	lost := func() float64 { return p.Metrics().Sum("replypath_lost_packets_total") }
	if n := lost(); n != 0 {
		t.Errorf("%v packets are lost before anybody takes them", n)
	}
	thief := host.TakeUDP(t, s.B.Eth1)
	corrected := p.Metrics().Sum("replypath_corrected_packets_total", "protocol=udp")
	questions := runtime.NumCPU() + 1 // a processor counts what it lost with the next packet that it moves
	for range questions {
		c := traffic.NewConversation(t, traffic.UDP, s.A.Eth1, s.B.Eth1.Address(topology.IPv4))
		if err := c.Ask(await.Within(t, await.SilenceTime)); err == nil {
			t.Error("a question was answered, although the answer was taken")
		}
	}
	m := p.Metrics()
	labels := []string{"from_interface=eth0", "to_interface=eth1", "family=ipv4", "protocol=udp", "reason=unseen"}
	if n := m.Sum("replypath_lost_packets_total", labels...); n < 1 || n >= float64(questions) || n != lost() {
		t.Errorf("%v packets of %v are lost", n, lost())
	}
	if n := m.Sum("replypath_corrected_packets_total", "protocol=udp"); n != corrected {
		t.Errorf("%v packets were corrected meanwhile", n-corrected)
	}
	await.Must(t, thief.Close())
	each(t, s, "after", func(t *testing.T, c *traffic.Conversation) { wantAnswers(t, s.B, c, true) })
}

// startBesideQuestions starts replypath again and again while clients ask, and wants nothing to be taken for lost.
func startBesideQuestions(t *testing.T, s *topology.S1, p *product.Product) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	var asking errgroup.Group
	for n := range 8 {
		c := traffic.NewConversation(t, traffic.UDP, s.A.Eth1, s.B.Eth1.Address(s.Families()[n%2]))
		traffic.Ask(t, c)
		asking.Go(func() error {
			for ctx.Err() == nil {
				if err := c.Ask(await.Within(t, await.AnswerTime)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	starts := 5
	if short.Run(t) {
		starts = 2
	}
	for start := range starts {
		if start > 0 {
			p.Expect(0, "detach", "--stop")
		}
		p.Start()
		await.Eventually(t, "replies are corrected", func() error {
			if p.Metrics().Sum("replypath_corrected_packets_total") < 1000 {
				return errors.New("few of them")
			}
			return nil
		})
		if n := p.Metrics().Sum("replypath_lost_packets_total"); n != 0 {
			t.Errorf("%v packets are taken for lost", n)
		}
	}
	stop()
	await.Must(t, asking.Wait())
}
