// SPDX-License-Identifier: Apache-2.0

package rig

import (
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"replypath/bpf"
)

// requestFunction tells whether a request for a connection sends a packet (bpf/src/egress.h).
const requestFunction = "is_of_request"

// addRequests has every SYN-ACK be of a request for a connection: BPF_PROG_TEST_RUN cannot give a packet a socket.
func addRequests(spec *ebpf.CollectionSpec) error {
	for _, name := range []string{bpf.DatapathProgReplypathEgress, bpf.DatapathProgReplypathEgressL3} {
		program := spec.Programs[name]
		begin, end := functionIn(program.Instructions, requestFunction)
		if begin == end {
			return fmt.Errorf("%s has no %s", name, requestFunction)
		}
		yes := asm.Mov.Imm(asm.R0, 1)
		yes.Metadata = program.Instructions[begin].Metadata // its name
		function := asm.Instructions{yes, asm.Return()}
		program.Instructions = append(append(program.Instructions[:begin:begin], function...), program.Instructions[end:]...)
	}
	return nil
}
