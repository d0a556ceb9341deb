// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"errors"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"replypath/test/harness"
	"replypath/test/topology"
)

// TestContainerFragments has a published service be asked with datagrams that come in
// fragments: the host puts them together to translate them, and cuts the answers
// anew. All of these leave by the NIC that was asked.
func TestContainerFragments(t *testing.T) {
	s, _ := newS7(t, topology.StrictSource)
	p := harness.On(t, s.Server.Host)
	each := func(run func(*harness.Conversation)) {
		for _, f := range s.Families() {
			run(published(t, s, harness.UDP, s.Server.Eth1, f))
		}
	}
	each(func(c *harness.Conversation) { loseLarge(t, s.TwoNIC, c) })
	p.Start()
	each(func(c *harness.Conversation) {
		wires, before := harness.Tap(t, s.Server), countedBy(p)
		for range 3 {
			if err := c.AskFor(harness.Within(t, harness.AnswerTime), largeDatagram); err != nil {
				t.Error(err)
			}
		}
		frames := wires.WantEth1(c.String(), answersOf(c))
		if len(frames) != 3*largeFragments {
			t.Errorf("%s: %s", c, harness.Describe(frames))
		}
		wantCounted(t, p, before, frames, true)
	})
}

// TestContainerErrors has nobody listen behind a published port: what the container
// says of it, translated by the host, leaves by the NIC that was asked.
func TestContainerErrors(t *testing.T) {
	s, _ := newS7(t, topology.StrictSource)
	promptErrors(t, s.Container)
	harness.Nft(t, s.Server.Host, `table inet closed {
		chain published { type nat hook prerouting priority -110
			fib daddr type local udp dport 81 dnat ip to 10.17.0.100:81
			fib daddr type local udp dport 81 dnat ip6 to [2001:db8:17::100]:81
		}
	}`)
	ask := func(f topology.Family, patience time.Duration) (*harness.Wires, topology.Filter, error) {
		wires := harness.Tap(t, s.Server)
		to := net.JoinHostPort(s.Server.Eth1.Address(f).String(), "81")
		conn := harness.Must1[net.Conn](t)(s.Client.Dial(t.Context(), "udp", to))
		defer conn.Close()
		harness.Must1[int](t)(conn.Write([]byte("question")))
		answer := topology.All(icmpOf(f, answeredWithErrors[0].error[f]), topology.To(s.ClientEth0.Address(f)))
		harness.Eventually(t, "the error leaves", func() error {
			if eth0, eth1 := wires.Left(answer); len(eth0)+len(eth1) == 0 {
				return errors.New("not seen")
			}
			return nil
		})
		return wires, answer, read(t, conn, patience)
	}
	for _, f := range harness.Families {
		wires, answer, err := ask(f, harness.SilenceTime)
		if errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("%s: refused without replypath", f)
		}
		wires.WantEth0("without replypath", answer)
	}
	harness.On(t, s.Server.Host).Start()
	for _, f := range harness.Families {
		wires, answer, err := ask(f, harness.AnswerTime)
		if !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("%s: %v", f, err)
		}
		wires.WantEth1("the error", answer)
	}
}
