package doctor

import (
	"fmt"
	"strings"
	"time"
)

// configurations tells what the datapath works by, and what of that is not what its operator may think.
func configurations(h *Host) []Finding {
	f := h.InForce
	if f == nil {
		return nil
	}
	var found []Finding
	if !f.Running {
		found = append(found, problem(Warning, "", "no daemon runs: what is attached goes on by "+describeInForce(f)+
			", and follows neither new interfaces and addresses nor gateways", startAgain(&h.State)))
	}
	if f.Refused != "" {
		found = append(found, seen(Warning, "", "a later configuration was refused, the one before stays: "+f.Refused, checkFile(f)))
	}
	switch {
	case f.File == "":
	case f.Wrong:
		found = append(found, seen(Warning, "", fmt.Sprintf("%s: %s: in force is what it said %s, and the next start fails",
			f.loadedFrom(), f.File, when(f)), checkFile(f)))
	case f.Running:
		found = append(found, problem(Warning, "", hasChanged(f), reload(&h.State)))
	default:
		found = append(found, problem(Warning, "", hasChanged(f), startAgain(&h.State)))
	}
	if len(found) == 0 {
		found = append(found, fine("", "in force: "+describeInForce(f)))
	}
	return found
}

// hasChanged says what has become of a file that was loaded.
func hasChanged(f *InForce) string {
	return fmt.Sprintf("%s: %s: in force is what was loaded %s", f.loadedFrom(), f.File, when(f))
}

// describeInForce names the configuration and the flags.
func describeInForce(f *InForce) string {
	text := "the defaults"
	if f.Path != "" {
		text = f.Path
	}
	if f.Config != nil && len(f.Config.Flags.Words()) > 0 {
		text += " with " + strings.Join(quoteAll(f.Config.Flags.Words()), " ")
	}
	return text + ", loaded " + when(f)
}

func when(f *InForce) string { return "at " + f.LoadedAt.Format(time.DateTime) }

// checkFile is the command that shows what is wrong with the file in force.
func checkFile(f *InForce) string {
	return "replypath check --config " + quote(f.loadedFrom())
}
