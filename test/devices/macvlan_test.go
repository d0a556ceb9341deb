// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"testing"

	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
)

// TestKinds has the server asked by a macvlan device, and by a bridge that has the NIC for a port.
func TestKinds(t *testing.T) {
	for _, device := range []topology.Device{topology.MacvlanDevice, topology.BridgeDevice} {
		t.Run(device.String(), func(t *testing.T) {
			n := traffic.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.StrictSource, Eth1: device})
			wantAllLost(t, n, n.Server)
			p := product.On(t, n.Server.Host)
			// A bridge whose ports are all veth is a container engine's, unless it is named.
			p.Start("--interface", "eth0", "--interface", "eth1")
			wantAllByEth1(t, n, n.Server)
			if i := p.Status().Interface("eth1"); i == nil || len(p.Status().Interfaces) != 2 {
				t.Errorf("managed: %+v", p.Status().Interfaces)
			}
		})
	}
}
