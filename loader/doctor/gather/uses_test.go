// SPDX-License-Identifier: Apache-2.0

package gather

import (
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"

	"replypath/loader/doctor/snapshot"
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
		o := &openings{sources: []netip.Prefix{testhost.Prefix("10.4.0.100/32"), testhost.Prefix("2001:db8:4::100/128")}, found: map[snapshot.Use]bool{}}
		o.tunnels([]netlink.Link{test.link})
		if len(o.found) != test.want {
			t.Errorf("%s: %d uses, not %d", name, len(o.found), test.want)
		}
	}
}
