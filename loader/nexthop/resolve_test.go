// SPDX-License-Identifier: Apache-2.0

package nexthop

import (
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"

	testawait "replypath/test/await"
)

// families names the router's address and one that nobody has yet.
var families = []struct{ name, router, free string }{
	{"ipv4", "10.1.0.1", "10.1.0.9"},
	{"ipv6", "2001:db8:1::1", "2001:db8:1::9"},
}

// resolving is a pair whose gateway is looked for, the only one of its family.
type resolving struct {
	*pair
	t       *testing.T
	address netip.Addr
	before  Gateway
	events  <-chan Event
}

// inEach asks with a gateway of each family: the router, or an address that nobody has. The kernel gives up on a neighbour
// after a fraction of a second.
func inEach(t *testing.T, free bool, entry string, ask func(r *resolving)) {
	t.Helper()
	p := newPair(t)
	for _, f := range families {
		directory := "net/" + f.name + "/neigh/eth0/"
		sysctl(t, p.server, directory+"retrans_time_ms=50", directory+"delay_first_probe_time=0")
	}
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			gateway := f.router
			if free {
				gateway = f.free
			}
			ip(t, p.server, "neigh flush dev eth0")
			if entry != "" {
				ip(t, p.server, "neigh replace "+gateway+" dev eth0 "+entry)
			}
			ip(t, p.server, "route add default via "+gateway)
			r := &resolving{pair: p, t: t, address: address(gateway), events: p.watch(t)}
			r.before = r.gateway()
			ask(r)
		})
	}
}

// gateway returns the gateway as it is now.
func (r *resolving) gateway() Gateway {
	r.t.Helper()
	all := r.gateways(r.t)
	i := slices.IndexFunc(all, func(g Gateway) bool { return g.Address == r.address })
	if i < 0 {
		r.t.Fatalf("%s is no gateway: %+v", r.address, all)
	}
	return all[i]
}

var oldMAC = net.HardwareAddr{2, 0, 0, 0, 9, 9}

// TestNewerMACStays: what the kernel has learnt meanwhile is not overridden with what was
// known before; where it knows nothing, it is.
func TestNewerMACStays(t *testing.T) {
	newer := net.HardwareAddr{2, 0, 0, 0, 0, 2}
	inEach(t, true, "", func(r *resolving) {
		for name, enter := range map[string]func(*netlink.Handle, Gateway, net.HardwareAddr) error{
			"probe": Probe, "put back": PutBack,
		} {
			for _, step := range []struct {
				prepare string
				want    net.HardwareAddr
			}{
				{"neigh flush dev eth0 nud all", oldMAC},
				{"neigh replace " + r.address.String() + " dev eth0 nud reachable lladdr " + newer.String(), newer},
			} {
				ip(r.t, r.server, step.prepare)
				testawait.Must(r.t, enter(r.server.Netlink(), r.before, oldMAC))
				if now := r.gateway(); !slices.Equal(now.MAC, step.want) {
					r.t.Errorf("%s after %s: it is at %s, want %s", name, step.prepare, now.MAC, step.want)
				}
			}
		}
	})
}
