// SPDX-License-Identifier: Apache-2.0

package peers

import (
	"fmt"

	"replypath/loader/doctor/finding"
	"replypath/loader/doctor/remedy"
	"replypath/loader/doctor/snapshot"
)

// TranslatedAddresses finds addresses that connections are translated from, and nothing makes this host's.
func TranslatedAddresses(h *snapshot.Host) []finding.Finding {
	return finding.Each(h.Translations, func(t *snapshot.Translation) finding.Finding {
		if h.IsServed(t.Address) {
			return finding.None
		}
		return finding.Problem(finding.Warning, "", fmt.Sprintf(
			"%s is translated to %s (%d connections): no interface has it, and no rule names it: replies go as routed",
			t.Address, t.Target, t.Count), remedy.Configure(&h.State, fmt.Sprintf("add %q to addresses", t.Address)))
	})
}
