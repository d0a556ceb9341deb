// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"

	"replypath/test/await"
	"replypath/test/server"
)

// TestXDP names a program that sees frames before replypath does.
func TestXDP(t *testing.T) {
	n, p := server.New(t)
	onlyOne(t, p.Doctor(0), "xdp", "", "ok")
	const xdpPass = 2
	program := await.Must1[*ebpf.Program](t)(ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "theirs", Type: ebpf.XDP, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, xdpPass), asm.Return()},
	}))
	defer program.Close()
	await.Must(t, n.Server.Do(func() error {
		l, err := link.AttachXDP(link.XDPOptions{Program: program, Interface: n.Server.Eth1.Index})
		if err == nil {
			t.Cleanup(func() { l.Close() })
		}
		return err
	}))
	wantSeen(t, n, onlyOne(t, p.Doctor(0), "xdp", "eth1", "note"), "ip -details link show dev eth1")
}
