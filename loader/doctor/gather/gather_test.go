// SPDX-License-Identifier: Apache-2.0

package gather

import (
	"testing"
)

func TestInUnit(t *testing.T) {
	for groups, want := range map[string]bool{
		"0::/system.slice/replypath.service\n":                   true,
		"1:name=systemd:/system.slice/replypath.service\n0::/\n": true,
		"0::/user.slice/user-0.slice/session-1.scope\n":          false,
		"0::/system.slice/replypath.service.d\n":                 false,
		"0::/system.slice/my-replypath.service\n":                false,
		"": false,
	} {
		if got := inUnit(groups); got != want {
			t.Errorf("%q: %v", groups, got)
		}
	}
}

// TestDestination reads the destination of packets, and of nothing else.
