package datapath

import (
	"errors"
	"fmt"
	"os"

	"github.com/cilium/ebpf"

	"replypath/bpf"
)

// AskEarlier has the egress programs leave what they know no flow of to those of the
// earlier datapath, if there is one and the kernel can: what comes in until all hooks
// have been replaced, and has not been copied, is in the tables of those. On error
// nobody is asked.
func (d *Datapath) AskEarlier() error {
	kinds := map[bpf.DatapathFrameKind]*ebpf.Program{
		bpf.DatapathFrameKindFRAME_ETHERNET: d.earlier.program(egressName),
		bpf.DatapathFrameKindFRAME_BARE:     d.earlier.program(egress3Name),
	}
	for kind, program := range kinds {
		if program == nil || !d.opts.Features.TailCalls {
			continue
		}
		d.asking = true
		if err := d.Predecessor.Put(uint32(kind), program); err != nil {
			return errors.Join(fmt.Errorf("enter the earlier egress program: %w", err), d.StopAsking())
		}
	}
	if !d.asking {
		return nil
	}
	if err := d.keepPredecessor(); err != nil {
		return errors.Join(err, d.StopAsking())
	}
	return nil
}

// keepPredecessor pins what is asked until Pin does: the kernel empties such a table
// with its last descriptor and pin, and a process may be killed before it has pinned
// all, when others of its programs are in place already. What such a process has left
// there is still needed: its programs are attached.
func (d *Datapath) keepPredecessor() error {
	if err := os.MkdirAll(d.dir.Path(newMapsDir), 0o700); err != nil {
		return fmt.Errorf("create directory for maps: %w", err)
	}
	name := fmt.Sprintf("%s-%d", bpf.DatapathMapPredecessor, os.Getpid())
	return d.maps.ids.pin(bpf.DatapathMapPredecessor, d.Predecessor, d.dir.Path(newMapsDir, name))
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
	if d.pinned {
		return nil
	}
	return d.dir.RemoveAtOnce(newMapsDir)
}
