package netfilter

import (
	"fmt"
	"slices"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// From linux/netfilter/nf_tables.h: a hook may have a list of devices in the place
// of one.
const (
	nftaHookDevs   = 4
	nftaDeviceName = 1
)

// attributeType is NLA_TYPE_MASK of linux/netlink.h: the type without its flags.
const attributeType = ^uint16(unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)

// chainDevices returns the devices that a base chain of family netdev hooks,
// which the library does not read.
func chainDevices(table, chain string) ([]string, error) {
	request := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETCHAIN, 0)
	request.AddData(&nl.Nfgenmsg{NfgenFamily: unix.NFPROTO_NETDEV})
	request.AddData(nl.NewRtAttr(unix.NFTA_CHAIN_TABLE, nl.ZeroTerminated(table)))
	request.AddData(nl.NewRtAttr(unix.NFTA_CHAIN_NAME, nl.ZeroTerminated(chain)))
	messages, err := request.Execute(unix.NETLINK_NETFILTER, 0)
	if err != nil {
		return nil, fmt.Errorf("read its devices: %w", err)
	}
	var devices []string
	for _, m := range messages {
		walkAttributes(m[nl.SizeofNfgenmsg:], unix.NFTA_CHAIN_HOOK, func(hook []byte) {
			collect := func(name []byte) { devices = append(devices, strings.TrimRight(string(name), "\x00")) }
			walkAttributes(hook, unix.NFTA_HOOK_DEV, collect)
			walkAttributes(hook, nftaHookDevs, func(list []byte) {
				walkAttributes(list, nftaDeviceName, collect)
			})
		})
	}
	slices.Sort(devices)
	return slices.Compact(devices), nil // of a single device both are there
}

// walkAttributes visits the attributes of a kind.
func walkAttributes(data []byte, kind uint16, visit func([]byte)) {
	attributes, err := nl.ParseRouteAttr(data)
	if err != nil {
		return // none of them can be told
	}
	for _, a := range attributes {
		if a.Attr.Type&attributeType == kind {
			visit(a.Value)
		}
	}
}
