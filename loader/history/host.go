// SPDX-License-Identifier: Apache-2.0

package history

import (
	"errors"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"replypath/loader/discover"
	"replypath/loader/discover/dump"
	"replypath/loader/kernelroute"
)

// mostAsked bounds for how many peers of replies a gathering asks for a route, some 10 µs each; of what the host opened it
// asks for as many more.
const mostAsked = 16384

// host is what the kernel tells of interfaces and routes.
type host struct {
	*kernelroute.Host
	netlink *netlink.Handle
	managed map[string]int // the VRF of managed interfaces, by name; 0 for none
	routes  map[way]string
	most    int // how many may be asked for
}

// way is what a route is asked for.
type way struct {
	peer netip.Addr
	vrf  int
}

// openHost reads what there is, of which some interfaces are managed.
func openHost(managed []string) (*host, error) {
	handle, err := dump.Open()
	if err != nil {
		return nil, err
	}
	known, err := kernelroute.ReadHost(handle)
	if err != nil {
		handle.Close()
		return nil, err
	}
	h := &host{Host: known, netlink: handle, managed: map[string]int{}, routes: map[way]string{}, most: mostAsked}
	for _, name := range managed {
		if h.IndexOf(name) != 0 {
			h.managed[name] = h.VRFs[name]
		}
	}
	return h, nil
}

func (h *host) close() { h.netlink.Close() }

// managedWith names the managed interface that alone has an address, "" for none.
func (h *host) managedWith(a netip.Addr) string {
	name := h.Names[h.Own[a]]
	if _, managed := h.managed[name]; !managed || a.IsLinkLocalUnicast() {
		return ""
	}
	return name
}

// routeTo names the interface by which the kernel reaches a peer if it regards neither source nor mark, in the VRF of a
// managed interface: None without a route, Refused by one that refuses. It is not known once too many were asked for.
func (h *host) routeTo(peer netip.Addr, from string) (name string, known bool) {
	w := way{peer, h.managed[from]}
	if name, known = h.routes[w]; known {
		return name, name != ""
	}
	if len(h.routes) >= h.most || h.IsOwn(peer) {
		return "", false
	}
	h.routes[w] = h.ask(w)
	return h.routes[w], h.routes[w] != ""
}

// ask asks the kernel; "" where it does not tell.
func (h *host) ask(w way) string {
	any := netip.IPv4Unspecified()
	if w.peer.Is6() {
		any = netip.IPv6Unspecified()
	}
	route, err := kernelroute.Ask(kernelroute.Packet{Peer: netip.AddrPortFrom(w.peer, 0), Self: netip.AddrPortFrom(any, 0), Device: w.vrf})
	name := h.Names[route.Device]
	switch {
	case err != nil:
		return ""
	case errors.Is(route.Err, unix.ENETUNREACH), name == discover.OwnDevice:
		return None
	case route.Err != nil:
		return Refused
	}
	return name
}
