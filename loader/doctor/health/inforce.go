// SPDX-License-Identifier: Apache-2.0

package health

import (
	"cmp"
	"fmt"
	"time"

	"replypath/loader/doctor/finding"
	"replypath/loader/doctor/remedy"
	"replypath/loader/doctor/snapshot"
)

// Configurations tells what the datapath works by, and what of that is not what its operator may think.
func Configurations(h *snapshot.Host) []finding.Finding {
	f := h.InForce
	if f == nil {
		return nil
	}
	var found []finding.Finding
	if !f.Running && (h.Status == nil || h.Status.TrialEnded == nil) { // else EndedTrial tells
		found = append(found, finding.Problem(finding.Warning, "", "no daemon runs: what is attached goes on by "+describeInForce(f)+
			", and follows neither new interfaces and addresses nor gateways", remedy.StartAgain(&h.State)))
	}
	changed := fmt.Sprintf("%s: %s: in force is what ", f.LoadedFrom(), f.File)
	switch {
	case f.Refused != "" && (f.File == "" || f.Wrong):
		text := "a later configuration was refused: the one before stays: " + f.Refused
		if f.Wrong {
			text += ", and the next start fails"
		}
		found = append(found, finding.Seen(finding.Warning, "", text, checkFile(f)))
	case f.File == "":
	case f.Wrong:
		found = append(found, finding.Seen(finding.Warning, "",
			changed+"it said "+when(f)+", and the next start fails", checkFile(f)))
	case f.Running:
		found = append(found, finding.Problem(finding.Warning, "", changed+"was loaded "+when(f), remedy.Reload(&h.State)))
	default:
		found = append(found, finding.Problem(finding.Warning, "", changed+"was loaded "+when(f), remedy.StartAgain(&h.State)))
	}
	if len(found) == 0 {
		found = append(found, finding.Fine("", "in force: "+describeInForce(f)))
	}
	return found
}

// describeInForce names the configuration and the flags.
func describeInForce(f *snapshot.InForce) string {
	text := cmp.Or(f.Path, "the defaults")
	if f.Config != nil && len(f.Config.Flags.Words()) > 0 {
		text += " with" + remedy.Flags(f.Config.Flags)
	}
	return text + ", loaded " + when(f)
}

func when(f *snapshot.InForce) string { return "at " + f.LoadedAt.Format(time.DateTime) }

// checkFile is the command that shows what is wrong with the file in force.
func checkFile(f *snapshot.InForce) string {
	return "replypath check --config " + finding.Quote(f.LoadedFrom())
}
