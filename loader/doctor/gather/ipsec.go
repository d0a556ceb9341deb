package gather

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

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
