// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"testing"

	"replypath/test/harness"
	"replypath/test/topology"
)

// TestS1 has A ask B's replication address, by every kind of question, in both
// families. Without replypath B's answers leave by eth0, where a router that
// checks sources drops them; with it, without any configuration, all of them
// leave by eth1.
func TestS1(t *testing.T) {
	for _, policy := range []topology.Policy{topology.StrictSource, topology.Stateful, topology.AnySource} {
		t.Run(policy.String(), func(t *testing.T) {
			if testing.Short() && policy != topology.StrictSource {
				t.Skip("left out by -short")
			}
			testS1(t, policy)
		})
	}
}

// TestS1Recipe sets up what the recipe shows beside replypath.
func TestS1Recipe(t *testing.T) {
	for _, section := range []string{"With ip rule", "With a static route"} {
		s := harness.NewS1(t, topology.S1Options{Policy: topology.StrictSource})
		each(t, s, "without "+section, func(t *testing.T, c *harness.Conversation) { wantLost(t, s.B, c, s.A.Eth1) })
		harness.ReadRecipe(t, "s1-two-server-replication").Run(s.B.Host, section)
		each(t, s, section, func(t *testing.T, c *harness.Conversation) { wantAnswers(t, s.B, c, true) })
	}
}

func testS1(t *testing.T, policy topology.Policy) {
	s := harness.NewS1(t, topology.S1Options{Policy: policy})
	each(t, s, "without replypath", func(t *testing.T, c *harness.Conversation) { wantEth0(t, s, c) })
	p := harness.On(t, s.B.Host)
	p.Start()
	each(t, s, "with replypath", func(t *testing.T, c *harness.Conversation) { wantAnswers(t, s.B, c, true) })
	harness.ReadRecipe(t, "s1-two-server-replication").RunWith(p, "With replypath")
	p.Expect(0, "detach", "--stop")
	each(t, s, "after detach", func(t *testing.T, c *harness.Conversation) { wantEth0(t, s, c) })
}

// each runs a subtest for each family and kind of question.
func each(t *testing.T, s *topology.S1, name string, run func(*testing.T, *harness.Conversation)) {
	harness.EachQuestionOf(t, s.Families(), name, func(t *testing.T, f topology.Family, kind harness.Kind) {
		run(t, harness.NewConversation(t, kind, s.A.Eth1, s.B.Eth1.Address(f)))
	})
}

// wantEth0 wants the answers to leave by eth0, and to arrive only where no
// router checks their source.
func wantEth0(t *testing.T, s *topology.S1, c *harness.Conversation) {
	wires, arrived := harness.Tap(t, s.B), harness.Capture(t, s.A.Eth1)
	before := drops(t, s)
	err := harness.AskInVain(t, c, wires.Eth0)
	wrong := wires.WantEth0("without replypath", c.Answers())
	if wires.Eth1.Count(c.Questions()) == 0 {
		t.Error("no question reached B by eth1")
	}
	if s.Production.Policy == topology.AnySource {
		harness.Must(t, err)
		return
	}
	if err == nil {
		t.Error("the question was answered, although its answer came from the wrong side")
	}
	if n := arrived.Count(c.Answers()); n != 0 {
		t.Errorf("%d answers reached A", n)
	}
	if dropped := drops(t, s) - before; dropped < uint64(len(wrong)) {
		t.Errorf("the router dropped %d packets, B sent %s", dropped, harness.Describe(wrong))
	}
}

func drops(t *testing.T, s *topology.S1) uint64 {
	t.Helper()
	return harness.Must1[uint64](t)(s.Production.Drops())
}
