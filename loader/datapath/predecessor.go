package datapath

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"

	"replypath/bpf"
)

// AskEarlier has the egress programs leave what they know no flow of to those of the
// earlier datapath, if there is one: what comes in until all hooks have been replaced,
// and has not been copied, is in the tables of those.
func (d *Datapath) AskEarlier() error {
	kinds := map[bpf.DatapathFrameKind]string{
		bpf.DatapathFrameKindFRAME_ETHERNET: egressName, bpf.DatapathFrameKindFRAME_BARE: egress3Name,
	}
	for kind, name := range kinds {
		program := d.earlier.program(name)
		if program == nil {
			continue
		}
		if err := d.Predecessor.Put(uint32(kind), program); err != nil {
			return fmt.Errorf("enter the earlier program %s: %w", name, err)
		}
		d.asking = true
	}
	return nil
}

// AsksEarlier tells whether AskEarlier has found a program, and StopAsking was not called.
func (d *Datapath) AsksEarlier() bool { return d.asking }

// StopAsking ends what AskEarlier began: the kernel can free the earlier programs and tables.
func (d *Datapath) StopAsking() error {
	if !d.asking {
		return nil
	}
	for kind := range bpf.DatapathFrameKindFRAME_KINDS {
		if err := d.Predecessor.Delete(uint32(kind)); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("take an earlier program out: %w", err)
		}
	}
	d.asking = false
	return nil
}
