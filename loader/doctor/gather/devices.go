package gather

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/safchain/ethtool"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
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

// offloaded lists the devices that IPsec packets are offloaded to.
func offloaded(deviceName func(index int) string) ([]string, error) {
	request := nl.NewNetlinkRequest(nl.XFRM_MSG_GETSA, unix.NLM_F_DUMP)
	messages, err := request.Execute(unix.NETLINK_XFRM, nl.XFRM_MSG_NEWSA)
	if errors.Is(err, unix.EPROTONOSUPPORT) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list ipsec states: %w", err)
	}
	var names []string
	for _, m := range messages {
		attributes, err := nl.ParseRouteAttr(m[nl.SizeofXfrmUsersaInfo:])
		if err != nil {
			return nil, fmt.Errorf("read an ipsec state: %w", err)
		}
		for _, a := range attributes {
			if index, ok := packetOffload(a.Attr.Type, a.Value); ok {
				if name := deviceName(index); !slices.Contains(names, name) {
					names = append(names, name)
				}
			}
		}
	}
	return names, nil
}

// packetOffload reads struct xfrm_user_offload of linux/xfrm.h: an ifindex and
// flags, in native byte order.
func packetOffload(attribute uint16, value []byte) (device int, ok bool) {
	const (
		xfrmaOffloadDev   = 28
		xfrmOffloadPacket = 4
	)
	if attribute != xfrmaOffloadDev || len(value) < 5 || value[4]&xfrmOffloadPacket == 0 {
		return 0, false
	}
	return int(binary.NativeEndian.Uint32(value)), true
}
