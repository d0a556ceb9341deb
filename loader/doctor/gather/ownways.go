// SPDX-License-Identifier: Apache-2.0

package gather

import (
	"net/netip"

	"replypath/loader/doctor/snapshot"
	"replypath/loader/kernelroute"
)

// Peers beyond every network of a host: RFC 5737, RFC 3849.
var beyond = map[bool]netip.Addr{true: netip.MustParseAddr("192.0.2.1"), false: netip.MustParseAddr("2001:db8:ffff:ffff::1")}

// ownWays asks by which device replies from each own address leave, while nothing of replypath's is there. Those of VRFs have
// tables of their own.
func ownWays(h *snapshot.Host) error {
	if h.Attached {
		return nil
	}
	for _, i := range h.Interfaces {
		if i.VRF != 0 || !i.Up {
			continue
		}
		for _, address := range i.Addresses {
			self := address.Addr()
			route, err := kernelroute.Ask(kernelroute.Packet{Peer: netip.AddrPortFrom(beyond[self.Is4()], 0), Self: netip.AddrPortFrom(self, 0)})
			if err != nil {
				return err
			}
			h.OwnWays = append(h.OwnWays, snapshot.OwnWay{Address: address, On: i.Name, By: h.DeviceName(route.Device)})
		}
	}
	return nil
}
