// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"bytes"
	"fmt"
	"net"
	"testing"

	"replypath/test/harness"
	"replypath/test/topology"
)

// TestOwnMACChanges gives the server's eth1 another MAC under a connection. What is
// sent by it has the new one from the moment on that the kernel tells of it.
func TestOwnMACChanges(t *testing.T) {
	n := harness.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.StrictSource})
	harness.On(t, n.Server.Host).Start()
	eth1 := n.Server.Eth1
	pushes := make(map[topology.Family]*harness.Push)
	for _, f := range harness.Families {
		pushes[f] = harness.NewPush(t, n.Client, n.Server.Host, eth1.Address(f), eth1.Address(f))
		pushes[f].Speak()
	}
	// The router learns of it by itself.
	for _, key := range []string{"net/ipv4/conf/eth1/arp_notify", "net/ipv6/conf/eth1/ndisc_notify"} {
		harness.Must(t, n.Server.SetSysctl(key, "1"))
	}
	for i := range 3 {
		changed := *eth1
		changed.MAC = net.HardwareAddr{2, 0xcc, 0, 0, 0, byte(i)}
		harness.Must(t, eth1.SetMAC(changed.MAC))
		for _, f := range harness.Families {
			harness.Eventually(t, "frames have the new mac", func() error {
				if mac := pushedFrom(t, n, pushes[f]); !bytes.Equal(mac, changed.MAC) {
					return fmt.Errorf("they have %s", mac)
				}
				return nil
			})
			exits := harness.TapAll(t, n.Server.Eth0, &changed)
			for range 10 {
				pushes[f].Speak()
			}
			exits.Want("what the server pushes", pushes[f].Segments, &changed, eth1.Peer().MAC)
			c := harness.NewConversation(t, harness.UDP, n.ClientEth0, eth1.Address(f))
			exit{[]*topology.Interface{n.Server.Eth0, &changed}, &changed, eth1.Peer().MAC}.wantAnswers(t, c, c.Answers())
		}
	}
}

// pushedFrom has the server speak and returns the MAC that it did so from.
func pushedFrom(t *testing.T, n *topology.TwoNIC, p *harness.Push) net.HardwareAddr {
	t.Helper()
	exits := harness.TapAll(t, n.Server.Eth1)
	p.Speak()
	frames := exits.Left(n.Server.Eth1, topology.All(p.Segments, topology.Flags(topology.PSH, topology.PSH)))
	if len(frames) == 0 {
		t.Fatal("nothing left by eth1")
	}
	return frames[len(frames)-1].SourceMAC
}
