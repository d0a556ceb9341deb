// SPDX-License-Identifier: Apache-2.0

package gather

import (
	"os"
	"testing"
)

// Who takes a datapath away is told from the daemon in whatever PID namespace either runs.
func TestOwnerIsDaemon(t *testing.T) {
	self, another := os.Getpid(), os.Getppid()
	for _, test := range []struct {
		name  string
		owner owner
		want  bool
	}{
		{"the daemon", owner{holder: self, named: self}, true},
		{"not who is named", owner{holder: self, named: another}, false},
		{"nobody is named", owner{holder: self}, false},
		{"the daemon, which cannot be seen", owner{named: 1}, true},
		{"who takes away, and cannot be seen", owner{}, false},
		{"who is gone", owner{holder: noHolder, named: self}, false},
	} {
		if got := test.owner.isDaemon(); got != test.want {
			t.Errorf("%s: %v", test.name, got)
		}
	}
}

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
