// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"testing"

	"replypath/bpf"
)

func gate(via nic, frame []byte) run {
	return run{program: bpf.DatapathProgReplypathGate, via: via, frame: frame}
}

// TestGateStops: a datagram that the host sends by a socket that is not connected, as that of a test run is.
func TestGateStops(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		want := effect{events: n.dropped()}
		want.drop = b.Features.ProbeRead
		if !want.drop {
			want.events = nil // whether it is to be translated back is not known
		}
		datagrams := map[string]message{"udp": udp{payload: 30}, "empty udp": udp{}, "large udp": udp{payload: 1400}}
		stopped := 0
		for name, m := range datagrams {
			t.Run(name, func(t *testing.T) {
				b.t = t
				b.run(gate(b.production, n.out(b.production, m)), want)
				if want.drop && !t.Failed() {
					stopped++
				}
			})
		}
		t.Logf("%d datagrams of a socket that is not connected, %d stopped; the kernel has probe_read: %t",
			len(datagrams), stopped, b.Features.ProbeRead)
	})
}

// TestGateLetsBy: what is answered behind it, what somebody has asked for, and what is not understood.
func TestGateLetsBy(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		for name, m := range map[string]message{
			"syn": tcp{flags: "S"}, "segment": tcp{flags: "PA", payload: 10}, "echo request": echo{}, "echo reply": echo{reply: true},
			"sctp": sctp{payload: 20}, "too short for udp": raw{17, filler(7)},
		} {
			t.Run(name, func(t *testing.T) {
				b.t = t
				b.run(gate(b.production, n.out(b.production, m)), nothing)
			})
		}
		t.Run("another version", func(t *testing.T) {
			b.t = t
			b.run(gate(b.production, anotherVersion(n.out(b.production, udp{}))), nothing)
		})
	})
}

// TestGateKnowsFlows: an answer is no beginning.
func TestGateKnowsFlows(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		b.put(connectionlessFlow(b.flow(n, udp{}, b.replication, 1)))
		b.run(gate(b.production, n.out(b.production, udp{payload: 30})), nothing)
		b.put(connectionlessFlow(b.flow(n, udp{}, b.replication, 3600)))
		b.run(gate(b.production, n.out(b.production, udp{payload: 30})), effect{drop: b.Features.ProbeRead, events: n.dropped()})
	})
}

// TestGateForwards: what connection tracking knows nothing of passes. It never knows what a test run sends: TestMasqueraded
// and TestStrongHostFaultOfEth0 show what becomes of the rest.
func TestGateForwards(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		for name, m := range map[string]message{
			"udp": udp{payload: 30}, "syn": tcp{flags: "S"}, "segment": tcp{flags: "PA", payload: 10}, "echo request": echo{},
		} {
			t.Run(name, func(t *testing.T) {
				b.t = t
				r := gate(b.production, n.out(b.production, m))
				r.ingress = b.replication
				b.run(r, nothing)
			})
		}
	})
}
