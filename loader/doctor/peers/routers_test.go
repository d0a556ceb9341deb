// SPDX-License-Identifier: Apache-2.0

package peers

import (
	"testing"

	"replypath/loader/config"
	"replypath/loader/doctor/finding"
	"replypath/loader/doctor/snapshot"
	"replypath/loader/nexthop"
	"replypath/test/testhost"
)

func TestUnnamedRouters(t *testing.T) {
	and := func(change func(*snapshot.Host)) func(*snapshot.Host) {
		return func(h *snapshot.Host) {
			testhost.ThroughUnnamed(h)
			h.Interfaces[1].Settings.NextHop = config.NextHopGateway
			change(h)
		}
	}
	testhost.Check(t, UnnamedRouters, []testhost.Wants{
		{"no flows", nil, nil},
		{"auto: replies go through it", testhost.ThroughUnnamed, nil},
		{"a gateway that takes everything as well", and(func(h *snapshot.Host) {
			g := h.Gateways[1]
			g.Address, g.Reach4 = testhost.Address("10.4.0.253"), nexthop.Reach{Everything: true}
			h.Gateways = append(h.Gateways, g)
		}), nil},
		{"through a known gateway", and(func(h *snapshot.Host) {
			for n := range h.Flows {
				h.Flows[n].Gateway = new("10.4.0.254")
			}
		}), nil},
		{"last hop", and(func(h *snapshot.Host) { h.Interfaces[1].Settings.NextHop = config.NextHopLastHop }), nil},
		{"gateway", and(func(h *snapshot.Host) {
			for n := range h.Flows {
				h.Flows[n].NextHopMAC = nil
			}
		}), []string{"warning eth1: no gateway that a route names leads to 10.4.0.55, 10.60.0.1, 10.60.0.2: with next_hop gateway the kernel routes their replies" +
			" => set interfaces: [{name: eth0}, {name: eth1, next_hop: auto}] in /etc/replypath/replypath.yaml, then systemctl reload replypath"}},
	})
}

// TestSilentGatewayElsewhere: one that is nobody's but of a few networks is no error.
func TestSilentGatewayElsewhere(t *testing.T) {
	h := testhost.New()
	testhost.ThroughUnnamed(h)
	h.Gateways = h.Gateways[1:]
	h.Gateways[0].State = nexthop.StateFailed
	found := SilentGateways(h)
	const want = "gateway 10.4.0.254 does not answer arp: it is failed, and leads to 10.50.0.0/16 only"
	if len(found) != 1 || found[0].Severity != finding.Warning || found[0].Found != want || found[0].Fix != nil || found[0].Inspect == nil {
		t.Errorf("%+v", found)
	}
}
