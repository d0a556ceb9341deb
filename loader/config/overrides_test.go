// SPDX-License-Identifier: Apache-2.0

package config

import "testing"

func TestOverrides(t *testing.T) {
	const file = `
interfaces:
- {name: "eth*", mode: enforce, next_hop: last-hop}
- {name: eth1, next_hop: gateway}
metrics: {listen: ":1"}
`
	listen := ""
	config := mustParse(t, file)
	overrides := Overrides{Interfaces: []string{"eth1", "eth2", "ens3", "eth1"}, Observe: true, Listen: &listen}
	if err := overrides.Apply(config); err != nil {
		t.Fatal(err)
	}
	want := mustParse(t, file)
	want.Interfaces = []Interface{
		{Name: "eth1", NextHop: NextHopGateway},
		{Name: "eth2", NextHop: NextHopLastHop},
		{Name: "ens3", NextHop: NextHopAuto},
	}
	want.Mode = ModeObserve
	want.Metrics.Listen = ""
	want.Flags = overrides
	if diff := compare(want, config); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}
