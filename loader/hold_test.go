package loader

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"

	"replypath/bpf"
	"replypath/loader/pins"
	"replypath/test/topology"
)

// absentRouters are addresses of eth0's networks that nobody has.
var absentRouters = map[topology.Family]netip.Addr{
	topology.IPv4: netip.MustParseAddr("10.3.0.77"), topology.IPv6: netip.MustParseAddr("2001:db8:3::77"),
}

// holdAbsent has the default route of a family lead by a router that is not there, and awaits that
// it is held.
func (b *bed) holdAbsent(eth0 *topology.Interface, f topology.Family) {
	b.Helper()
	b.setNeighbour(eth0.Index, absentRouters[f], net.HardwareAddr{2, 0, 0, 9, 9, 1}, netlink.NUD_REACHABLE)
	b.ip(fmt.Sprintf("route replace default via %s dev eth0\n", absentRouters[f]))
	b.awaitKnown(eth0, absentRouters[f])
	b.setNeighbour(eth0.Index, absentRouters[f], nil, netlink.NUD_FAILED)
	b.awaitHeld(f, true)
}

func (b *bed) awaitHeld(f topology.Family, want bool) {
	b.Helper()
	eventually(b.T, fmt.Sprintf("%s is held: %t", absentRouters[f], want), func() bool {
		return slices.ContainsFunc(b.journal().Gateways, func(r pins.GatewayRecord) bool {
			return r.Address == absentRouters[f].String() && r.Held == want
		})
	})
}

// heldKeys are those of a family in the map `held_gateways`.
func (b *bed) heldKeys(f topology.Family) (found []bpf.DatapathGatewayMac) {
	b.Helper()
	var (
		key   bpf.DatapathGatewayMac
		until uint32
	)
	entries := b.maps().HeldGateways.Iterate()
	for entries.Next(&key, &until) {
		if key.Family == uint8(f) {
			found = append(found, key)
		}
	}
	must(b.T, entries.Err())
	return found
}

// TestHeldGatewayTakesANewMAC: nothing is left in the map of a gateway that answers by another MAC.
func TestHeldGatewayTakesANewMAC(t *testing.T) {
	s := newS1(t, topology.S1Options{})
	b := newBed(t, s.B.Host)
	b.start(nil)
	for _, f := range s.Families() {
		b.holdAbsent(s.B.Eth0, f)
		during := len(b.heldKeys(f))
		b.setNeighbour(s.B.Eth0.Index, absentRouters[f], net.HardwareAddr{2, 0, 0, 9, 9, 2}, netlink.NUD_REACHABLE)
		b.awaitHeld(f, false)
		left := b.heldKeys(f)
		t.Logf("%s: %d keys while it is held, %d afterwards", f, during, len(left))
		if during != 1 || len(left) > 0 {
			t.Errorf("%s: left are %v", f, left)
		}
	}
}
