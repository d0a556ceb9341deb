// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"errors"
	"testing"

	"replypath/bpf"
	"replypath/loader/attach"
)

// TestCheckCPUs: two CPUs must not share the programs' working memory.
func TestCheckCPUs(t *testing.T) {
	if err := checkCPUs(bpf.MaxCPUs); err != nil {
		t.Error(err)
	}
	if err := checkCPUs(bpf.MaxCPUs + 1); !errors.Is(err, attach.ErrUnsupported) {
		t.Errorf("%v for one CPU more", err)
	}
}
