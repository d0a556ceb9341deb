// SPDX-License-Identifier: Apache-2.0

package nexthop

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"replypath/test/await"
)

// TestOneNeighbour: the state of one entry, and whether the kernel asks for others.
func TestOneNeighbour(t *testing.T) {
	p := newPair(t)
	ip(t, p.server, `
link add c1 up type veth peer name far1
neigh add 10.1.0.51 dev eth0 lladdr 02:00:00:00:09:09 nud stale
neigh add 2001:db8:1::51 dev eth0 lladdr 02:00:00:00:09:09 nud permanent
`)
	eth0, c1, gone := p.eth0.Index, await.Must1[netlink.Link](t)(p.server.Netlink().LinkByName("c1")).Attrs().Index, 9999
	await.Must(t, p.server.Do(func() error {
		for _, test := range []struct {
			device        int
			address, want string
		}{
			{eth0, "10.1.0.51", StateStale}, {eth0, "2001:db8:1::51", StatePermanent}, {eth0, "10.1.0.52", StateNone},
			{c1, "10.1.0.51", StateNone}, {gone, "10.1.0.51", StateNone},
		} {
			state := await.Must1[string](t)(StateNow(Gateway{Interface: test.device, Address: address(test.address)}))
			await.Same(t, fmt.Sprintf("state of %s on %d", test.address, test.device), test.want, state)
		}
		await.Must(t, Resolve(p.server.Netlink(), Gateway{Interface: eth0, Address: address("10.1.0.99")}))
		for _, test := range []struct {
			device int
			but    string
			want   bool
		}{{eth0, "0.0.0.0", true}, {eth0, "10.1.0.1", true}, {eth0, "10.1.0.99", false}, {eth0, "::", false}, {c1, "0.0.0.0", false}} {
			asked := await.Must1[bool](t)(Asked(test.device, address(test.but)))
			await.Same(t, fmt.Sprintf("asked on %d but for %s", test.device, test.but), test.want, asked)
		}
		return nil
	}))
}

// TestOneNeighbourOfMany: to look at one entry costs nothing for each of thousands of others.
func TestOneNeighbourOfMany(t *testing.T) {
	p := newPair(t)
	const others = 4000
	var batch strings.Builder
	for n := range others {
		fmt.Fprintf(&batch, "neigh add 10.1.%d.%d dev eth0 lladdr 02:00:00:00:09:09 nud permanent\n", 1+n/250, 1+n%250)
	}
	ip(t, p.server, batch.String())
	await.Must(t, p.server.Do(func() error {
		for what, look := range map[string]func() error{
			"its state": func() error {
				_, err := StateNow(Gateway{Interface: p.eth0.Index, Address: address("10.1.0.99")})
				return err
			},
			"whether others are asked": func() error { _, err := Asked(p.eth0.Index, netip.IPv4Unspecified()); return err },
		} {
			if allocations := testing.AllocsPerRun(1, func() { await.Must(t, look()) }); allocations > others/10 {
				t.Errorf("%s takes %.0f allocations beside %d entries", what, allocations, others)
			}
		}
		return nil
	}))
}
