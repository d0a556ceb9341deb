// SPDX-License-Identifier: Apache-2.0

package kernelroute

import (
	"testing"

	"github.com/vishvananda/netlink"

	"replypath/test/await"
)

// TestPortsOfVRFs: the routes of a port's replies are those of its VRF; a bridge has none.
func TestPortsOfVRFs(t *testing.T) {
	device := func(index, master int, name string) netlink.LinkAttrs {
		return netlink.LinkAttrs{Index: index, MasterIndex: master, Name: name}
	}
	got := portsOfVRFs([]netlink.Link{
		&netlink.Dummy{LinkAttrs: device(1, 4, "eth0")}, &netlink.Dummy{LinkAttrs: device(2, 5, "eth1")},
		&netlink.Dummy{LinkAttrs: device(3, 0, "eth2")}, &netlink.Vrf{LinkAttrs: device(4, 0, "red")},
		&netlink.Bridge{LinkAttrs: device(5, 0, "br0")},
	})
	await.Same(t, "VRFs", map[string]int{"eth0": 4}, got)
}
