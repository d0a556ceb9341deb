// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"testing"

	"github.com/vishvananda/netlink"

	"replypath/test/await"
	"replypath/test/product"
	"replypath/test/server"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// TestRenameWithoutDaemon renames a managed interface after the daemon was killed: the conversations go on by it, and what
// the next start shows, also of what was counted before, has the new name. TestNamesAreSwapped has it with a daemon.
func TestRenameWithoutDaemon(t *testing.T) { server.EachMechanism(t, testRenameWithoutDaemon) }

func testRenameWithoutDaemon(t *testing.T, mechanism string) {
	t.Parallel()
	n, p := server.NewExact(t)
	d := start(p, mechanism)
	all := keepAskingAll(t, n)
	d.Kill()
	link := await.Must1[netlink.Link](t)(n.Server.Eth1.Link())
	await.Must(t, n.Server.Netlink().LinkSetName(link, "lan1"))
	all.GoOn()
	start(p, mechanism)
	waitAttached(t, p, "lan1", n.Server.Eth1.Index)
	all.GoOn()
	right := all.End()
	await.Same(t, "the old name", nil, p.Status().Interface("eth1"))
	wantInterface(t, p, "lan1", all)
	await.Must1[string](t)(p.Get("/healthz"))
	var counted float64
	for _, r := range all {
		answers, metrics := settled(r, p)
		const metric = "replypath_corrected_packets_total"
		flow := []string{"family=" + topology.FamilyOf(r.Conversation.Self.Addr()).String(), "protocol=" + r.Conversation.Protocol()}
		now, old := metrics.Sum(metric, append(flow, "to_interface=lan1")...), metrics.Sum(metric, append(flow, "to_interface=eth1")...)
		if now != float64(len(answers)) || old != 0 {
			t.Errorf("%s: %v packets are counted by the new name and %v by the old one, %d left", r, now, old, len(answers))
		}
		counted += now
	}
	t.Logf("%d conversations go on under a rename without a daemon: %d answers by the interface, 0 by eth0, %v counted by the new name",
		len(all), right, counted)
}

// TestRouteMoves moves the default route to eth1 and back under conversations
// with both interfaces: each stays where it came in.
func TestRouteMoves(t *testing.T) {
	n, p := server.NewExact(t)
	p.Start()
	for _, f := range n.Families() {
		traffic.Serve(t, n.Server.Host, n.Server.Eth0.Address(f))
		byEth0 := traffic.NewConversation(t, traffic.TCP, n.ClientEth0, n.Server.Eth0.Address(f))
		byEth1 := conversation(t, n, traffic.TCP, f)
		wire.WantBy(t, n.Server, byEth0, false)
		wire.WantBy(t, n.Server, byEth1, true)
		before := topology.Route{Via: n.Server.Eth0.Gateway(f)}
		after := topology.Route{Via: n.Server.Eth1.Gateway(f)}
		await.Must(t, n.Server.RemoveRoute(before))
		await.Must(t, n.Server.AddRoute(after))
		await.Must(t, n.Server.Eth1.Resolve(await.Within(t, await.AnswerTime), after.Via))
		wire.WantBy(t, n.Server, byEth1, true)
		// eth0's gateway stands in no routing table any more.
		wire.WantBy(t, n.Server, byEth0, false)
		wire.WantBy(t, n.Server, traffic.NewConversation(t, traffic.UDP, n.ClientEth0, n.Server.Eth0.Address(f)), false)
		await.Must(t, n.Server.RemoveRoute(after))
		await.Must(t, n.Server.AddRoute(before))
		wire.WantBy(t, n.Server, byEth0, false)
		wire.WantBy(t, n.Server, byEth1, true)
	}
}

// TestWithoutIPv6 runs on a host that has IPv6 turned off.
func TestWithoutIPv6(t *testing.T) {
	n := traffic.NewTwoNIC(t, topology.TwoNICOptions{NoIPv6: true})
	before := snapshot(t, n)
	p, d := product.StartOn(t, n.Server.Host)
	for _, kind := range traffic.Kinds {
		wire.WantBy(t, n.Server, conversation(t, n, kind, topology.IPv4), true)
	}
	if lines := append(d.Log.Lines("level=WARN"), d.Log.Lines("level=ERROR")...); len(lines) > 0 {
		t.Errorf("complaints in the log: %q", lines)
	}
	p.Expect(0, "detach", "--stop")
	await.Same(t, "host after detach", before, snapshot(t, n))
}
