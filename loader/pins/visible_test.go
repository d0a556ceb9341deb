// SPDX-License-Identifier: Apache-2.0

package pins

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestVisible(t *testing.T) {
	mounted := mountBPF(t)
	root, name := filepath.Split(mounted)
	inside := filepath.Join(mounted, "pins")
	if got := visible(inside, []string{"/nowhere"}); got != inside {
		t.Errorf("what is in sight is looked for at %q", got)
	}
	hidden := "/" + name + "/pins"
	if got := visible(hidden, []string{"/nowhere"}); got != hidden {
		t.Errorf("what is nowhere is looked for at %q", got)
	}
	found := visible(hidden, []string{"/nowhere", root})
	if !strings.HasPrefix(found, "/proc/self/fd/") {
		t.Fatalf("what is hidden is looked for at %q", found)
	}
	must(t, own(t, found).Close())
	if _, err := os.Stat(inside); err != nil {
		t.Errorf("the directory was made elsewhere: %v", err)
	}
}
