// SPDX-License-Identifier: Apache-2.0

package routing

import (
	"replypath/loader/doctor/finding"
	"replypath/loader/doctor/snapshot"
)

// NeedlessRules tells of each rule that sends answers back, by a source or by the mark of a connection, whether it is needed. What
// this host opened before now is not regarded: plan does.
func NeedlessRules(h *snapshot.Host) []finding.Finding {
	judge := Judge{Host: h}
	enforces := h.EnforcesAll() && len(h.MissingPrograms()) == 0
	return finding.Each(h.Rules, func(r *snapshot.Rule) finding.Finding {
		judged := judge.Rule(r)
		verdict, severity, reason := "is needed: ", finding.OK, judged.Reason
		switch {
		case judged.For == nil:
			return finding.None
		case judged.Verdict == NotNeeded && enforces:
			verdict, severity = "is not needed: ", finding.Note
		case judged.Verdict == NotNeeded:
			reason = "replypath does not enforce on all interfaces" + judged.Where
		}
		return seenRule(r, severity, judged.For.Name, r.String()+" "+verdict+reason)
	})
}
