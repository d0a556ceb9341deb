// SPDX-License-Identifier: Apache-2.0

package nexthop

import (
	"net"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"

	testawait "replypath/test/await"
)

// TestNewerMACStays: what the kernel has learnt meanwhile is not overridden with what was
// known before; where it knows nothing, it is.
func TestNewerMACStays(t *testing.T) {
	older, newer := net.HardwareAddr{2, 0, 0, 0, 9, 9}, net.HardwareAddr{2, 0, 0, 0, 0, 2}
	p := newPair(t)
	for _, gateway := range []string{"10.1.0.9", "2001:db8:1::9"} { // which nobody has
		ip(t, p.server, "route add default via "+gateway)
		known := func() Gateway {
			all := p.gateways(t)
			return all[slices.IndexFunc(all, func(g Gateway) bool { return g.Address == address(gateway) })]
		}
		before := known()
		for name, enter := range map[string]func(*netlink.Handle, Gateway, net.HardwareAddr) error{
			"probe": Probe, "put back": PutBack,
		} {
			for _, step := range []struct {
				prepare string
				want    net.HardwareAddr
			}{
				{"neigh flush dev eth0 nud all", older},
				{"neigh replace " + gateway + " dev eth0 nud reachable lladdr " + newer.String(), newer},
			} {
				ip(t, p.server, step.prepare)
				testawait.Must(t, enter(p.server.Netlink(), before, older))
				if now := known(); !slices.Equal(now.MAC, step.want) {
					t.Errorf("%s %s after %s: it is at %s, want %s", gateway, name, step.prepare, now.MAC, step.want)
				}
			}
		}
	}
}
