// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"net/netip"
	"testing"

	"replypath/test/host"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// publishedPort is that of the service, which its container has at another.
const publishedPort = 80

// newS7 builds S7, with the container's echo server published as its recipe shows.
func newS7(t *testing.T, policy topology.Policy) (*topology.S7, *host.Recipe) {
	t.Helper()
	s := traffic.NewS7(t, topology.TwoNICOptions{Policy: policy})
	return s, publish(t, s)
}

// publish publishes the container's echo server as the recipe shows.
func publish(t *testing.T, s *topology.S7) *host.Recipe {
	t.Helper()
	for _, f := range s.Families() {
		traffic.ServeAt(t, s.Container, netip.AddrPortFrom(s.ContainerEth0.Address(f), 8080))
	}
	recipe := host.ReadRecipe(t, "s7-published-port")
	recipe.Run(s.Server.Host, "The published port")
	return recipe
}

// published prepares a conversation with the published port of an interface of
// the server. Pings are answered by the host.
func published(t *testing.T, s *topology.S7, kind traffic.Kind, at *topology.Interface, f topology.Family) *traffic.Conversation {
	t.Helper()
	c := traffic.NewConversation(t, kind, s.ClientEth0, at.Address(f))
	if kind != traffic.Ping {
		c.Self = netip.AddrPortFrom(c.Self.Addr(), publishedPort)
	}
	return c
}

// TestS7 asks a published port by both of the host's addresses. Without replypath all answers leave by eth0, with it
// by the interface that was asked, also in conversations that go on over a restart of the daemon. Of what the recipe shows beside it, a rule by source mends the host's own answers
// and not the container's; marks of connections help.
func TestS7(t *testing.T) {
	for _, policy := range []topology.Policy{topology.StrictSource, topology.Stateful} {
		t.Run(policy.String(), func(t *testing.T) { testS7(t, policy) })
	}
}

func testS7(t *testing.T, policy topology.Policy) {
	s, page := newS7(t, policy)
	lost := func(t *testing.T, f topology.Family, kind traffic.Kind) {
		wantLost(t, s.Server, published(t, s, kind, s.Server.Eth1, f), s.ClientEth0)
	}
	answered := func(t *testing.T, f topology.Family, kind traffic.Kind) {
		wantAnswers(t, s.Server, published(t, s, kind, s.Server.Eth1, f), true)
		wantAnswers(t, s.Server, published(t, s, kind, s.Server.Eth0, f), false)
	}
	sampled(t, s.Families(), "without replypath", lost)
	p, d := product.StartOn(t, s.Server.Host)
	traffic.EachQuestion(t, "with replypath", answered)
	wantOverRestart(t, s, p, d)
	page.RunWith(p, "With replypath")
	p.Expect(0, "detach", "--stop")
	sampled(t, s.Families(), "after detach", lost)
	if policy != topology.StrictSource {
		return
	}
	page.Run(s.Server.Host, "With ip rule")
	traffic.EachQuestion(t, "ip rule", func(t *testing.T, f topology.Family, kind traffic.Kind) {
		if kind == traffic.Ping {
			answered(t, f, kind)
		} else {
			lost(t, f, kind)
		}
	})
	removeRules(t, s.Server.Host)
	host.Shell(t, s.Server.Host, "ip -4 route flush table 102; ip -6 route flush table 102")
	page.Run(s.Server.Host, "With connmark")
	traffic.EachQuestion(t, "connmark", answered)
}

// wantOverRestart has conversations with the container go on while the daemon dies and comes back.
func wantOverRestart(t *testing.T, s *topology.S7, p *product.Product, d *product.Daemon) {
	t.Helper()
	wires, talks := wire.Tap(t, s.Server), make(map[*traffic.Conversation]*traffic.Talk)
	for _, f := range s.Families() {
		for _, kind := range traffic.Kinds {
			c := published(t, s, kind, s.Server.Eth1, f)
			talks[c] = c.Keep(t)
		}
	}
	d.Kill()
	p.Start()
	for c, talk := range talks {
		if talk.Stop() == 0 {
			t.Errorf("%s: nothing was asked meanwhile", c)
		}
		wires.WantEth1(c.String(), c.Answers())
	}
}
