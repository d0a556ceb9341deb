// SPDX-License-Identifier: Apache-2.0

package host

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

// TakeUDP has a program drop what leaves by an interface by UDP, before the programs of replypath see it.
func TakeUDP(t testing.TB, i *topology.Interface) link.Link {
	t.Helper()
	const protocolAt, next, drop = 14 + 9, -1, 2
	program := await.Must1[*ebpf.Program](t)(ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.SchedCLS, License: "GPL",
		Instructions: asm.Instructions{
			asm.Mov.Reg(asm.R6, asm.R1),
			asm.LoadAbs(protocolAt, asm.Byte),
			asm.JEq.Imm(asm.R0, unix.IPPROTO_UDP, "udp"),
			asm.Mov.Imm(asm.R0, next),
			asm.Return(),
			asm.Mov.Imm(asm.R0, drop).WithSymbol("udp"),
			asm.Return(),
		},
	}))
	t.Cleanup(func() { program.Close() })
	device := await.Must1[netlink.Link](t)(i.Link())
	var thief link.Link
	await.Must(t, i.Host.Do(func() (err error) {
		thief, err = link.AttachTCX(link.TCXOptions{
			Interface: device.Attrs().Index, Program: program, Attach: ebpf.AttachTCXEgress, Anchor: link.Head(),
		})
		return err
	}))
	t.Cleanup(func() { thief.Close() })
	return thief
}
