// SPDX-License-Identifier: Apache-2.0

package routing

import (
	"testing"

	"golang.org/x/sys/unix"

	"replypath/loader/doctor/snapshot"
	"replypath/loader/netfilter"
	"replypath/test/testhost"
)

// TestAnswersToLo: a chain of OUTPUT gives the mark by which a rule leads to lo.
func TestAnswersToLo(t *testing.T) {
	proxy := func(hook string, given uint32, kind int) func(*snapshot.Host) {
		return func(h *snapshot.Host) {
			r := testhost.Via("", 1)
			r.Type, r.Table = kind, 100
			h.Routes = append(h.Routes, r)
			h.Rules = append(h.Rules, snapshot.Rule{Family: unix.AF_INET, Priority: 100, Mark: 1, Mask: 0xff, Table: 100})
			c := netfilter.Chain{Family: "inet", Table: "proxy", Name: "out", Type: "route", Hooks: []string{hook}}
			c.Rules = append(c.Rules[:0], netfilter.Rule{Handle: 7, Gives: []uint32{given}})
			h.Firewall.Chains = []netfilter.Chain{c}
		}
	}
	testhost.Check(t, AnswersToLo, []testhost.Wants{
		{"none", nil, nil},
		{"a mark of output", proxy("output", 0x101, unix.RTN_LOCAL), []string{
			"warning: inet proxy out, rule 7 marks what this host sends, and rule 100: from all fwmark 0x1/0xff lookup 100 leads it to lo: " +
				"answers with the mark do not leave ?? nft --handle list chain inet proxy out"}},
		{"another mark", proxy("output", 2, unix.RTN_LOCAL), nil},
		{"a mark of prerouting, as tproxy has it", proxy("prerouting", 1, unix.RTN_LOCAL), nil},
		{"to somewhere else", proxy("output", 1, unix.RTN_UNICAST), nil},
	})
}
