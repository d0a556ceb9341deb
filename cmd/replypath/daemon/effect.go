// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"fmt"
	"log/slog"
	"strings"

	"replypath/loader/status"
)

// words are a list in the log: of strings in JSON, joined in text.
type words []string

func (w words) String() string { return strings.Join(w, ", ") }

func isAttached(e *status.Effect) bool { return len(e.Corrected)+len(e.Observed) > 0 }

// sentence says what a datapath does; adverb, such as "still ", is how long it does.
func sentence(e *status.Effect, adverb string) string {
	corrected, observed := strings.Join(e.Corrected, ", "), strings.Join(e.Observed, ", ")
	switch {
	case !isAttached(e):
		return "nothing is attached, replies leave as routed"
	case corrected == "":
		return fmt.Sprintf("replies are %sonly observed on %s, they leave as routed", adverb, observed)
	case observed == "":
		return fmt.Sprintf("replies are %scorrected on %s", adverb, corrected)
	}
	return fmt.Sprintf("replies are %scorrected on %s, and only observed on %s", adverb, corrected, observed)
}

// described is what the log tells of a datapath.
func described(e *status.Effect) []any {
	changes := make(words, len(e.HostChanges))
	for i, c := range e.HostChanges {
		changes[i] = fmt.Sprintf("%s: %s -> %s", c.Object, c.Before, c.After)
	}
	return []any{
		slog.String("mode", e.Mode),
		slog.Any("interfaces", append(append(words{}, e.Corrected...), e.Observed...)),
		slog.Any("observed", append(words{}, e.Observed...)),
		slog.String("mechanism", strings.Join(e.Mechanisms, ", ")),
		slog.Any("host_changes", changes),
	}
}
