// SPDX-License-Identifier: Apache-2.0

package discover

import (
	"testing"

	"replypath/loader/config"
	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/topology"
	"replypath/test/traffic"
)

// TestAstray: the default route that everybody takes counts, whatever leads elsewhere for a few.
func TestAstray(t *testing.T) {
	const (
		links = `
link add eth0 type veth peer name far0
link add eth1 type veth peer name far1
link set eth0 up
link set eth1 up
link set far0 up
link set far1 up
addr add 10.3.0.100/24 dev eth0
addr add 10.4.0.100/24 dev eth1
addr add 2001:db8:3::100/64 dev eth0 nodad
addr add 2001:db8:4::100/64 dev eth1 nodad
`
		left  = ", which is not managed (not named by the configuration): no reply is moved away from there, and no flow that arrives by it is recorded"
		ipv4  = "ipv4: the default route leads by eth0" + left
		ipv6  = "ipv6: the default route leads by eth0" + left
		both  = "route add default via 10.3.0.1\nroute add default via 2001:db8:3::1 dev eth0\n"
		ours  = "route add default via 10.4.0.1 metric 5\nroute add default via 2001:db8:4::1 dev eth1 metric 5\n"
		rules = "rule add from 10.4.0.100 lookup 100 priority 10\nroute add default via 10.4.0.1 table 100\n"
	)
	eth1 := []config.Interface{{Name: "eth1"}}
	for _, test := range []struct {
		name, batch string
		managed     []config.Interface // nil: all
		want        []string
	}{
		{"all are managed", both, nil, nil},
		{"one is named", both, eth1, []string{ipv4, ipv6}},
		{"a better one by what is named", ours + "route add default via 10.3.0.1 metric 6\n", eth1, nil},
		{"a worse one by what is named", "route add default via 10.3.0.1 metric 4\n" + ours, eth1, []string{ipv4}},
		{"no default route", "", eth1, nil},
		{"it refuses", "route add unreachable default metric 1\nroute add default via 10.3.0.1 metric 9\n", eth1, nil},
		{"one for some sources leads right", both + rules, eth1, []string{ipv4, ipv6}},
		{"it is in an earlier table", ours + "rule add lookup 100 priority 10\nroute add default via 10.3.0.1 table 100\n", eth1, []string{ipv4}},
		{"one hop of several", "route add default nexthop via 10.3.0.1 nexthop via 10.4.0.1\n", eth1, []string{ipv4}},
		{"replypath's own", "route add default dev eth0 proto 114\n", eth1, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			h := traffic.NewHost(t)
			host.IPBatch(t, h, links+test.batch)
			r := scan(t, h, named(test.managed...))
			await.Same(t, "default routes astray", test.want, astray(t, h, &r))
			for i := range r.Interfaces {
				r.Interfaces[i].VRF = 7 // which not every kernel has
			}
			if got := astray(t, h, &r); got != nil {
				t.Errorf("in a vrf, which another table routes: %q", got)
			}
		})
	}
}

func astray(t *testing.T, h *topology.Host, r *Result) (lines []string) {
	t.Helper()
	await.Must(t, h.Do(func() error {
		found, err := r.Astray(h.Netlink())
		for n := range found {
			lines = append(lines, found[n].String())
		}
		return err
	}))
	return lines
}
