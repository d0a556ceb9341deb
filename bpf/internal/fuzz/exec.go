// SPDX-License-Identifier: Apache-2.0

package fuzz

import (
	"bytes"
	"errors"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/bpf/internal/model"
	"replypath/bpf/internal/rig"
)

// what the tc_index of packets holds that do not come from the datapath.
const foreignTCIndex = 0x4321

// both runs one packet on both sides and compares what became of it. Where it is
// redirected, after is how it arrives; else its interface is 0.
func (x *run) both(k kind, f model.Frame, cut int, mark uint16) (after model.Frame, err error) {
	verdict, length, probed, err := x.exec(k, f, cut, mark)
	if errors.Is(err, unix.EINVAL) {
		return after, nil // the kernel does not run programs on everything
	}
	if err != nil {
		return after, err
	}
	x.Packets++
	x.lastPairs = nil
	events, err := x.d.EventCounts()
	if err != nil {
		return after, err
	}
	x.m.Witness = x.witness(events)
	if cut != 0 {
		f.WireLen = uint32(len(f.Bytes)) // the test run's: the wrapper shortens the packet later
		f.Bytes = f.Bytes[:cut]
	}
	decide := [...]func(model.Frame) model.Verdict{inbound: x.m.Ingress, outbound: x.m.Egress}[k]
	want := decide(f)
	wantBytes := f.Bytes
	if want.Bytes != nil {
		wantBytes = want.Bytes
	}
	x.compareVerdict(verdict, x.buffer[:length], probed, want, wantBytes)
	if want.Redirect != 0 {
		after = f
		after.Ifindex, after.Bytes, after.Arriving = want.Redirect, bytes.Clone(wantBytes), true
		if want.Inward {
			after = model.Frame{Ifindex: want.Redirect, Bytes: after.Bytes}
		} else {
			x.tcIndex = probed.TCIndex
		}
		x.land(&after, f.NoHeader)
	}
	x.compareEvents(events)
	if x.what.Len() > 0 {
		after.Ifindex = 0
	}
	return after, nil
}

// Verdicts (linux/pkt_cls.h): TC_ACT_UNSPEC, TC_ACT_SHOT, TC_ACT_REDIRECT.
const (
	passed     = -1
	dropped    = 2
	redirected = 7
)

// compareVerdict tells what of a run's outcome is not as the model has it.
func (x *run) compareVerdict(verdict int32, got []byte, probed rig.Probed, want model.Verdict, wantBytes []byte) {
	isRedirected, otherwise := verdict == redirected, int32(passed)
	if want.Dropped {
		otherwise = dropped
	}
	switch {
	case isRedirected != (want.Redirect != 0) || !isRedirected && verdict != otherwise:
		x.differ("verdict %d, the model redirects to %d, drops it: %t", verdict, want.Redirect, want.Dropped)
	case !bytes.Equal(got, wantBytes):
		x.differ("packet afterwards (-model +datapath):\n%s", cmp.Diff(wantBytes, got))
	case isRedirected && !want.Inward && (probed.TCIndex == 0 || probed.TCIndex == x.tcIndex):
		x.differ("mark %#x after %#x", probed.TCIndex, x.tcIndex)
	}
}

// exec runs the datapath's program.
func (x *run) exec(k kind, f model.Frame, cut int, mark uint16) (verdict int32, length int, probed rig.Probed, err error) {
	names := [2][2]string{
		{bpf.DatapathProgReplypathIngress, bpf.DatapathProgReplypathEgress},
		{bpf.DatapathProgReplypathIngressL3, bpf.DatapathProgReplypathEgressL3},
	}
	bare := 0
	if f.NoHeader {
		bare = 1
	}
	program := x.d.Probes[names[bare][k]]
	if mark == 0 {
		mark = foreignTCIndex
	}
	x.context = rig.Context{Ifindex: f.Ifindex, IngressIfindex: f.CameBy, GSOSize: f.GSOSize, GSOSegs: f.GSOSegs, WireLen: f.WireLen}
	probe := rig.Probe{TCIndex: mark, VLAN: f.Tag, Length: uint32(cut)}
	if host := uint32(unix.PACKET_HOST); f.NoHeader {
		probe.PktType = &host // the test run sees MAC addresses in the IP header
	}
	probe.Set(&x.context)
	opts := &ebpf.RunOptions{
		Data:       f.Bytes,
		DataOut:    x.buffer,
		Context:    contextBytes(&x.context),
		ContextOut: contextBytes(&x.context),
	}
	result, err := program.Run(opts)
	return int32(result), len(opts.DataOut), rig.ReadProbed(&x.context), err
}

func contextBytes(c *rig.Context) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(c)), unsafe.Sizeof(*c))
}

// witness lets the model look at what the datapath did.
func (x *run) witness(events map[bpf.DatapathEvent]uint64) model.Witness {
	return model.Witness{
		Rose: func(e model.Event) bool { return events[e]-x.events[e] > x.m.Events[e] },
	}
}
