// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"testing"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// TestS1 has A ask B's replication address, by every kind of question, in both families. Without replypath B's
// answers leave by eth0, where a router that checks sources drops them; with it, without any configuration, all of
// them leave by eth1, as with what the recipe shows beside it.
func TestS1(t *testing.T) {
	for _, policy := range []topology.Policy{topology.StrictSource, topology.Stateful, topology.AnySource} {
		t.Run(policy.String(), func(t *testing.T) { testS1(t, policy) })
	}
}

func testS1(t *testing.T, policy topology.Policy) {
	s, page := traffic.NewS1(t, topology.S1Options{Policy: policy}), host.ReadRecipe(t, "s1-two-server-replication")
	wrong := func(t *testing.T, f topology.Family, kind traffic.Kind) {
		wantEth0(t, s, traffic.NewConversation(t, kind, s.A.Eth1, s.B.Eth1.Address(f)))
	}
	right := func(t *testing.T, f topology.Family, kind traffic.Kind) {
		wantAnswers(t, s.B, traffic.NewConversation(t, kind, s.A.Eth1, s.B.Eth1.Address(f)), true)
	}
	sampled(t, s.Families(), "without replypath", wrong)
	p, _ := product.StartOn(t, s.B.Host)
	if policy == topology.StrictSource {
		traffic.EachQuestion(t, "with replypath", right)
	} else {
		sampled(t, s.Families(), "with replypath", right)
	}
	page.RunWith(p, "With replypath")
	p.Expect(0, "detach", "--stop")
	sampled(t, s.Families(), "after detach", wrong)
	if policy == topology.StrictSource {
		page.Run(s.B.Host, "With ip rule")
		sampled(t, s.Families(), "ip rule", right)
		removeRules(t, s.B.Host)
		sampled(t, s.Families(), "without rules", wrong)
		page.Run(s.B.Host, "With a static route")
		sampled(t, s.Families(), "static route", right)
	}
}

// each runs a subtest for each family and kind of question.
func each(t *testing.T, s *topology.S1, name string, run func(*testing.T, *traffic.Conversation)) {
	traffic.EachQuestionOf(t, s.Families(), name, func(t *testing.T, f topology.Family, kind traffic.Kind) {
		run(t, traffic.NewConversation(t, kind, s.A.Eth1, s.B.Eth1.Address(f)))
	})
}

// wantEth0 wants the answers to leave by eth0, and to arrive only where no router checks their source.
func wantEth0(t *testing.T, s *topology.S1, c *traffic.Conversation) {
	wires, arrived := wire.Tap(t, s.B), wire.Capture(t, s.A.Eth1)
	drops := func() uint64 { return await.Must1[uint64](t)(s.Production.Drops()) }
	before := drops()
	err := wire.AskInVain(t, c, wires.Eth0)
	wrong := wires.WantEth0("without replypath", c.Answers())
	if wires.Eth1.Count(c.Questions()) == 0 {
		t.Error("no question reached B by eth1")
	}
	if s.Production.Policy == topology.AnySource {
		await.Must(t, err)
		return
	}
	if err == nil {
		t.Error("the question was answered, although its answer came from the wrong side")
	}
	await.Same(t, "answers that reached A", 0, arrived.Count(c.Answers()))
	if dropped := drops() - before; dropped < uint64(len(wrong)) {
		t.Errorf("the router dropped %d packets, B sent %s", dropped, wire.Describe(wrong))
	}
}
