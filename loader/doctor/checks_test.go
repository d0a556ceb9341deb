// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"slices"
	"testing"

	"replypath/loader/doctor/snapshot"
	"replypath/test/testhost"
)

// TestNotLookedAt: what may not be read is never in order, and keeps nothing else from being looked at.
func TestNotLookedAt(t *testing.T) {
	all := []string{snapshot.PartPins, snapshot.PartKernel, snapshot.PartGateways, snapshot.PartFirewall, snapshot.PartFlows, snapshot.PartHooks, snapshot.PartFiles, snapshot.PartTraffic}
	used := map[string]bool{}
	for name, parts := range needs {
		if !slices.ContainsFunc(known, func(c check) bool { return c.name == name }) {
			t.Errorf("there is no check %s", name)
		}
		for _, part := range parts {
			used[part] = true
		}
	}
	for _, part := range all {
		if !used[part] {
			t.Errorf("no check says that it needs %s", part)
		}
		h := testhost.New()
		h.Unread = map[string]string{part: "CAP_OF_TEST"}
		for _, f := range Judge(h) {
			isNeeded := slices.Contains(needs[f.Check], part)
			if isNeeded != (f.Severity == Warning) || isNeeded && f.Found != f.Check+" is not looked at: to read "+part+" takes CAP_OF_TEST" {
				t.Errorf("without %s: %s %s: %s", part, f.Severity, f.Check, f.Found)
			}
		}
	}
}
