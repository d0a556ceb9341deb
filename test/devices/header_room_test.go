// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"net"
	"net/netip"
	"testing"

	"replypath/test/await"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

const (
	largestMTU = 65535
	// headless is more than the kernel puts a header before (BPF_SKB_MAX_LEN in net/core/filter.c), in one packet.
	headless = 20_000
)

// TestNoHeaderRoom has answers chosen for a device without an Ethernet header that are
// too long to get one: they leave as the kernel sent them, and are counted.
func TestNoHeaderRoom(t *testing.T) {
	s := newSite(t, tun, ethernet)
	for _, i := range []*topology.Interface{s.Production, s.Replication} {
		await.Must(t, i.SetMTU(largestMTU))
		await.Must(t, i.Peer().SetMTU(largestMTU))
	}
	p := product.On(t, s.Server)
	p.Start()
	for _, f := range traffic.Families {
		t.Run(f.String(), func(t *testing.T) {
			ctx := await.Within(t, await.AnswerTime)
			at := netip.AddrPortFrom(s.Replication.Address(f), 0).String()
			server := await.Must1[net.PacketConn](t)(s.Server.ListenPacket(ctx, "udp", at))
			defer server.Close()
			client := await.Must1[net.Conn](t)(s.Client.Dial(ctx, "udp", server.LocalAddr().String()))
			defer client.Close()
			await.Must1[int](t)(client.Write([]byte("?")))
			_, peer, err := server.ReadFrom(make([]byte, 1))
			await.Must(t, err)

			answers := topology.All(topology.UDP, topology.FromPort(netip.MustParseAddrPort(server.LocalAddr().String()).Port()))
			exits := wire.TapAll(t, s.nics()...)
			answer := func(length int, by *topology.Interface) {
				await.Must1[int](t)(server.WriteTo(make([]byte, length), peer))
				await.Must1[*topology.Frame](t)(exits.At(by).Wait(ctx, topology.All(answers, topology.Going(topology.Received))))
			}
			answer(headless, s.Production)
			exits.Want("an answer that is too long", answers, s.Production, nil)
			const counter = "replypath_uncorrected_packets_total"
			if counted := p.In(t).Metrics().Sum(counter, "reason=no_header_room", "family="+f.String()); counted != 1 {
				t.Errorf("%v packets are counted", counted)
			}
			exits = wire.TapAll(t, s.nics()...)
			answer(headless/2, s.Replication)
			exits.Want("a shorter answer", answers, s.Replication, s.Replication.Peer().MAC)
		})
	}
}
