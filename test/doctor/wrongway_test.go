// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"os"
	"strings"
	"testing"

	"replypath/test/await"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// talk asks eth1's address from afar, and wants the answer to leave by eth1, or by eth0.
func talk(t *testing.T, n *topology.TwoNIC, kind traffic.Kind, f topology.Family, byEth1 bool) {
	t.Helper()
	c := traffic.NewConversation(t, kind, n.ClientEth0, n.Server.Eth1.Address(f))
	wires := wire.Tap(t, n.Server)
	for range 3 {
		traffic.Ask(t, c)
	}
	if byEth1 {
		wires.WantEth1(c.String(), c.Answers())
		return
	}
	wires.WantEth0(c.String(), c.Answers())
}

// talks is talk by every kind.
func talks(t *testing.T, n *topology.TwoNIC, f topology.Family, byEth1 bool) {
	t.Helper()
	for _, kind := range traffic.Kinds {
		talk(t, n, kind, f, byEth1)
	}
}

// TestObservedWrongWay: replies leave by eth0 while replypath observes. doctor says so, with the command that ends it; once
// it was typed, what was counted before is nothing to be warned of.
func TestObservedWrongWay(t *testing.T) {
	n := newServer(t)
	p := product.On(t, n.Server.Host)
	p.Start("--observe", "--listen", "")
	for _, f := range traffic.Families {
		p.Expect(0, "mode", "observe")
		p.Expect(0, "flows", "flush") // of the other family
		onlyOne(t, p.Doctor(0), "wrong-way", "", "ok")
		talks(t, n, f, false)
		found := onlyOne(t, p.Doctor(0), "wrong-way", "eth1", "warning", "replies of eth1 leave by eth0: ", "live flows", "packets in all, reason observe")
		fix := product.OrEmpty(found.Fix)
		if want := "replypath mode enforce --pin-dir " + p.PinDir + "  # until the next start: leave --observe out then"; fix != want {
			t.Errorf("fix %q, not %q", fix, want)
		}
		p.Expect(0, "mode", "enforce")
		talks(t, n, f, true)
		onlyOne(t, p.Doctor(0), "wrong-way", "", "ok")
	}
}

// TestUncorrectableWrongWay: eth1 enforces a gateway, and has none. doctor names the reason for as long as it holds; the
// packets that it counted stay counted.
func TestUncorrectableWrongWay(t *testing.T) {
	n := newServer(t)
	p := product.On(t, n.Server.Host)
	const without = "interfaces: [{name: eth0}, {name: eth1, next_hop: gateway}]\n"
	gateways := n.Server.Eth1.Peer().Address(topology.IPv4).String() + `, "` + n.Server.Eth1.Peer().Address(topology.IPv6).String() + `"`
	path := product.WriteConfig(t, without)
	d := p.Start("--config", path, "--listen", "")
	for _, f := range traffic.Families {
		await.Must(t, os.WriteFile(path, []byte(without), 0o600))
		d.Reload()
		talk(t, n, traffic.UDP, f, false)
		onlyOne(t, p.Doctor(3), "wrong-way", "eth1", "error", "replies of eth1 leave by eth0: ", "reason no_next_hop")
		await.Must(t, os.WriteFile(path, []byte(strings.Replace(without, "gateway}", "gateway, gateways: ["+gateways+"]}", 1)), 0o600))
		d.Reload()
		p.Expect(0, "flows", "flush")
		talk(t, n, traffic.UDP, f, true)
		onlyOne(t, p.Doctor(0), "wrong-way", "", "ok")
	}
}
