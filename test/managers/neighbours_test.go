// SPDX-License-Identifier: Apache-2.0

package managers

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

// TestNeighbours types in what Tailscale, Cilium, Calico and flannel make on a host, which Debian 12 has not. Beside it
// answers of eth1 are lost, and right with replypath. What the neighbour routes goes its way before and with replypath,
// and what it made is not managed, called needless or changed.
func TestNeighbours(t *testing.T) {
	for _, b := range []*host.Neighbour{host.Tailscale, host.Cilium, host.Calico, host.Flannel} {
		t.Run(b.Name, func(t *testing.T) { testNeighbour(t, b) })
	}
}

func testNeighbour(t *testing.T, b *host.Neighbour) {
	n, _ := newServer(t)
	guest := b.Install(t, n)
	for _, f := range n.Families() {
		traffic.Serve(t, n.Server.Host, n.Server.Eth0.Address(f))
		traffic.Serve(t, n.Client, n.ClientEth0.Address(f))
		product.AwaitAddress(t, guest, guest.Address(f), true)
	}
	eachQuestion(t, n, "without replypath", wire.WantLost)
	wantWays(t, n, b, guest)
	before := host.Made(t, n.Server.Host)
	p, _ := product.StartOn(t, n.Server.Host)
	eachQuestion(t, n, "with replypath", wire.WantByEth1)
	traffic.EachQuestionOf(t, n.Families(), "eth0 is asked", func(t *testing.T, f topology.Family, kind traffic.Kind) {
		wire.WantBy(t, n.Server, traffic.NewConversation(t, kind, n.ClientEth0, n.Server.Eth0.Address(f)), false)
	})
	wantWays(t, n, b, guest)
	wantNotManaged(t, p, append(b.Devices, b.Device))
	for _, f := range p.Doctor(0) {
		if f.Severity != "ok" && f.Severity != "note" {
			t.Errorf("doctor, beside %s: %+v", b.Name, f)
		}
	}
	for _, r := range p.Plan(0).Rules {
		if r.Verdict == "not-needed" {
			t.Errorf("plan, beside %s: %+v", b.Name, r)
		}
	}
	p.Expect(0, "detach", "--stop")
	await.Same(t, "host after detach", before, host.Made(t, n.Server.Host))
}

// wantWays wants what the host and the neighbour's guest send to go as the neighbour routes it.
func wantWays(t *testing.T, n *topology.TwoNIC, b *host.Neighbour, guest *topology.Interface) {
	t.Helper()
	for _, way := range b.Ways {
		wantWay(t, n, way)
	}
	out := n.Server.Eth0
	if b.SourceEth1 {
		out = n.Server.Eth1
	}
	for _, f := range n.Families() {
		for _, kind := range traffic.Kinds {
			// The host's own answer goes back to the guest, whichever address of the host was asked.
			traffic.Ask(t, traffic.NewConversation(t, kind, guest, n.Server.Eth1.Address(f)))
			wires := wire.Tap(t, n.Server)
			opened := traffic.NewConversation(t, kind, guest, n.ClientEth0.Address(f))
			traffic.Ask(t, opened)
			wires.Want(b.SourceEth1, opened.String(), masqueraded(opened, out.Address(f)))
		}
	}
}

// masqueraded matches the questions behind a masquerade, which may have changed the client's port. The server's port, 0
// for a ping, keeps out the SYN-ACKs that the host sends again of lost connections.
func masqueraded(c *traffic.Conversation, as netip.Addr) topology.Filter {
	return topology.All(topology.From(as), topology.To(c.Self.Addr()), topology.ToPort(c.Self.Port()))
}

// wantWay wants a ping of the host's to leave by a device, in a datagram by eth0 if it is carried so. It need not be
// answered.
func wantWay(t *testing.T, n *topology.TwoNIC, way host.Way) {
	t.Helper()
	to := netip.MustParseAddr(way.To)
	at := wire.Capture(t, await.Must1[*topology.Interface](t)(n.Server.Interface(way.Device)))
	wires := wire.Tap(t, n.Server)
	mark := ""
	if way.Mark != "" {
		mark = "-m $((" + way.Mark + "))"
	}
	host.Shell(t, n.Server.Host, fmt.Sprintf("ping -c 1 -W 0.1 %s %s >/dev/null || true", mark, to))
	ctx := await.Within(t, await.AnswerTime)
	if _, err := at.Wait(ctx, topology.All(topology.To(to), topology.EchoRequest, topology.Going(topology.Sent))); err != nil {
		t.Errorf("what the host sends to %s with the mark %q does not leave by %s: %v", to, way.Mark, way.Device, err)
	}
	if way.Over == 0 {
		return
	}
	carried := topology.All(topology.To(n.ClientEth0.Address(topology.FamilyOf(to))), topology.UDP, topology.ToPort(way.Over))
	if _, err := wires.Eth0.Wait(ctx, carried); err != nil {
		t.Errorf("the datagrams of %s: %v", way.Device, err)
	}
	wires.WantEth0("the datagrams of "+way.Device, carried)
}
