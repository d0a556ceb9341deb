// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"replypath/loader/attach"
)

// A kernel without programs for tc is told by name, with the remedy; that it could not be asked is another error.
func TestCheckPrograms(t *testing.T) {
	if err := checkPrograms(nil); err != nil {
		t.Errorf("with programs: %v", err)
	}
	err := checkPrograms(fmt.Errorf("probe: %w", ebpf.ErrNotSupported))
	if !errors.Is(err, attach.ErrUnsupported) || !strings.Contains(err.Error(), "use kernel 5.10 or later") || strings.Contains(err.Error(), "\n") {
		t.Errorf("without programs: %v", err)
	}
	err = checkPrograms(unix.EPERM)
	if errors.Is(err, attach.ErrUnsupported) || !errors.Is(err, unix.EPERM) {
		t.Errorf("not allowed to ask: %v", err)
	}
}
