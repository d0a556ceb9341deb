// SPDX-License-Identifier: Apache-2.0

package gather

import (
	"net/netip"

	"replypath/loader/doctor/snapshot"
	"replypath/loader/kernelroute"
)

// beyond are peers beyond every network of a host, by whether IPv4 is asked for: a.root-servers.net, which no list of bogus
// networks holds. Nothing is sent there.
var beyond = map[bool]netip.Addr{true: netip.MustParseAddr("198.41.0.4"), false: netip.MustParseAddr("2001:503:ba3e::2:30")}

// ownWays asks by which device the kernel sends replies from each own address. Those of VRFs have tables of their own.
func ownWays(h *snapshot.Host) error {
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
			h.OwnWays = append(h.OwnWays, snapshot.OwnWay{
				Address: address, On: i.Name, By: h.DeviceName(route.Device), Device: route.Device, Refused: route.Err != nil,
			})
		}
	}
	return nil
}
