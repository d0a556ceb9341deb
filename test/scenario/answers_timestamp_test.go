// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"replypath/test/harness"
	"replypath/test/topology"
)

// TestTimestamp has the client ask the server's eth1 for the time (ICMP timestamp, RFC 792): the answer
// leaves by eth1, as one to a ping, and arrives.
func TestTimestamp(t *testing.T) {
	n := harness.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.StrictSource, NoIPv6: true})
	injector := harness.NewInjector(t, n.ClientEth0)
	from, to := n.ClientEth0.Address(topology.IPv4), n.Server.Eth1.Address(topology.IPv4)
	answer := topology.All(icmpOf(topology.IPv4, kind{14, 0}), topology.From(to), topology.To(from))
	ask := func() (*harness.Wires, *topology.Capture) {
		wires, arrived := harness.Tap(t, n.Server), harness.Capture(t, n.ClientEth0)
		ethernet, ip := ipHeaders(n.ClientEth0.MAC, n.ClientEth0.Peer().MAC, from, to, layers.IPProtocolICMPv4)
		request := &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(layers.ICMPv4TypeTimestampRequest, 0), Id: 77, Seq: 1}
		injector.Send(ethernet, ip, request, gopacket.Payload(make([]byte, 12)))
		return wires, arrived
	}
	wires, _ := ask()
	if _, err := wires.Eth0.Wait(harness.Within(t, harness.AnswerTime), answer); err != nil {
		t.Fatalf("without replypath no answer left by eth0: %v", err)
	}

	p := harness.On(t, n.Server.Host)
	p.Start()
	wires, arrived := ask()
	if _, err := arrived.Wait(harness.Within(t, harness.AnswerTime), answer); err != nil {
		t.Errorf("no answer arrived: %v", err)
	}
	wires.WantEth1("the answer", answer)
	flows := p.Flows("--peer", from.String())
	if len(flows) != 1 || flows[0].Protocol != "icmp" {
		t.Errorf("the flows are %v", flows)
	}
}
