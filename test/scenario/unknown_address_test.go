// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"net/netip"
	"testing"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
)

// forwards has a host forward packets, or stop it.
func forwards(t *testing.T, h *topology.Host, on int) {
	t.Helper()
	host.Shell(t, h, fmt.Sprintf("sysctl -q -w net.ipv4.ip_forward=%d net.ipv6.conf.all.forwarding=%[1]d", on))
}

// TestUnknownAddress asks addresses that no interface has, for which a proxy answers (TPROXY) or the firewall translates.
// Where the host forwards nothing they are its own, and the answers leave by eth1. Once it forwards they may be anybody's.
func TestUnknownAddress(t *testing.T) {
	n := newProxied(t)
	redirectPort(t, n.TwoNIC)
	forwards(t, n.Server.Host, 0)
	each := func(name string, want func(*testing.T, *traffic.Conversation)) {
		eachProxied(t, n, name, func(t *testing.T, c *traffic.Conversation, own bool) {
			if !own {
				want(t, c)
			}
		})
		traffic.EachQuestion(t, name+"/redirected", func(t *testing.T, f topology.Family, kind traffic.Kind) {
			if kind != traffic.Ping {
				c := traffic.NewConversation(t, kind, n.ClientEth0, behind[f])
				c.Self = netip.AddrPortFrom(behind[f], redirectedPort)
				want(t, c)
			}
		})
	}
	lost := func(t *testing.T, c *traffic.Conversation) { wantLost(t, n.Server, c, n.ClientEth0) }
	right := func(t *testing.T, c *traffic.Conversation) { wantAnswers(t, n.Server, c, true) }
	each("without replypath", lost)
	p := product.On(t, n.Server.Host)
	p.Start()
	each("nothing is forwarded", right)
	for on, want := range []func(*testing.T, *traffic.Conversation){1: lost, 0: right} {
		forwards(t, n.Server.Host, on)
		for _, f := range n.Families() {
			await.Eventually(t, "the daemon knows what is forwarded", func() error {
				e := p.Explain("--peer", n.ClientEth0.Address(f).Next().String(), "--self", behind[f].String(), "--interface", "eth1")
				if isForeign := product.OrEmpty(e.Reason) == "not_own"; isForeign != (on == 1) {
					return fmt.Errorf("%s", e)
				}
				return nil
			})
		}
		each(fmt.Sprintf("ip_forward %d", on), want)
	}
}
