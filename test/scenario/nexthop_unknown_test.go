// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"net"
	"testing"

	"github.com/gopacket/gopacket/layers"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/product"
	"replypath/test/short"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// losses are how the kernel comes to know a MAC no more, as commands.
var losses = map[string]string{
	"cold":   "ip neighbour del %s dev %s",
	"failed": "ip neighbour change %s dev %s nud failed",
	"stale":  "ip neighbour change %s dev %s nud stale",
}

// TestGatewayUnknown has the server lose the MAC of one of its gateways, or of both, and a client ask eth1 that very
// moment. The answer leaves by eth1, and it costs a retransmission at most, also where routers check sources: they do not
// answer an ARP request that has the address of the other NIC for its source, which is what the kernel sends for the first
// answer.
func TestGatewayUnknown(t *testing.T) {
	for _, policy := range []topology.Policy{topology.StrictSource, topology.AnySource} {
		if short.Run(t) && policy != topology.StrictSource {
			continue // whose routers answer more
		}
		t.Run(policy.String(), func(t *testing.T) {
			n := traffic.NewTwoNIC(t, topology.TwoNICOptions{Policy: policy, Eth1Metric: 5000})
			_, d := product.StartOn(t, n.Server.Host, "--config", product.WriteConfig(t, "{}\n"))
			eth0, eth1 := n.Server.Eth0, n.Server.Eth1
			eachLoss(t, n, "eth0", true, eth0)
			eachLoss(t, n, "eth1", true, eth1)
			eachLoss(t, n, "both", true, eth0, eth1)
			if policy == topology.AnySource {
				return
			}
			// What it sends until the only next hop that it may use is known again goes as routed.
			d.Reconfigure("interfaces: [{name: 'eth*', next_hop: gateway}]\n")
			eachLoss(t, n, "only next hop", false, eth1)
			d.Reconfigure("{}\n")
			t.Run("own mac changes", func(t *testing.T) { testOwnMACChanges(t, n) })
		})
	}
}

// eachLoss asks in a subtest for each family and each way to lose the gateways of some NICs.
func eachLoss(t *testing.T, n *topology.TwoNIC, name string, byEth1 bool, nics ...*topology.Interface) {
	for how, loss := range losses {
		for _, f := range traffic.Families {
			t.Run(name+"/"+how+"/"+f.String(), func(t *testing.T) {
				for _, nic := range n.Server.NICs() {
					await.Must(t, nic.Resolve(await.Within(t, await.AnswerTime), nic.Gateway(f)))
				}
				script := ""
				for _, nic := range nics {
					script += fmt.Sprintf(loss, nic.Gateway(f), nic.Name) + "\n"
				}
				host.Shell(t, n.Server.Host, script)
				askOnceMore(t, n, f, byEth1)
			})
		}
	}
}

// askOnceMore has the client open a connection to eth1, with one segment sent twice at most, and answered by eth1 where
// that is wanted.
func askOnceMore(t *testing.T, n *topology.TwoNIC, f topology.Family, byEth1 bool) {
	t.Helper()
	exits := wire.TapAll(t, n.Server.NICs()...)
	c := traffic.NewConversation(t, traffic.TCP, n.ClientEth0, n.Server.Eth1.Address(f))
	traffic.Ask(t, c)
	if byEth1 {
		exitBy(n.Server, n.Server.Eth1).want(exits, c.String(), c.Answers())
	}
	wantRepeated(t, exits, c, 1)
}

// wantRepeated wants no more segments than so many to have been sent once more by either end: of the client's those that
// came to the server, of the server's those that left it. A SYN that comes again is answered again, beside what the
// server's own timer repeats.
func wantRepeated(t *testing.T, exits *wire.Exits, c *traffic.Conversation, most int) {
	t.Helper()
	questions := repetitions(exits.All(topology.All(c.Questions(), topology.Going(topology.Sent))))
	if len(questions) > most {
		t.Errorf("the client sent again: %s", wire.Describe(questions))
	}
	answers := repetitions(exits.All(topology.All(c.Answers(), topology.Going(topology.Received))))
	if len(answers) > most+len(questions) {
		t.Errorf("the server sent again: %s", wire.Describe(answers))
	}
}

// repetitions returns the segments of one direction all of which had been sent before. Those
// that two CPUs send at once may be captured in another order than they were sent in.
func repetitions(frames []*topology.Frame) (repeated []*topology.Frame) {
	sent := make(map[uint32]bool) // by sequence number
	for _, frame := range frames {
		tcp := frame.Packet().Layer(layers.LayerTypeTCP).(*layers.TCP)
		size := uint32(len(tcp.Payload))
		if tcp.SYN || tcp.FIN {
			size++
		}
		again := size > 0 // else it is an acknowledgement
		for i := range size {
			again = again && sent[tcp.Seq+i]
			sent[tcp.Seq+i] = true
		}
		if again {
			repeated = append(repeated, frame)
		}
	}
	return repeated
}

// testOwnMACChanges gives the server's eth1 another MAC under a connection. What is
// sent by it has the new one from the moment on that the kernel tells of it.
func testOwnMACChanges(t *testing.T, n *topology.TwoNIC) {
	eth1 := n.Server.Eth1
	// The router learns of it by itself.
	for _, key := range []string{"net/ipv4/conf/eth1/arp_notify", "net/ipv6/conf/eth1/ndisc_notify"} {
		await.Must(t, n.Server.SetSysctl(key, "1"))
	}
	pushes := make(map[topology.Family]*traffic.Push)
	for _, f := range traffic.Families {
		pushes[f] = traffic.NewPush(t, n.Client, n.Server.Host, eth1.Address(f), eth1.Address(f))
		pushes[f].Speak()
	}
	for _, mac := range []net.HardwareAddr{{2, 0xcc, 0, 0, 0, 1}, {2, 0xcc, 0, 0, 0, 2}, eth1.MAC} {
		changed := *eth1
		changed.MAC = mac
		await.Must(t, eth1.SetMAC(changed.MAC))
		by := exit{[]*topology.Interface{n.Server.Eth0, &changed}, &changed, eth1.Peer().MAC}
		for f, push := range pushes {
			await.Eventually(t, "frames have the new mac", func() error {
				exits := wire.TapAll(t, eth1)
				push.Speak()
				if len(exits.Left(eth1, topology.All(push.Segments, topology.FromMAC(changed.MAC)))) == 0 {
					return fmt.Errorf("captured:\n%s", exits)
				}
				return nil
			})
			exits := wire.TapAll(t, by.nics...)
			for range 10 {
				push.Speak()
			}
			by.want(exits, "what the server pushes", push.Segments)
			c := traffic.NewConversation(t, traffic.UDP, n.ClientEth0, eth1.Address(f))
			by.wantAnswers(t, c, c.Answers())
		}
	}
}
