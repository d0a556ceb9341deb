// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"replypath/bpf"
	"replypath/loader/datapath"
)

// hollow returns programs of the names, types and maps of the product's, which the verifier is soon done with: for tests of
// what is loaded, attached, pinned and undone when. They let every packet pass. Those that user space runs are the product's.
func hollow(build string) *datapath.Object {
	return &datapath.Object{Name: "hollow, " + build, Load: func() (*ebpf.CollectionSpec, error) {
		spec, err := hollowSpec()
		if err != nil {
			return nil, err
		}
		return spec.Copy(), nil
	}}
}

// anotherBuild has the programs be others that do the same.
func anotherBuild(o *Options) {
	if o.object != nil {
		o.object = hollow("another build")
	} else {
		o.object = &datapath.Object{Name: "another build", Load: bpf.LoadDatapath}
	}
}

func thirdBuild(o *Options) { o.object = hollow("a third build") }

var hollowSpec = sync.OnceValues(func() (*ebpf.CollectionSpec, error) {
	spec, err := bpf.LoadDatapath()
	if err != nil {
		return nil, err
	}
	for name, program := range spec.Programs {
		verdict := int32(-1) // TCX_NEXT
		switch {
		case name == "replypath_clock":
			continue
		case program.Type == ebpf.CGroupSockAddr:
			verdict = 1
		}
		program.Instructions = asm.Instructions{
			asm.LoadMapPtr(asm.R1, 0).WithReference(bpf.DatapathMapEstablished), // by which they are told from another datapath's
			asm.LoadMapPtr(asm.R1, 0).WithReference(".rodata"),                  // which says for which namespace, to tests beside these
			asm.Mov.Imm(asm.R0, verdict), asm.Return(),
		}
	}
	return spec, nil
})
