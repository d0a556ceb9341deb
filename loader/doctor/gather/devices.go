package gather

import (
	"fmt"
	"slices"

	"github.com/safchain/ethtool"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"replypath/loader/discover/dump"
	"replypath/loader/doctor/snapshot"
)

// devices looks at every interface.
func devices(handle *netlink.Handle, links []netlink.Link) ([]snapshot.Device, error) {
	addresses, err := dump.Addresses(handle)
	if err != nil {
		return nil, err
	}
	tool, err := ethtool.NewEthtool()
	if err != nil {
		return nil, fmt.Errorf("open a socket for ethtool: %w", err)
	}
	defer tool.Close()
	var found []snapshot.Device
	for _, link := range links {
		attrs := link.Attrs()
		d := snapshot.Device{
			Index: attrs.Index, Name: attrs.Name, AltNames: attrs.AltNames, MAC: attrs.HardwareAddr,
			VFs: len(attrs.Vfs), VRF: isVRF(links, attrs.MasterIndex),
			Down: attrs.RawFlags&unix.IFF_UP == 0, XDP: attrs.Xdp != nil && attrs.Xdp.Attached,
		}
		for _, a := range addresses {
			if a.LinkIndex == attrs.Index {
				d.Addresses = append(d.Addresses, dump.Prefix(a.IPNet))
			}
		}
		// What a driver does not tell is not known.
		d.Features, _ = tool.Features(attrs.Name)
		found = append(found, d)
	}
	return found, nil
}

func isVRF(links []netlink.Link, index int) bool {
	return index != 0 && slices.ContainsFunc(links, func(l netlink.Link) bool {
		return l.Attrs().Index == index && l.Type() == "vrf"
	})
}
