// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"net/netip"
	"testing"

	"replypath/test/harness"
	"replypath/test/topology"
)

// The tests' kernel has no IPVS. What a balancer does to packets, which is all
// that the real server sees of it, is done by nftables instead: translation with
// connection tracking here, without it in s3b_test.go.

// destinationNAT translates a balancer's virtual addresses into the server's, and
// back what comes through it.
func destinationNAT(t *testing.T, balancer *topology.Host, pairs ...[2]netip.Addr) {
	t.Helper()
	var rules string
	for _, p := range pairs {
		ip := "ip"
		if p[0].Is6() {
			ip = "ip6"
		}
		rules += fmt.Sprintf("%s daddr %s dnat %s to %s\n", ip, p[0], ip, p[1])
	}
	harness.Nft(t, balancer, `table inet balancer {
		chain prerouting { type nat hook prerouting priority dstnat;
`+rules+`}
	}`)
}

// newS2 builds S2 with a balancer that translates and an echo server.
func newS2(t *testing.T) *topology.S2 {
	t.Helper()
	s := harness.Build(t, topology.NewS2)
	for _, f := range s.Families() {
		real := s.ServerEth0.Address(f)
		harness.Serve(t, s.Server, real)
		harness.Serve(t, s.Client, s.ClientEth0.Address(f))
		destinationNAT(t, s.Balancer.Host, [2]netip.Addr{s.Virtual(f), real})
	}
	return s
}

// TestS2 has clients ask the virtual address and the server itself. Without
// replypath a client in the server's own network is answered directly, by a
// stranger; with it, by next_hop last-hop, everybody is answered by the way of
// the question.
func TestS2(t *testing.T) {
	s := newS2(t)
	toClient := exit{[]*topology.Interface{s.ServerEth0}, s.ServerEth0, s.ClientEth0.MAC}
	toBalancer := exit{toClient.nics, s.ServerEth0, s.BalancerEth0.MAC}
	through := func(t *testing.T, f topology.Family, kind harness.Kind, client *topology.Interface) (*harness.Conversation, topology.Filter) {
		c := harness.NewConversation(t, kind, client, s.Virtual(f))
		return c, c.Behind(s.ServerEth0.Address(f)).Answers()
	}
	seen := harness.ReadRecipe(t, "s2-load-balancer-nat").Watch(s.Server, "What goes wrong")
	harness.EachQuestion(t, "without replypath", func(t *testing.T, f topology.Family, kind harness.Kind) {
		c, answers := through(t, f, kind, s.ClientEth0)
		toClient.wantLost(t, c, answers)
	})
	seen()

	p := harness.On(t, s.Server)
	p.Start("--config", harness.ReadRecipe(t, "s2-load-balancer-nat").Config("With replypath"))
	harness.EachQuestion(t, "through the balancer", func(t *testing.T, f topology.Family, kind harness.Kind) {
		c, answers := through(t, f, kind, s.ClientEth0)
		toBalancer.wantAnswers(t, c, answers)
	})
	harness.EachQuestion(t, "from outside", func(t *testing.T, f topology.Family, kind harness.Kind) {
		c, answers := through(t, f, kind, s.OutsideEth0)
		toBalancer.wantAnswers(t, c, answers)
	})
	harness.EachQuestion(t, "directly", func(t *testing.T, f topology.Family, kind harness.Kind) {
		c := harness.NewConversation(t, kind, s.ClientEth0, s.ServerEth0.Address(f))
		toClient.wantAnswers(t, c, c.Answers())
	})
	harness.EachQuestion(t, "the server asks", func(t *testing.T, f topology.Family, kind harness.Kind) {
		c := harness.NewConversation(t, kind, s.ServerEth0, s.ClientEth0.Address(f))
		toClient.wantQuestions(t, c)
	})

	p.Expect(0, "detach", "--stop")
	harness.EachQuestion(t, "after detach", func(t *testing.T, f topology.Family, kind harness.Kind) {
		c, answers := through(t, f, kind, s.ClientEth0)
		toClient.wantLost(t, c, answers)
	})
}

// TestS2Rules runs the set-up that replypath replaces, as the recipe gives it.
func TestS2Rules(t *testing.T) {
	s := newS2(t)
	harness.ReadRecipe(t, "s2-load-balancer-nat").Run(s.Server, "With connmark")
	toBalancer := exit{[]*topology.Interface{s.ServerEth0}, s.ServerEth0, s.BalancerEth0.MAC}
	harness.EachQuestion(t, "through the balancer", func(t *testing.T, f topology.Family, kind harness.Kind) {
		c := harness.NewConversation(t, kind, s.ClientEth0, s.Virtual(f))
		toBalancer.wantAnswers(t, c, c.Behind(s.ServerEth0.Address(f)).Answers())
	})
	toClient := exit{toBalancer.nics, s.ServerEth0, s.ClientEth0.MAC}
	harness.EachQuestion(t, "directly", func(t *testing.T, f topology.Family, kind harness.Kind) {
		c := harness.NewConversation(t, kind, s.ClientEth0, s.ServerEth0.Address(f))
		toClient.wantAnswers(t, c, c.Answers())
	})
}
