package fallback

import (
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// How the kernel takes a route, beside what is there already.
const (
	toAdd    = unix.NLM_F_CREATE | unix.NLM_F_EXCL
	toAppend = unix.NLM_F_CREATE | unix.NLM_F_APPEND // of one metric, IPv4 takes several only so
	toChange = unix.NLM_F_REPLACE
)

// lowPreference is that of a router which is to be used where no other can be (RFC 4191, 2.1). Of the IPv6 routes behind the
// first usable metric the kernel takes the one that is preferred, whatever their metrics (find_rr_leaf() in net/ipv6/route.c).
const lowPreference = 3

// send writes a default route of the main table. The library leaves out its preference.
func send(how int, r *netlink.Route) error {
	family := nl.GetIPFamily(r.Gw)
	message := nl.NewRtMsg() // a unicast route of the main table
	message.Family, message.Protocol, message.Flags = uint8(family), uint8(r.Protocol), uint32(r.Flags)
	request := nl.NewNetlinkRequest(unix.RTM_NEWROUTE, how|unix.NLM_F_ACK)
	request.AddData(message)
	add := func(attribute int, value []byte) { request.AddData(nl.NewRtAttr(attribute, value)) }
	add(unix.RTA_OIF, nl.Uint32Attr(uint32(r.LinkIndex)))
	add(unix.RTA_GATEWAY, r.Gw)
	add(unix.RTA_PRIORITY, nl.Uint32Attr(uint32(r.Priority)))
	if family == unix.AF_INET6 {
		add(unix.RTA_PREF, []byte{lowPreference})
	}
	if r.Encap != nil {
		encap, err := r.Encap.Encode()
		if err != nil {
			return err
		}
		add(unix.RTA_ENCAP_TYPE, nl.Uint16Attr(uint16(r.Encap.Type())))
		add(unix.RTA_ENCAP|unix.NLA_F_NESTED, encap)
	}
	_, err := request.Execute(unix.NETLINK_ROUTE, 0)
	return err
}
