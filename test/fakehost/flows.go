// SPDX-License-Identifier: Apache-2.0

package fakehost

import "replypath/loader/flows"

// FlowList has a flow of each kind.
func FlowList() []flows.Flow {
	return []flows.Flow{
		{
			Protocol: "tcp", Family: "ipv6", Peer: "2001:db8::7", PeerPort: 40000, Self: "2001:db8:4::100", SelfPort: 443,
			Interface: new("eth1"), State: flows.StateHalfOpen, AgeSeconds: 0.2,
		},
		{
			Protocol: "tcp", Family: "ipv4", Peer: "10.1.0.100", PeerPort: 50000, Self: "10.4.0.100", SelfPort: 5432,
			Interface: new("eth1"), NextHopMAC: new("02:00:00:00:00:04"), Gateway: new("10.4.0.1"),
			State: flows.StateEstablished, AgeSeconds: 3723.4, IdleSeconds: 1.1, CorrectedPackets: 1234, Asymmetric: true,
			KernelInterface: new("eth0"), Bytes: new(uint64(98765)),
		},
		{
			Protocol: "icmp", Family: "ipv4", Peer: "10.1.0.100", PeerPort: 77, Self: "10.4.0.100",
			State: flows.StateConnectionless, AgeSeconds: 10, IdleSeconds: 4,
		},
		{
			Protocol: "tcp", Family: "ipv4", Peer: "10.1.0.100", PeerPort: 50001, Self: "10.4.0.100", SelfPort: 5432,
			Interface: new("eth1"), NextHopMAC: new("02:00:00:00:00:04"), Gateway: new("10.4.0.1"),
			State: flows.StateEstablished, AgeSeconds: 63, IdleSeconds: 3, CorrectedPackets: 7, Asymmetric: true,
			Closing: true, Bytes: new(uint64(123456789)),
		},
	}
}
