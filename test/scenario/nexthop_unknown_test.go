// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"strings"
	"testing"

	"github.com/gopacket/gopacket/layers"

	"replypath/test/harness"
	"replypath/test/topology"
)

// TestColdNeighbour has the server lose the MAC of one of its gateways, or of both,
// and a client ask eth1 that very moment. The answer leaves by eth1, and it costs a
// retransmission at most, also where routers check sources: they do not answer an
// ARP request that has the address of the other NIC for its source, which is what
// the kernel sends for the first answer.
func TestColdNeighbour(t *testing.T) {
	for _, policy := range []topology.Policy{topology.AnySource, topology.StrictSource} {
		t.Run(policy.String(), func(t *testing.T) {
			n := harness.NewTwoNIC(t, topology.TwoNICOptions{Policy: policy, Eth1Metric: 5000})
			harness.On(t, n.Server.Host).Start()
			eth0, eth1 := n.Server.Eth0, n.Server.Eth1
			for name, loss := range losses {
				for _, f := range harness.Families {
					loseAndAsk(t, n, f, name, loss, eth0)
					loseAndAsk(t, n, f, name, loss, eth1)
					loseAndAsk(t, n, f, name, loss, eth0, eth1)
				}
			}
		})
	}
}

// TestColdGateway has the server lose the only next hop that it may use, that of eth1: what it sends until
// it is known again goes as routed, which costs a retransmission at most.
func TestColdGateway(t *testing.T) {
	n := harness.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.StrictSource, Eth1Metric: 5000})
	harness.On(t, n.Server.Host).Start("--config", harness.WriteConfig(t, "interfaces: [{name: 'eth*', next_hop: gateway}]\n"))
	for name, loss := range losses {
		for _, f := range harness.Families {
			t.Run(name+"/"+f.String(), func(t *testing.T) {
				eth1 := n.Server.Eth1
				harness.Must(t, eth1.Resolve(harness.Within(t, harness.AnswerTime), eth1.Gateway(f)))
				harness.Shell(t, n.Server.Host, fmt.Sprintf(loss, eth1.Gateway(f), eth1.Name))
				exits := harness.TapAll(t, n.Server.Eth0, eth1)
				c := harness.NewConversation(t, harness.TCP, n.ClientEth0, eth1.Address(f))
				harness.Ask(t, c)
				wantRepeated(t, exits, c, 1)
			})
		}
	}
}

// losses are how the kernel comes to know a MAC no more, as commands.
var losses = map[string]string{
	"cold":   "ip neighbour del %s dev %s",
	"failed": "ip neighbour change %s dev %s nud failed",
	"stale":  "ip neighbour change %s dev %s nud stale",
}

// loseAndAsk has the gateways of some NICs lost, one of the losses, and asks eth1.
func loseAndAsk(t *testing.T, n *topology.TwoNIC, f topology.Family, name, loss string, nics ...*topology.Interface) {
	for _, nic := range []*topology.Interface{n.Server.Eth0, n.Server.Eth1} {
		harness.Must(t, nic.Resolve(harness.Within(t, harness.AnswerTime), nic.Gateway(f)))
	}
	var script, names []string
	for _, nic := range nics {
		script = append(script, fmt.Sprintf(loss, nic.Gateway(f), nic.Name))
		names = append(names, nic.Name)
	}
	t.Run(fmt.Sprintf("%s %s/%s", name, strings.Join(names, " and "), f), func(t *testing.T) {
		harness.Shell(t, n.Server.Host, strings.Join(script, "\n"))
		askOnceMore(t, n, f)
	})
}

// askOnceMore has the client open a connection to eth1 and wants it answered by
// eth1, with one segment sent twice at most.
func askOnceMore(t *testing.T, n *topology.TwoNIC, f topology.Family) {
	t.Helper()
	exits := harness.TapAll(t, n.Server.Eth0, n.Server.Eth1)
	c := harness.NewConversation(t, harness.TCP, n.ClientEth0, n.Server.Eth1.Address(f))
	harness.Ask(t, c)
	exits.Want(c.String(), c.Answers(), n.Server.Eth1, n.Server.Eth1.Peer().MAC)
	wantRepeated(t, exits, c, 1)
}

// wantRepeated wants no more segments than so many to have been sent once more by either
// end: of the client's those that came to the server, of the server's those that left it.
func wantRepeated(t *testing.T, exits *harness.Exits, c *harness.Conversation, most int) {
	t.Helper()
	for end, segments := range map[string]topology.Filter{
		"the client": topology.All(c.Questions(), topology.Going(topology.Sent)),
		"the server": topology.All(c.Answers(), topology.Going(topology.Received)),
	} {
		if repeated := repetitions(exits.All(segments)); len(repeated) > most {
			t.Errorf("%s sent again: %s", end, harness.Describe(repeated))
		}
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

// TestDeafGateway has eth1's gateway answer no request for its MAC any more, so
// that the kernel's entry is incomplete and then failed; by IPv6 only that, as eth0's gateway is another one, which the
// kernel is not kept from. Answers go on to where the questions come from, at once.
func TestDeafGateway(t *testing.T) {
	n := harness.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.StrictSource, Eth1Metric: 5000})
	p := harness.On(t, n.Server.Host)
	p.Start()
	// It fails soon; by IPv4 it is incomplete for long enough to be seen, three times as long as the kernel asks apart.
	for key, value := range map[string]string{
		"ipv4/neigh/eth1/retrans_time_ms": "500", "ipv4/neigh/eth1/delay_first_probe_time": "1", "ipv6/neigh/eth1/retrans_time_ms": "100",
	} {
		harness.Must(t, n.Server.SetSysctl("net/"+key, value))
	}
	for _, f := range harness.Families {
		askOnceMore(t, n, f)
	}
	// Entries that the router has do not have to be resolved again meanwhile.
	for _, f := range harness.Families {
		harness.Must(t, n.Server.Eth1.Peer().AddNeighbour(n.Server.Eth1.Address(f), n.Server.Eth1.MAC))
	}
	harness.Nft(t, n.Replication.Host, `
		table arp deaf {
			chain input { type filter hook input priority filter; policy drop; }
		}
		table ip6 deaf {
			chain input { type filter hook input priority filter
				icmpv6 type nd-neighbor-solicit drop
			}
		}`)
	for _, f := range harness.Families {
		harness.Shell(t, n.Server.Host, fmt.Sprintf("ip neighbour del %s dev eth1", n.Server.Eth1.Gateway(f)))
		states := []string{"incomplete", "failed"}
		if f == topology.IPv6 {
			states = states[1:]
		}
		for _, state := range states {
			harness.Eventually(t, "the gateway is "+state, func() error {
				for _, g := range p.Status().Interface("eth1").Gateways {
					if g.Address == n.Server.Eth1.Gateway(f).String() && g.State != state {
						return fmt.Errorf("%s is %s", g.Address, g.State)
					}
				}
				return nil
			})
			for _, kind := range harness.Kinds {
				c := harness.NewConversation(t, kind, n.ClientEth0, n.Server.Eth1.Address(f))
				nics := []*topology.Interface{n.Server.Eth0, n.Server.Eth1}
				exits := harness.TapAll(t, nics...)
				exit{nics, n.Server.Eth1, n.Server.Eth1.Peer().MAC}.wantAnswers(t, c, c.Answers())
				if kind == harness.TCP { // which probes after a few milliseconds without an answer
					wantRepeated(t, exits, c, 1)
				}
			}
		}
	}
}
