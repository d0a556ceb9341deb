// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"encoding/json"
	"testing"
	"time"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// sent returns how many packets the root qdisc of an interface has sent.
func sent(t *testing.T, i *topology.Interface) int {
	t.Helper()
	var qdiscs []struct {
		Root    bool
		Packets int
	}
	await.Must(t, json.Unmarshal([]byte(host.Shell(t, i.Host, "tc -s -j qdisc show dev "+i.Name)), &qdiscs))
	for _, q := range qdiscs {
		if q.Root {
			return q.Packets
		}
	}
	t.Fatalf("no root qdisc on %s", i.Name)
	return 0
}

// shapings are qdiscs for the flow's interface, each with the rate in bits a second that the echo server's answers get.
var shapings = []struct {
	name     string
	commands []string
	rate     float64
}{
	{"tbf", []string{"qdisc add dev eth1 root handle 1: tbf rate 20mbit burst 32kb latency 50ms"}, 20e6},
	{"htb", []string{
		"qdisc add dev eth1 root handle 1: htb default 1",
		"class add dev eth1 parent 1: classid 1:1 htb rate 100mbit",
		"class add dev eth1 parent 1: classid 1:2 htb rate 10mbit burst 32kb cburst 32kb",
		"filter add dev eth1 parent 1: protocol ip u32 match ip sport 7 0xffff flowid 1:2",
		"filter add dev eth1 parent 1: protocol ipv6 u32 match ip6 sport 7 0xffff flowid 1:2",
	}, 10e6},
}

// TestShaping limits both interfaces: what is moved to eth1 has the rate of its
// qdisc there, not that of eth0's, and is counted by it once.
func TestShaping(t *testing.T) {
	for _, shaping := range shapings {
		t.Run(shaping.name, func(t *testing.T) {
			n := traffic.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.StrictSource, Offloads: topology.WireExact})
			host.Shell(t, n.Server.Host, "tc qdisc add dev eth0 root handle 1: tbf rate 500kbit burst 16kb latency 50ms")
			for _, command := range shaping.commands {
				host.Shell(t, n.Server.Host, "tc "+command)
			}
			p := product.On(t, n.Server.Host)
			p.Start()
			for _, f := range n.Families() {
				c := traffic.NewConversation(t, traffic.TCP, n.ClientEth0, n.Server.Eth1.Address(f))
				wantShaped(t, n.Server, c, shaping.rate)
			}
		})
	}
}

// wantShaped has a server answer with a megabyte and wants it to take the time that the rate of eth1 demands.
func wantShaped(t *testing.T, server *topology.Server, c *traffic.Conversation, rate float64) {
	t.Helper()
	// A bucket may be full at the beginning. htb overdraws its by a packet, which TCP makes of up to 64 KiB: it is cut
	// into segments behind the qdisc, each with its headers. By eth0 it would take 16 s.
	const (
		size  = 1_000_000
		burst = 32<<10 + 69<<10
		most  = 12 * time.Second
	)
	wires := wire.Tap(t, server)
	byEth0, byEth1 := sent(t, server.Eth0), sent(t, server.Eth1)
	begun := time.Now()
	await.Must(t, c.AskFor(await.Within(t, 2*most), size))
	took := time.Since(begun)
	byEth0, byEth1 = sent(t, server.Eth0)-byEth0, sent(t, server.Eth1)-byEth1

	answers := wire.Bytes(wires.WantEth1(c.String(), c.Answers()))
	least := time.Duration(float64(answers-burst) * 8 / rate * float64(time.Second))
	t.Logf("%s: %d bytes at %.0f Mbit/s took %s, at least %s", c, size, rate/1e6, took, least)
	if took < least || took > most {
		t.Errorf("%d bytes took %s; at %.0f Mbit/s they take %s", size, took, rate/1e6, least)
	}
	_, frames := wires.Left(topology.Any)
	// What leaves between the looks is neighbour discovery at most.
	const others = 10
	if byEth1 < len(frames)-others || byEth1 > len(frames)+others {
		t.Errorf("eth1's qdisc counts %d packets, and %d frames left", byEth1, len(frames))
	}
	if byEth0 > others {
		t.Errorf("eth0's qdisc counts %d packets", byEth0)
	}
}
