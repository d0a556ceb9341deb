// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"replypath/test/await"
	"replypath/test/topology"
)

// watcher is somebody else's program. It counts the frames that it sees of one
// length, which nothing else in the test has, and lets everything pass.
type watcher struct {
	t       testing.TB
	program *ebpf.Program
	counter *ebpf.Map
}

// Lengths of the frames that a conversation about watchedSize bytes has.
const (
	watchedSize = 777
	watched4    = 14 + 20 + 8 + watchedSize
	watched6    = 14 + 40 + 8 + watchedSize
)

func newWatcher(t testing.TB) *watcher {
	t.Helper()
	w := &watcher{t: t}
	w.counter = await.Must1[*ebpf.Map](t)(ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1}))
	t.Cleanup(func() { w.counter.Close() })
	w.program = await.Must1[*ebpf.Program](t)(ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "watcher", Type: ebpf.SchedCLS, License: "GPL",
		Instructions: asm.Instructions{
			// __sk_buff.len is the first field.
			asm.LoadMem(asm.R2, asm.R1, 0, asm.Word),
			asm.JEq.Imm(asm.R2, watched4, "count"),
			asm.JNE.Imm(asm.R2, watched6, "pass"),
			asm.StoreImm(asm.RFP, -4, 0, asm.Word).WithSymbol("count"),
			asm.Mov.Reg(asm.R2, asm.RFP),
			asm.Add.Imm(asm.R2, -4),
			asm.LoadMapPtr(asm.R1, w.counter.FD()),
			asm.FnMapLookupElem.Call(),
			asm.JEq.Imm(asm.R0, 0, "pass"),
			asm.Mov.Imm(asm.R1, 1),
			asm.StoreXAdd(asm.R0, asm.R1, asm.DWord),
			asm.Mov.Imm(asm.R0, -1).WithSymbol("pass"), // TCX_NEXT, TC_ACT_UNSPEC
			asm.Return(),
		},
	}))
	t.Cleanup(func() { w.program.Close() })
	return w
}

// seen returns how many frames there were since the last call.
func (w *watcher) seen() int {
	w.t.Helper()
	var count uint64
	await.Must(w.t, w.counter.Lookup(uint32(0), &count))
	await.Must(w.t, w.counter.Put(uint32(0), uint64(0)))
	return int(count)
}

// byTCX attaches the watcher before or after all other programs of a hook.
func (w *watcher) byTCX(i *topology.Interface, hook ebpf.AttachType, at link.Anchor) {
	w.t.Helper()
	var l link.Link
	await.Must(w.t, i.Host.Do(func() (err error) {
		l, err = link.AttachTCX(link.TCXOptions{Interface: i.Index, Program: w.program, Attach: hook, Anchor: at})
		return err
	}))
	w.t.Cleanup(func() { l.Close() })
}

// byFilter adds the watcher as a filter, whose qdisc there has to be.
func (w *watcher) byFilter(i *topology.Interface, parent uint32, priority uint16) {
	w.t.Helper()
	filter := &netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: i.Index, Parent: parent, Handle: 1, Protocol: unix.ETH_P_ALL, Priority: priority,
		},
		Fd: w.program.FD(), Name: "watcher", DirectAction: true,
	}
	await.Must(w.t, i.Host.Netlink().FilterAdd(filter))
}
