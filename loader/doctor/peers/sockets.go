// SPDX-License-Identifier: Apache-2.0

package peers

import (
	"fmt"

	"replypath/loader/doctor/finding"
	"replypath/loader/doctor/snapshot"
)

// ConnectedSockets finds UDP daemons that connect a socket of theirs after they
// were asked on it, as iperf3 does: the source address of their answers is then
// the one of the route. Where the flow table shows what was asked, it is certain;
// else a connected socket beside a wildcard one on the same port is suspicious.
func ConnectedSockets(h *snapshot.Host) []finding.Finding {
	asked := h.Datagrams()
	return finding.Each(h.Sockets, func(s *snapshot.Socket) finding.Finding {
		if f := asked.Elsewhere(s); f != nil {
			return finding.Seen(finding.Error, finding.OrEmpty(f.Interface), fmt.Sprintf(
				"%s answers %s from %s, but the request went to %s: it connects its wildcard socket, and only its own settings change that",
				nameOf(s), s.Remote, s.Local.Addr(), f.Self), showSocket(s, "have it bind to "+f.Self)).Of(s.Process)
		}
		if !asked.IsSuspicious(s) {
			return finding.None
		}
		return finding.Seen(finding.Warning, "", fmt.Sprintf(
			"%s has a connected socket %s to %s beside a wildcard one: if a request went to another address, its answers have a wrong source",
			nameOf(s), s.Local, s.Remote), showSocket(s, "bind it to the address of the requests")).Of(s.Process)
	})
}

// nameOf names a socket by its process, as far as that is known.
func nameOf(s *snapshot.Socket) string {
	if s.Process != "" {
		return fmt.Sprintf("%s on udp port %d", s.Process, s.Local.Port())
	}
	return fmt.Sprintf("udp port %d", s.Local.Port())
}

// showSocket is the command that names the process.
func showSocket(s *snapshot.Socket, what string) string {
	return finding.Explained(fmt.Sprintf("ss -uanp 'sport = :%d'", s.Local.Port()), "who has the socket: "+what)
}
