// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"net/netip"

	"replypath/test/traffic"
)

// reversed is a conversation whose answers are the questions of another.
func reversed(c *traffic.Conversation) *traffic.Conversation {
	if c.Kind == traffic.Ping { // its identifier is the peer's
		return &traffic.Conversation{Kind: c.Kind, Peer: netip.AddrPortFrom(c.Self.Addr(), c.Peer.Port()), Self: netip.AddrPortFrom(c.Peer.Addr(), 0)}
	}
	return &traffic.Conversation{Kind: c.Kind, Peer: c.Self, Self: c.Peer}
}
