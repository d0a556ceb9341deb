package source

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// established is the state of a connected UDP socket (include/net/tcp_states.h,
// TCP_ESTABLISHED).
const established = 1

// Wildcard returns the ports of unconnected UDP sockets of the calling thread's
// network namespace that are bound to no address, of both families. Some may
// belong to clients: a socket does not show who chose its port.
func Wildcard() ([]uint16, error) {
	var ports []uint16
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		sockets, err := netlink.SocketDiagUDP(family)
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			return nil, fmt.Errorf("list udp sockets (is CONFIG_INET_UDP_DIAG there?): %w", err)
		}
		for _, s := range sockets {
			if s.State != established && s.ID.Source.IsUnspecified() {
				ports = append(ports, s.ID.SourcePort)
			}
		}
	}
	return ports, nil
}
