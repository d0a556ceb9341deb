package doctor

import "fmt"

// connectedSockets finds UDP daemons that connect a socket of theirs after they
// were asked on it, as iperf3 does: the source address of their answers is then
// the one of the route. Where the flow table shows what was asked, it is certain;
// else a connected socket beside a wildcard one on the same port is suspicious.
func connectedSockets(h *Host) []Finding {
	asked := newDatagrams(&h.Links, h.Flows, h.Sockets)
	var found []Finding
	for n := range h.Sockets {
		s := &h.Sockets[n]
		if f := asked.elsewhere(s); f != nil {
			found = append(found, seen(Error, orEmpty(f.Interface), fmt.Sprintf(
				"%s answers %s from %s, but was asked on %s: it connects its wildcard socket, which cannot be mended from outside",
				nameOf(s), s.Remote, s.Local.Addr(), f.Self), showSocket(s, "have it bind to "+f.Self)).of(s.Process))
		} else if asked.isSuspicious(s) {
			found = append(found, seen(Warning, "", fmt.Sprintf(
				"%s has a connected socket %s to %s beside a wildcard one: if it was asked on another address, its answers come from a wrong one",
				nameOf(s), s.Local, s.Remote), showSocket(s, "have it bind to the address that it is asked on")).of(s.Process))
		}
	}
	return found
}

// nameOf names a socket by its process, as far as that is known.
func nameOf(s *Socket) string {
	if s.Process != "" {
		return fmt.Sprintf("%s on udp port %d", s.Process, s.Local.Port())
	}
	return fmt.Sprintf("udp port %d", s.Local.Port())
}

// showSocket is the command that names the process.
func showSocket(s *Socket, what string) string {
	return explained(fmt.Sprintf("ss -uanp 'sport = :%d'", s.Local.Port()), "who has the socket: "+what)
}
