// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"testing"

	"replypath/test/product"
	"replypath/test/server"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// talks asks eth1's address from afar by every kind, and wants the answers to leave by eth1, or by eth0.
func talks(t *testing.T, n *topology.TwoNIC, f topology.Family, byEth1 bool) {
	t.Helper()
	for _, kind := range traffic.Kinds {
		c := traffic.NewConversation(t, kind, n.ClientEth0, n.Server.Eth1.Address(f))
		for range 3 {
			wire.WantBy(t, n.Server, c, byEth1)
		}
	}
}

// TestObservedWrongWay: replies leave by eth0 while replypath observes. doctor says so, with the command that ends it; once
// it was typed, what was counted before is nothing to be warned of.
func TestObservedWrongWay(t *testing.T) {
	n, p := server.New(t)
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
