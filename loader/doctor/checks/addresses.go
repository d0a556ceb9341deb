// SPDX-License-Identifier: Apache-2.0

package checks

import (
	"fmt"

	"replypath/loader/doctor/finding"
	"replypath/loader/doctor/remedy"
	"replypath/loader/doctor/snapshot"
	"replypath/loader/flows"
	"replypath/loader/sockets"
)

// ConnectedSockets finds UDP daemons that connect a socket of theirs after they
// were asked on it, as iperf3 does: the source address of their answers is then
// the one of the route. Where the flow table shows what was asked, it is certain;
// else a connected socket beside a wildcard one on the same port is suspicious.
func ConnectedSockets(h *snapshot.Host) []finding.Finding {
	asked, wildcards := map[datagram]*flows.Flow{}, map[uint16]bool{}
	for n := range h.Flows {
		if f := &h.Flows[n]; f.Protocol == "udp" {
			asked[datagram{f.Peer, f.PeerPort, f.SelfPort}] = f
		}
	}
	for _, s := range h.Sockets {
		if !s.Remote.IsValid() && s.Local.Addr().IsUnspecified() {
			wildcards[s.Local.Port()] = true
		}
	}
	return finding.Each(h.Sockets, func(s *sockets.Socket) finding.Finding {
		if !s.Remote.IsValid() {
			return finding.None
		}
		port := s.Local.Port()
		if f := asked[datagram{s.Remote.Addr().String(), s.Remote.Port(), port}]; f != nil && f.Self != s.Local.Addr().String() {
			return finding.Seen(finding.Error, finding.OrEmpty(f.Interface), fmt.Sprintf(
				"%s answers %s from %s, but the request went to %s: it connects its wildcard socket, and only its own settings change that",
				nameOf(h, s), s.Remote, s.Local.Addr(), f.Self), showSocket(port, "have it bind to "+f.Self)).Of(h.ProcessOf(s))
		}
		if len(h.Interfaces) < 2 || s.Remote.Addr().IsLoopback() || !wildcards[port] {
			return finding.None
		}
		return finding.Seen(finding.Warning, "", fmt.Sprintf(
			"%s has a connected socket %s to %s beside a wildcard one: if a request went to another address, its answers have a wrong source",
			nameOf(h, s), s.Local, s.Remote), showSocket(port, "bind it to the address of the requests")).Of(h.ProcessOf(s))
	})
}

// datagram tells a conversation, but for the own address.
type datagram struct {
	peer               string
	peerPort, selfPort uint16
}

// nameOf names a socket by its process, as far as that is known.
func nameOf(h *snapshot.Host, s *sockets.Socket) string {
	if process := h.ProcessOf(s); process != "" {
		return fmt.Sprintf("%s on udp port %d", process, s.Local.Port())
	}
	return fmt.Sprintf("udp port %d", s.Local.Port())
}

// showSocket is the command that names the process.
func showSocket(port uint16, what string) string {
	return finding.Explained(fmt.Sprintf("ss -uanp 'sport = :%d'", port), "who has the socket: "+what)
}

// TranslatedAddresses finds addresses that connections are translated from, and nothing makes this host's.
func TranslatedAddresses(h *snapshot.Host) []finding.Finding {
	return finding.Each(h.Translations, func(t *snapshot.Translation) finding.Finding {
		if h.IsServed(t.Address) {
			return finding.None
		}
		return finding.Problem(finding.Warning, "", fmt.Sprintf(
			"%s is translated to %s (%d connections): no interface has it, and no rule names it: replies go as routed",
			t.Address, t.Target, t.Count), remedy.Configure(&h.State, fmt.Sprintf("add %q to addresses", t.Address)))
	})
}
