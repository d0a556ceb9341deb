// SPDX-License-Identifier: Apache-2.0

package gather

import (
	"errors"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

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
			way := snapshot.OwnWay{Address: address, On: i.Name, By: h.DeviceName(route.Device), Device: route.Device}
			// A missing route is ENETUNREACH (fib_props in net/ipv4/fib_semantics.c, ip6_rt_type_to_error in net/ipv6/route.c), and so
			// is a rule that says so.
			way.Refused = route.Err != nil && (!errors.Is(route.Err, unix.ENETUNREACH) || slices.ContainsFunc(h.Rules, func(r snapshot.Rule) bool {
				return r.Family == snapshot.FamilyOf(address) && r.Refuses != "" && r.MayMatch(netip.PrefixFrom(self, self.BitLen()))
			}))
			h.OwnWays = append(h.OwnWays, way)
		}
	}
	return nil
}
