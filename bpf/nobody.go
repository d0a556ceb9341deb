// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"bytes"
	"net"
)

// MACs that nobody has: locally administered, and the same on every host. No frame leaves with one of them where the
// programs are attached: the kernel's question for SilentGateway goes to everybody (src/outage.h).
var (
	// SilentGateway stands for that of a gateway that has never answered.
	SilentGateway = net.HardwareAddr{0x02, 0x72, 0x65, 0x70, 0x6c, 0x79}
	// AnyPeer is that of a next hop that stands for all peers of an interface of which no gateway is known.
	AnyPeer = net.HardwareAddr{0x02, 0x72, 0x65, 0x70, 0x6c, 0x7a}
)

// IsNobody tells whether a MAC is one of them.
func IsNobody(mac net.HardwareAddr) bool {
	return bytes.Equal(mac, SilentGateway) || bytes.Equal(mac, AnyPeer)
}
