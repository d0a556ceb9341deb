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
		found = append(found, problem(Warning, "", "no daemon runs: what is attached goes on by "+f.String()+
			", and follows neither new interfaces and addresses nor gateways", h.startAgain()))
	}
	if f.Refused != "" {
		found = append(found, seen(Warning, "", "a later configuration was refused, the one before stays: "+f.Refused, h.checkFile()))
	}
	switch {
	case f.File == "":
	case f.Wrong:
		found = append(found, seen(Warning, "", fmt.Sprintf("%s: %s: in force is what it said %s, and the next start fails",
			f.path(), f.File, f.when()), h.checkFile()))
	case f.Running:
		found = append(found, problem(Warning, "", fmt.Sprintf("%s: %s: in force is what was loaded %s", f.path(), f.File, f.when()), h.reload()))
	default:
		found = append(found, problem(Warning, "", fmt.Sprintf("%s: %s: in force is what was loaded %s", f.path(), f.File, f.when()), h.startAgain()))
	}
	if len(found) == 0 {
		found = append(found, fine("", "in force: "+f.String()))
	}
	return found
}

// String names the configuration and the flags.
func (f *InForce) String() string {
	text := "the defaults"
	if f.Path != "" {
		text = f.Path
	}
	if words := f.flags(); len(words) > 0 {
		text += " with " + strings.Join(words, " ")
	}
	return text + ", loaded " + f.when()
}

// flags are those of the daemon's command line that say what it does, as a shell takes them.
func (f *InForce) flags() []string {
	if f == nil || f.Config == nil {
		return nil
	}
	var words []string
	for _, word := range f.Config.Flags.Words() {
		words = append(words, quote(word))
	}
	return words
}

func (f *InForce) when() string { return "at " + f.LoadedAt.Format(time.DateTime) }

// checkFile is the command that shows what is wrong with the file in force.
func (h *Host) checkFile() string {
	return "replypath check --config " + quote(h.InForce.path())
}
