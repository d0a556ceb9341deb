package scenario

import (
	"testing"

	"replypath/test/harness"
	"replypath/test/topology"
)

// TestS1Recipe sets up what the recipe shows beside replypath.
func TestS1Recipe(t *testing.T) {
	for _, section := range []string{"With ip rule", "With a static route"} {
		s := harness.NewS1(t, topology.S1Options{Policy: topology.StrictSource})
		each(t, s, "without "+section, func(t *testing.T, c *harness.Conversation) { wantLost(t, s.B, c, s.A.Eth1) })
		harness.ReadRecipe(t, "s1-two-server-replication").Run(s.B.Host, section)
		each(t, s, section, func(t *testing.T, c *harness.Conversation) { wantAnswers(t, s.B, c, true) })
	}
}
