// SPDX-License-Identifier: Apache-2.0

package discover

import (
	"net"

	"github.com/vishvananda/netlink"
)

// openTunnel says why nothing can be redirected into a tunnel: where its far end
// is depends on the packet. In external mode (collect_md) whoever sends attaches
// that to it; without a remote address the kernel asks the route that the packet
// came by (ip_tunnel_xmit() and the like in net/ipv4 and net/ipv6), which is
// another interface's after a redirect. Empty where neither is so.
func openTunnel(link netlink.Link) string {
	external, remote, depends := farEnd(link)
	switch {
	case external:
		return "a tunnel in external mode: each packet has to say where it leads"
	case depends && (remote == nil || remote.IsUnspecified()):
		return "a tunnel without a remote address: the route says where a packet leads"
	}
	return ""
}

// farEnd returns what a tunnel says of its other end, and whether it depends on a
// remote address. A VXLAN or Geneve device can do without: it asks the frame.
func farEnd(link netlink.Link) (external bool, remote net.IP, depends bool) {
	switch t := link.(type) {
	case *netlink.Vxlan:
		return t.FlowBased, nil, false
	case *netlink.Geneve:
		return t.FlowBased, nil, false
	case *netlink.BareUDP:
		return true, nil, false // it knows no other
	case *netlink.Gretap:
		return t.FlowBased, t.Remote, true
	case *netlink.Gretun:
		return t.FlowBased, t.Remote, true
	case *netlink.Iptun:
		return t.FlowBased, t.Remote, true
	case *netlink.Ip6tnl:
		return t.FlowBased, t.Remote, true
	case *netlink.Sittun:
		return false, t.Remote, true
	}
	return false, nil, false
}
