// SPDX-License-Identifier: Apache-2.0

package view

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"replypath/loader/attach"
	"replypath/loader/counters"
	"replypath/metrics"
	"replypath/test/await"
)

// halfAttached lacks the egress program of one interface.
type halfAttached struct {
	attach.Means // whose other methods nobody calls

	lacking string
}

func (h halfAttached) Attached(i attach.Interface, d attach.Direction) (attach.Mechanism, bool, error) {
	return attach.TCX, i.Name != h.lacking || d != attach.Egress, nil
}

// TestLacking: an interface that lacks one program is named, one that does not exist is told apart from it, and why a configuration
// is not in force is said.
func TestLacking(t *testing.T) {
	p := &Published{Attacher: func() attach.Means { return halfAttached{lacking: "eth1"} }}
	p.Publish(&View{
		Interfaces: []Interface{{Interface: attach.Interface{Index: 2, Name: "eth0"}}, {Interface: attach.Interface{Index: 3, Name: "eth1"}}},
		Missing:    []string{"eth2"},
		Refused:    "line 3: no such key",
	})
	lines, err := p.Lacking()
	await.Must(t, err)
	want := []string{"not attached: eth1, eth2 (no such interface)", "a later configuration was refused: the one before stays: line 3: no such key"}
	await.Same(t, "lacking", want, lines)
}

// TestShown: a gateway is shown once, however it is written, and what is missing as such. What others have not changed yet is 0.
func TestShown(t *testing.T) {
	var s metrics.Samples
	addHost(&s, &View{
		Repairs: map[string]uint64{"route": 2},
		Gateways: []Gateway{
			{"eth0", netip.MustParseAddr("10.0.0.1"), true},
			{"eth0", netip.MustParseAddr("::ffff:10.0.0.1"), false},
			{"eth0", netip.MustParseAddr("fe80::1%eth0"), false},
		},
	}, "observe")
	s = slices.DeleteFunc(s, func(s metrics.Sample) bool { return s.Of == counters.RPFilterDrops }) // the machine's
	addInterfaces(&s, []shown{
		{Interface: Interface{Interface: attach.Interface{Name: "none such"}, Up: true}, hooks: counters.Hooks{{Name: "ingress", Mechanism: "tcx", Attached: true}}},
		{Interface: Interface{Interface: attach.Interface{Name: "gone"}}, hooks: counters.MissingHooks(), isMissing: true},
	})
	var got []string
	for _, sample := range s {
		got = append(got, fmt.Sprint(sample.Of.Name, sample.Labels, sample.Value))
	}
	slices.Sort(got)
	await.Same(t, "shown", []string{
		"replypath_gateway_reachable[eth0 ipv4 10.0.0.1] 1",
		"replypath_gateway_reachable[eth0 ipv6 fe80::1] 0",
		"replypath_host_repairs_total[neighbour] 0",
		"replypath_host_repairs_total[program] 0",
		"replypath_host_repairs_total[route] 2",
		"replypath_host_repairs_total[sysctl] 0",
		"replypath_interface_attached[gone egress none] 0",
		"replypath_interface_attached[gone ingress none] 0",
		"replypath_interface_attached[none such ingress tcx] 1",
		"replypath_interface_up[gone] 0",
		"replypath_interface_up[none such] 1",
		"replypath_mode[enforce] 0",
		"replypath_mode[observe] 1",
	}, got)
}
