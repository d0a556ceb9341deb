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
	"replypath/test/wire"
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

// TestSourceOfNoInterface has the host ask from an address that no interface has, and be answered by eth1: that begins no
// flow, so that its questions go on to leave by eth0.
func TestSourceOfNoInterface(t *testing.T) {
	n := traffic.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.AnySource})
	core := await.Must1[*topology.Interface](t)(n.Replication.Interface("core"))
	for _, f := range n.Families() {
		to := netip.PrefixFrom(behind[f], behind[f].BitLen())
		await.Must(t, n.Core.AddRoute(topology.Route{Destination: to, Via: core.Address(f)}))
		await.Must(t, n.Replication.AddRoute(topology.Route{Destination: to, Via: n.Server.Eth1.Address(f)}))
		traffic.Serve(t, n.Client, n.ClientEth0.Address(f))
	}
	host.Nft(t, n.Server.Host, fmt.Sprintf(`
		table inet pool {
			chain postrouting {
				type nat hook postrouting priority srcnat
				ip saddr %s snat ip to %s
				ip6 saddr %s snat ip6 to %s
			}
		}`, n.Server.Eth0.Address(topology.IPv4), behind[topology.IPv4], n.Server.Eth0.Address(topology.IPv6), behind[topology.IPv6]))
	p := product.On(t, n.Server.Host)
	p.Start()
	p.WaitGrace()
	traffic.EachQuestion(t, "the host asks", func(t *testing.T, f topology.Family, kind traffic.Kind) {
		c := traffic.NewConversation(t, kind, n.Server.Eth0, n.ClientEth0.Address(f))
		wires := wire.Tap(t, n.Server)
		traffic.AskSizes(t, c)
		traffic.AskSizes(t, c)
		wires.WantEth0(c.String(), c.Masked(behind[f]).Questions())
	})
}
