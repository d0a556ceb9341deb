// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"slices"
	"strings"

	"replypath/loader/history"
	"replypath/loader/plan"
)

// Plan is what `replypath plan` says.
type Plan struct{ plan.Plan }

// planKeys are those of the contract.
var planKeys = []string{"verdict", "would_move", "originated", "rules", "host_changes", "blockers"}

// Plan makes a plan and wants an exit code.
func (p *Product) Plan(code int, args ...string) *Plan {
	p.t.Helper()
	var made Plan
	decode(p.t, p.Expect(code, append([]string{"plan", "-o", "json"}, args...)...), &made.Plan, planKeys)
	return &made
}

// Of returns the entry of a kind whose text has some words; of none it is empty.
func (p *Plan) Of(kind, words string) plan.Rule {
	i := slices.IndexFunc(p.Rules, func(r plan.Rule) bool { return r.Kind == kind && strings.Contains(r.Rule, words) })
	if i < 0 {
		return plan.Rule{}
	}
	return p.Rules[i]
}

// Moves returns the rows of the replies of a conversation.
func (p *Plan) Moves(c *Conversation) (rows []history.Row) {
	for _, r := range p.WouldMove {
		if r.Self == c.Self.Addr() && r.SelfPort == c.Self.Port() && r.Protocol == c.Protocol() && r.Peer.Contains(c.Peer.Addr()) {
			rows = append(rows, r)
		}
	}
	return rows
}
