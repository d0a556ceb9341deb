// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"replypath/loader/attach"
)

// What the kernel lacks is told by name and with the remedy; what it refuses for another reason stays as it is.
func TestExplainMap(t *testing.T) {
	create := fmt.Errorf("map create: %w", unix.EINVAL)
	lacking := fmt.Errorf("RingBuf: %w", ebpf.ErrNotSupported)
	for name, test := range map[string]struct {
		err, probed error
		want        string
		unsupported bool
	}{
		"no such type": {create, lacking,
			"not supported here: RingBuf: not supported: use a kernel of 5.10 or later that is built as distributions do", true},
		"no such flag": {lacking, nil,
			"not supported here: RingBuf: not supported: use a kernel of 5.10 or later that is built as distributions do", true},
		"a wrong argument":   {create, nil, "map create: invalid argument", false},
		"no memory":          {unix.ENOMEM, nil, "cannot allocate memory", false},
		"type without probe": {create, errors.New("no feature probe"), "map create: invalid argument", false},
		"not allowed to ask": {unix.EPERM, unix.EPERM, "operation not permitted", false},
	} {
		t.Run(name, func(t *testing.T) {
			err := explainMap(test.err, test.probed)
			if err.Error() != test.want || errors.Is(err, attach.ErrUnsupported) != test.unsupported {
				t.Errorf("got %v, want %s", err, test.want)
			}
			if !test.unsupported && !errors.Is(err, test.err) {
				t.Errorf("%v does not match its cause", err)
			}
		})
	}
}
