// SPDX-License-Identifier: Apache-2.0

package product

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"replypath/test/traffic"
)

// Plan is what `replypath plan` says.
type Plan struct {
	Verdict, Summary string
	WatchedSince     *time.Time  `json:"watched_since"`
	WouldMove        []PlanRow   `json:"would_move"`
	Originated       []PlanRow   `json:"originated"`
	Rules            []PlanRule  `json:"rules"`
	HostChanges      []any       `json:"host_changes"`
	Blockers         []PlanBlock `json:"blockers"`
	Mended           []PlanBlock `json:"mended"`
}

// PlanRow is what would leave by another interface.
type PlanRow struct {
	Self          netip.Addr   `json:"self"`
	SelfPort      uint16       `json:"self_port"`
	Protocol      string       `json:"protocol"`
	Peer          netip.Prefix `json:"peer"`
	PeerPort      uint16       `json:"peer_port"`
	FromInterface string       `json:"from_interface"`
	ToInterface   string       `json:"to_interface"`
	Flows         uint64       `json:"flows"`
	Packets       *uint64      `json:"packets"`
	Bytes         *uint64      `json:"bytes"`
	FirstSeen     time.Time    `json:"first_seen"`
	LastSeen      time.Time    `json:"last_seen"`
	Remedy        string       `json:"remedy"` // of what the host opened
}

// PlanRule is something that leads packets.
type PlanRule struct {
	Rule, Kind, Verdict, Reason string
	Owner                       *string
	Connections                 int
	Peers                       []string
	Restore                     *string
}

// PlanBlock is what is in the way, or is mended.
type PlanBlock struct{ Check, Severity, Found string }

// rowKeys and planKeys are those of the contract.
var (
	rowKeys = []string{"self", "self_port", "protocol", "peer", "from_interface", "to_interface", "flows", "packets", "bytes",
		"first_seen", "last_seen"}
	planKeys = []string{"verdict", "would_move", "originated", "originated[].remedy", "rules", "rules[].rule", "rules[].kind",
		"rules[].verdict", "rules[].reason", "rules[].owner", "rules[].connections", "rules[].restore", "host_changes", "blockers", "blockers[].check"}
)

// Plan makes a plan and wants an exit code.
func (p *Product) Plan(code int, args ...string) *Plan {
	p.t.Helper()
	keys := slices.Clone(planKeys)
	for _, key := range rowKeys {
		keys = append(keys, "would_move[]."+key, "originated[]."+key)
	}
	var made Plan
	decode(p.t, p.Expect(code, append([]string{"plan", "-o", "json"}, args...)...), &made, keys)
	return &made
}

// Of returns the entry of a kind whose text has some words; of none it is empty.
func (p *Plan) Of(kind, words string) *PlanRule {
	i := slices.IndexFunc(p.Rules, func(r PlanRule) bool { return r.Kind == kind && strings.Contains(r.Rule, words) })
	if i < 0 {
		return &PlanRule{Rule: "no " + kind + " with " + words}
	}
	return &p.Rules[i]
}

// Moves returns the rows of the replies of a conversation.
func (p *Plan) Moves(c *traffic.Conversation) (rows []PlanRow) {
	for _, r := range p.WouldMove {
		if r.Self == c.Self.Addr() && r.SelfPort == c.Self.Port() && r.Protocol == c.Protocol() && r.Peer.Contains(c.Peer.Addr()) {
			rows = append(rows, r)
		}
	}
	return rows
}
