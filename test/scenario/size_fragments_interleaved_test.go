// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"replypath/test/harness"
	"replypath/test/topology"
)

// TestFragmentsInterleaved has many answers leave at once, as from a server with as
// many processors: between the first fragment of one and its second there are those of
// others. None of them is torn.
func TestFragmentsInterleaved(t *testing.T) {
	const (
		rounds = 200
		atOnce = 32
	)
	n := harness.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.StrictSource})
	p := harness.On(t, n.Server.Host)
	p.Start()
	injector := harness.NewInjector(t, n.Server.Eth0) // where the kernel would send them
	for _, f := range harness.Families {
		c := harness.NewConversation(t, harness.UDP, n.ClientEth0, n.Server.Eth1.Address(f))
		harness.Ask(t, c)
		wires := harness.Tap(t, n.Server)
		send := func(id uint16, offset int) {
			ethernet, ip := ipHeaders(n.Server.Eth0.MAC, n.Server.Eth0.Peer().MAC, c.Self.Addr(), c.Peer.Addr(), 0)
			data := gopacket.Payload(make([]byte, 16))
			parts := fragmentOf(ip.(gopacket.NetworkLayer), layers.IPProtocolUDP, id, offset, offset == 0, data)
			if offset == 0 {
				udp := udpTo(ip.(gopacket.NetworkLayer), c.Peer.Port())
				udp.SrcPort = layers.UDPPort(c.Self.Port())
				parts = append(parts[:len(parts)-1], udp, gopacket.Payload(make([]byte, 8)))
			}
			injector.Send(append([]gopacket.SerializableLayer{ethernet}, parts...)...)
		}
		for round := range rounds {
			for _, offset := range []int{0, 16} {
				for i := range atOnce {
					send(uint16(1+round*atOnce+i), offset)
				}
			}
		}
		frames := wires.WantEth1(fmt.Sprintf("the fragments, %s", f), answersOf(c))
		if want := 2 * rounds * atOnce; len(frames) < want {
			t.Errorf("%s: %d fragments left by eth1, not %d", f, len(frames), want)
		}
	}
}
