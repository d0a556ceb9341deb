// SPDX-License-Identifier: Apache-2.0

package opened

import (
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"

	"replypath/test/testhost"
)

// TestTunnelsUseARule: a tunnel sends from an address without a socket.
func TestTunnelsUseARule(t *testing.T) {
	ours, others, peer := net.IPv4(10, 4, 0, 100), net.IPv4(10, 3, 0, 100), net.IPv4(192, 0, 2, 1)
	for name, test := range map[string]struct {
		link netlink.Link
		want int
	}{
		"gre":               {&netlink.Gretun{Local: ours, Remote: peer}, 1},
		"gretap":            {&netlink.Gretap{Local: ours, Remote: peer}, 1},
		"ipip":              {&netlink.Iptun{Local: ours, Remote: peer}, 1},
		"sit":               {&netlink.Sittun{Local: ours, Remote: peer}, 1},
		"vti":               {&netlink.Vti{Local: ours, Remote: peer}, 1},
		"vxlan":             {&netlink.Vxlan{SrcAddr: ours, Group: peer}, 1},
		"ip6tnl":            {&netlink.Ip6tnl{Local: net.ParseIP("2001:db8:4::100")}, 1},
		"from another NIC":  {&netlink.Gretun{Local: others, Remote: peer}, 0},
		"from any address":  {&netlink.Vxlan{Group: peer}, 0},
		"a plain interface": {&netlink.Dummy{}, 0},
	} {
		isMeant := func(a netip.Addr) bool {
			return a == testhost.Address("10.4.0.100") || a == testhost.Address("2001:db8:4::100")
		}
		o := &openings{Known: &Known{Links: []netlink.Link{test.link}}, isMeant: isMeant, found: usesSet{}}
		o.tunnels()
		if len(o.found) != test.want {
			t.Errorf("%s: %d uses, not %d", name, len(o.found), test.want)
		}
	}
}
