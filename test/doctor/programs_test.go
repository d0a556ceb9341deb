// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
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

// TestProgramsTaken names the interface from which somebody took a program.
func TestProgramsTaken(t *testing.T) {
	n := newServer(t)
	p := product.On(t, n.Server.Host)
	p.Start("--mechanism", "clsact").Kill()
	onlyOne(t, p.Doctor(0), "attached", "", "ok")
	host.Shell(t, n.Server.Host, "tc filter del dev eth1 egress")
	found := onlyOne(t, p.Doctor(3), "attached", "eth1", "error", "no program of replypath at egress")
	if want := "replypath run --pin-dir " + p.PinDir; product.OrEmpty(found.Fix) != want {
		t.Errorf("fix %q, not %q", product.OrEmpty(found.Fix), want)
	}
	p.Start("--mechanism", "clsact")
	onlyOne(t, p.Doctor(0), "attached", "", "ok")
}

// TestNoDefaultRoute: replypath itself is the remedy for replies. Where the host's own connections go is not for it to
// say.
func TestNoDefaultRoute(t *testing.T) {
	n := newServer(t)
	p := product.On(t, n.Server.Host)
	host.Shell(t, n.Server.Host, "ip route del default")
	found := onlyOne(t, p.Doctor(3), "default-route", "", "error", "ipv4: no default route")
	if want := "replypath run --pin-dir " + p.PinDir + "  # "; !strings.HasPrefix(product.OrEmpty(found.Fix), want) {
		t.Errorf("fix %q, not %q", product.OrEmpty(found.Fix), want)
	}
	p.Start()
	own := onlyOne(t, p.Doctor(0), "default-route", "", "warning", "no default route but that of replypath0")
	wantSeen(t, n, own, "ip route show table all default")
	c := traffic.NewConversation(t, traffic.Ping, n.ClientEth0, n.Server.Eth1.Address(topology.IPv4))
	traffic.Ask(t, c)
}

// TestNothingManaged says so, and why.
func TestNothingManaged(t *testing.T) {
	n := newServer(t)
	p := product.On(t, n.Server.Host)
	host.Shell(t, n.Server.Host, "ip address flush dev eth0; ip address flush dev eth1")
	found := onlyOne(t, p.Doctor(3), "managed", "", "error", "no interface is managed", "eth1: no global address")
	if !strings.HasPrefix(product.OrEmpty(found.Fix), "set interfaces: [{name: eth0}] in ") {
		t.Errorf("fix %q", product.OrEmpty(found.Fix))
	}
	config := product.WriteConfig(t, "interfaces: [{name: eth0}]\n")
	onlyOne(t, p.Doctor(0, "--config", config), "managed", "", "ok", "eth0")
}

// TestOtherPrograms names the programs of others by where they run, with the daemon under the fewest rights as well.
func TestOtherPrograms(t *testing.T) {
	n := newServer(t)
	p := product.On(t, n.Server.Host)
	attach := func(at ebpf.AttachType, anchor link.Anchor) {
		program := pass(t, ebpf.SchedCLS, tcxNext) // each can be attached once
		inside(t, n, func() (link.Link, error) {
			return link.AttachTCX(link.TCXOptions{Program: program, Attach: at, Interface: n.Server.Eth1.Index, Anchor: anchor})
		})
	}
	attach(ebpf.AttachTCXIngress, link.Head())
	attach(ebpf.AttachTCXEgress, link.Tail())
	for _, f := range p.Doctor(0).Of("tc-programs", "") {
		if f.Severity != "ok" {
			t.Errorf("before the first start: %+v", f)
		}
	}
	p.Start()
	for _, f := range p.Doctor(0).Of("tc-programs", "") {
		if f.Severity != "ok" {
			t.Errorf("replypath came last, so that it is first at ingress and last at egress: %+v", f)
		}
	}
	attach(ebpf.AttachTCXIngress, link.Head())
	attach(ebpf.AttachTCXEgress, link.Tail())
	const fewest = "-all,+net_admin,+bpf,+perfmon"
	few := p.RunAs(func(c *topology.Cmd) {
		c.Args = append([]string{"setpriv", "--bounding-set=" + fewest, "--inh-caps=" + fewest}, c.Args...)
		c.Path = "/usr/bin/setpriv"
	}, "doctor")
	if few.Code != 0 {
		t.Errorf("with the fewest capabilities: %s", few)
	}
	all := p.Doctor(0).Of("tc-programs", "eth1")
	if len(all.With("note")) != 2 || len(all.With("ok")) != 2 {
		t.Errorf("two in their places, two in others' way: %+v", all)
	}
	onlyOne(t, all, "tc-programs", "eth1", "note", "tcx program theirs at ingress runs before")
	behind := onlyOne(t, all, "tc-programs", "eth1", "note", "tcx program theirs at egress runs behind")
	if want := "bpftool net show dev eth1"; behind.Fix != nil || product.OrEmpty(behind.Inspect) != want {
		t.Errorf("fix %q, inspect %q, not %q alone", product.OrEmpty(behind.Fix), product.OrEmpty(behind.Inspect), want)
	}
	p.Expect(0, "detach", "--stop")
	p.Start()
	if all := p.Doctor(0).Of("tc-programs", "eth1"); len(all.With("ok")) != 4 {
		t.Errorf("attached again, first at ingress and last at egress: %+v", all)
	}
}
