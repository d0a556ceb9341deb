// SPDX-License-Identifier: Apache-2.0

package peers

import (
	"testing"

	"replypath/loader/config"
	"replypath/loader/doctor/snapshot"
	"replypath/loader/flows"
	"replypath/test/testhost"
)

// TestUnknownGateways: eth1 has no gateway of IPv4; its questions come from a MAC.
func TestUnknownGateways(t *testing.T) {
	const stranger = "02:00:00:00:07:09"
	through := func(state string) func(*snapshot.Host) {
		return func(h *snapshot.Host) {
			h.Gateways = h.Gateways[:1]
			for _, peer := range []string{"10.60.0.1", "10.60.0.2", "10.4.0.55"} {
				h.Flows = append(h.Flows, flows.Flow{Peer: peer, Interface: new("eth1"), NextHopMAC: new(stranger), State: state})
			}
		}
	}
	and := func(change func(*snapshot.Host)) func(*snapshot.Host) {
		return func(h *snapshot.Host) { through(flows.StateHalfOpen)(h); change(h) }
	}
	neighbour := func(address, mac string, isRouter bool) func(*snapshot.Host) {
		return and(func(h *snapshot.Host) {
			h.Neighbours = []snapshot.Neighbour{{Interface: testhost.Eth1, Address: testhost.Address(address), MAC: testhost.MAC(mac), Router: isRouter}}
		})
	}
	want := func(gateway string) []string {
		return []string{"warning eth1: 2 flows came from mac 02:00:00:00:07:09, which no neighbour has, and none was completed: " +
			"the router may take replies by another mac only (HSRP, VRRP) => set interfaces: [{name: eth0}, {name: eth1, gateways: [" +
			gateway + "]}] in /etc/replypath/replypath.yaml, then systemctl reload replypath"}
	}
	testhost.Check(t, UnknownGateways, []testhost.Wants{
		{"known gateways", nil, nil},
		{"a stranger", through(flows.StateHalfOpen), want("ADDRESS")},
		{"datagrams of a stranger", through(flows.StateConnectionless), want("ADDRESS")},
		{"a stranger that takes replies", through(flows.StateEstablished), nil},
		{"a neighbour", neighbour("10.4.0.9", stranger, false), nil},
		{"beside a virtual router", neighbour("10.4.0.1", "00:00:0c:07:ac:01", false), want("10.4.0.1")},
		{"beside a router", neighbour("10.4.0.1", "02:00:00:00:07:01", true), want("10.4.0.1")},
		{"beside another host", neighbour("10.4.0.1", "02:00:00:00:07:01", false), want("ADDRESS")},
		{"last hop", and(func(h *snapshot.Host) { h.Interfaces[1].Settings.NextHop = config.NextHopLastHop }), nil},
	})
}
