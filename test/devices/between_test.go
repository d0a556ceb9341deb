// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"net"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf/link"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
)

// TestOthersBetween has other programs around and between the two of ours on the device of the fallback route: replies, which
// the first one moves, are seen only before it; what the host starts is also seen between them, before the last one ends it.
func TestOthersBetween(t *testing.T) {
	host.NeedTCX(t)
	n := traffic.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.AnySource, Offloads: topology.WireExact})
	p := product.On(t, n.Server.Host)
	p.Start("--mechanism", "tcx")
	useFallback(t, n, p)
	device, egress := await.Must1[*topology.Interface](t)(n.Server.Interface("replypath0")), hooks[1]
	ours := ourPrograms(t, device, egress)
	if len(ours) != 2 {
		t.Fatalf("%d programs of ours on the device of the fallback route", len(ours))
	}
	all := make(watchers)
	for name, at := range map[string]link.Anchor{
		"before": link.BeforeProgramByID(ours[0]), "between": link.AfterProgramByID(ours[0]), "behind": link.AfterProgramByID(ours[1]),
	} {
		all[name] = newWatcher(t)
		all[name].byTCX(device, egress.tcx, at)
	}
	frames := questions * len(n.Families())
	askWatched(t, n, n.Server.Eth1)
	await.Same(t, "seen of replies", map[string]int{"before": frames}, all.seen())
	for _, f := range n.Families() {
		for range questions {
			beginWatched(t, n, f)
		}
	}
	await.Same(t, "seen of what the host starts", map[string]int{"before": frames, "between": frames}, all.seen())
	all.remove()
	await.Eventually(t, "all is as before", func() error { return fallbackWorks(t, n) })
	t.Logf("programs of others before, between and behind ours: %d replies seen by the first alone, %d datagrams of the host's by two", frames, frames)
}

// beginWatched has the server send a datagram that the watchers know, by a socket of its own, from a port that might be a
// server's: else no route is found.
func beginWatched(t *testing.T, n *topology.TwoNIC, f topology.Family) {
	t.Helper()
	from := topology.FromAddress(netip.AddrPortFrom(n.Server.Eth1.Address(f), 999))
	to := netip.AddrPortFrom(strangers[f], traffic.EchoPort).String()
	conn := await.Must1[net.Conn](t)(n.Server.Dial(await.Within(t, await.AnswerTime), "udp", to, from))
	defer conn.Close()
	_, err := conn.Write(make([]byte, watchedSize))
	await.Must(t, err)
}
