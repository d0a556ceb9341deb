// SPDX-License-Identifier: Apache-2.0

package kernelroute

import (
	"net/netip"

	"github.com/vishvananda/netlink"

	"replypath/loader/discover/dump"
)

// Host are the interfaces and addresses of a network namespace, by which its routes are asked for and told.
type Host struct {
	Links []netlink.Link
	Names map[int]string     // of interfaces, by index
	VRFs  map[string]int     // indexes of VRFs, by the names of their ports: the routes of replies are theirs
	Own   map[netip.Addr]int // addresses, with the index of the only interface that has each; 0: several do
}

// ReadHost reads what there is now.
func ReadHost(handle *netlink.Handle) (*Host, error) {
	links, err := dump.Links(handle)
	if err != nil {
		return nil, err
	}
	h := &Host{Links: links, Names: map[int]string{}, VRFs: portsOfVRFs(links), Own: map[netip.Addr]int{}}
	for _, link := range links {
		h.Names[link.Attrs().Index] = link.Attrs().Name
	}
	addresses, err := dump.Addresses(handle)
	for _, a := range addresses {
		address := dump.Address(a.IP)
		if _, several := h.Own[address]; several {
			h.Own[address] = 0
			continue
		}
		h.Own[address] = a.LinkIndex
	}
	return h, err
}

func portsOfVRFs(links []netlink.Link) map[string]int {
	isVRF := make(map[int]bool)
	for _, link := range links {
		isVRF[link.Attrs().Index] = link.Type() == "vrf"
	}
	ports := make(map[string]int)
	for _, link := range links {
		if master := link.Attrs().MasterIndex; isVRF[master] {
			ports[link.Attrs().Name] = master
		}
	}
	return ports
}

// IndexOf returns the index of an interface, 0 for none.
func (h *Host) IndexOf(name string) int {
	for index, other := range h.Names {
		if other == name {
			return index
		}
	}
	return 0
}

// IsOwn tells whether an address is this host's.
func (h *Host) IsOwn(a netip.Addr) bool {
	_, own := h.Own[a]
	return own
}

// IsVRF tells of a VRF that has ports.
func (h *Host) IsVRF(index int) bool {
	for _, vrf := range h.VRFs {
		if vrf == index {
			return true
		}
	}
	return false
}
