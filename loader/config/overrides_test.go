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

func TestInvalidOverrides(t *testing.T) {
	listen := "9945"
	for want, overrides := range map[string]Overrides{
		`--interface: "eth0:1" is an address label, not an interface: use "eth0"`:                                            {Interfaces: []string{"eth0:1"}},
		`--listen: "9945" is not an address and a port: use one such as 127.0.0.1:9945, [::1]:9945 or :9945, or "" for none`: {Listen: &listen},
	} {
		err := overrides.Apply(Default())
		if err == nil || err.Error() != want {
			t.Errorf("got %v\nwant %s", err, want)
			continue
		}
		checkError(t, err)
	}
}
