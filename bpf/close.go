// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"io"
	"runtime"
)

// Close closes a map, program or link that nothing else refers to. The library closes the
// descriptor of one that is collected; to stop that it has to be reachable while it is closed
// (runtime.Cleanup), which sys.FD of cilium/ebpf 0.22 does not see to. Else the descriptor is
// closed twice, the second time as another's that has got its number.
func Close(object io.Closer) error {
	err := object.Close()
	runtime.KeepAlive(object)
	return err
}
