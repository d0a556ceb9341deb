package health

import (
	"fmt"
	"strings"
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
	if !f.Running {
		found = append(found, finding.Problem(finding.Warning, "", "no daemon runs: what is attached goes on by "+describeInForce(f)+
			", and follows neither new interfaces and addresses nor gateways", remedy.StartAgain(&h.State)))
	}
	if f.Refused != "" {
		found = append(found, finding.Seen(finding.Warning, "",
			"a later configuration was refused, the one before stays: "+f.Refused, checkFile(f)))
	}
	switch {
	case f.File == "":
	case f.Wrong:
		found = append(found, finding.Seen(finding.Warning, "", fmt.Sprintf("%s: %s: in force is what it said %s, and the next start fails",
			f.LoadedFrom(), f.File, when(f)), checkFile(f)))
	case f.Running:
		found = append(found, finding.Problem(finding.Warning, "", hasChanged(f), remedy.Reload(&h.State)))
	default:
		found = append(found, finding.Problem(finding.Warning, "", hasChanged(f), remedy.StartAgain(&h.State)))
	}
	if len(found) == 0 {
		found = append(found, finding.Fine("", "in force: "+describeInForce(f)))
	}
	return found
}

// hasChanged says what has become of a file that was loaded.
func hasChanged(f *snapshot.InForce) string {
	return fmt.Sprintf("%s: %s: in force is what was loaded %s", f.LoadedFrom(), f.File, when(f))
}

// describeInForce names the configuration and the flags.
func describeInForce(f *snapshot.InForce) string {
	text := "the defaults"
	if f.Path != "" {
		text = f.Path
	}
	if f.Config != nil && len(f.Config.Flags.Words()) > 0 {
		text += " with " + strings.Join(remedy.QuoteAll(f.Config.Flags.Words()), " ")
	}
	return text + ", loaded " + when(f)
}

func when(f *snapshot.InForce) string { return "at " + f.LoadedAt.Format(time.DateTime) }

// checkFile is the command that shows what is wrong with the file in force.
func checkFile(f *snapshot.InForce) string {
	return "replypath check --config " + finding.Quote(f.LoadedFrom())
}
