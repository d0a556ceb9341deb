// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"

	"replypath/test/await"
	"replypath/test/product"
	"replypath/test/topology"
)

// pass is a program of somebody else's that lets everything pass.
func pass(t *testing.T, kind ebpf.ProgramType, verdict int32) *ebpf.Program {
	t.Helper()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "theirs", Type: kind, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, verdict), asm.Return()},
	})
	await.Must(t, err)
	t.Cleanup(func() { p.Close() })
	return p
}

const (
	xdpPass = 2
	tcxNext = -1
)

// attached keeps a link until the test ends.
func attached(t *testing.T, l link.Link, err error) {
	t.Helper()
	await.Must(t, err)
	t.Cleanup(func() { l.Close() })
}

// inside does something in the server's namespace.
func inside(t *testing.T, n *topology.TwoNIC, attach func() (link.Link, error)) {
	t.Helper()
	await.Must(t, n.Server.Do(func() error {
		l, err := attach()
		attached(t, l, err)
		return nil
	}))
}

// TestXDP names a program that sees frames before replypath does.
func TestXDP(t *testing.T) {
	n := newServer(t)
	p := product.On(t, n.Server.Host)
	onlyOne(t, p.Doctor(0), "xdp", "", "ok")
	program := pass(t, ebpf.XDP, xdpPass)
	inside(t, n, func() (link.Link, error) {
		return link.AttachXDP(link.XDPOptions{Program: program, Interface: n.Server.Eth1.Index})
	})
	wantSeen(t, n, onlyOne(t, p.Doctor(0), "xdp", "eth1", "note"), "ip -details link show dev eth1")
}
