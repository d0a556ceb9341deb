// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"net"
	"testing"

	"replypath/test/harness"
	"replypath/test/topology"
)

// push is a connection to the server's eth1 in which only the server speaks.
type push struct {
	*harness.Push
	t       *testing.T
	capture *topology.Capture
}

func newPush(t *testing.T, n *topology.TwoNIC, f topology.Family) *push {
	t.Helper()
	capture, address := harness.Capture(t, n.Server.Eth1.Peer()), n.Server.Eth1.Address(f)
	return &push{harness.NewPush(t, n.Client, n.Server.Host, address, address), t, capture}
}

// lastMAC returns where the last message was sent.
func (p *push) lastMAC() net.HardwareAddr {
	p.t.Helper()
	// With data: an acknowledgement may be older than what is looked at.
	frames := p.capture.Frames(topology.All(p.Segments, topology.Flags(topology.PSH, topology.PSH)))
	if len(frames) == 0 {
		p.t.Fatal("nothing was sent by eth1")
	}
	return frames[len(frames)-1].DestinationMAC
}
