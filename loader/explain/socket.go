// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/loader/sockets"
)

// askSocket finds the socket of a tuple as a packet finds it that comes in by one
// of the devices, nil where there is none or the kernel cannot tell.
func askSocket(q *Question, devices ...int) (*sockets.Socket, error) {
	if !hasSocket(q) {
		return nil, nil
	}
	for _, device := range devices {
		s, err := sockets.Find(*q.Protocol, q.Self, q.Peer, device)
		if s != nil || err != nil {
			return s, err
		}
	}
	return nil, nil
}

// hasSocket tells whether a socket can be asked for: of TCP or UDP, with both ports.
func hasSocket(q *Question) bool {
	return q.Protocol != nil && (*q.Protocol == unix.IPPROTO_TCP || *q.Protocol == unix.IPPROTO_UDP) &&
		q.Peer.Port() != 0 && q.Self.Port() != 0
}

// asksBySocket tells whether a connected UDP socket owns the tuple: the host asks
// then, as answers_socket() in bpf/src/socket.h.
func asksBySocket(q *Question) (bool, error) {
	if q.Protocol != nil && *q.Protocol != unix.IPPROTO_UDP {
		return false, nil
	}
	udp := *q
	udp.Protocol = new(uint8(unix.IPPROTO_UDP))
	s, err := askSocket(&udp, 0)
	return s != nil && s.State == sockets.Established, err
}

// endsFlow tells whether the flow is one whose datagrams nobody took, and what is sent by its
// tuple a conversation of the host's own: track_connectionless() in bpf/src/egress.h. Other sockets take
// the flow's next datagram.
func endsFlow(flow *bpf.DatapathFlow, q *Question) (bool, error) {
	untaken := flow.Flags&uint16(bpf.DatapathFlowFlagsFLOW_NO_SOCKET) != 0 &&
		flow.State&uint8(bpf.DatapathFlowStateFLOW_ANSWERED) == 0
	if flow.Tuple.Protocol != unix.IPPROTO_UDP || !untaken {
		return false, nil
	}
	return asksBySocket(q)
}
