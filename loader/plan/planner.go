// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"replypath/loader/doctor/finding"
	"replypath/loader/doctor/checks"
	"replypath/loader/doctor/snapshot"
	"replypath/loader/history"
	"replypath/loader/pins"
)

// planner makes a plan from what was read.
type planner struct {
	*snapshot.Host
	journal    *pins.Journal // nil: nothing is pinned
	history    *history.History
	historyErr error
	judgeOf    checks.Judge
	blocked    []finding.Finding // what keeps replypath from enforcing
	warned     int               // findings that enforcing does not mend
}
