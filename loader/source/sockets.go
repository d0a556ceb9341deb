// SPDX-License-Identifier: Apache-2.0

package source

import (
	"fmt"

	"golang.org/x/sys/unix"

	"replypath/loader/sockets"
)

// Wildcard returns the ports of unconnected UDP sockets of the calling thread's
// network namespace that are bound to no address, of both families. Some may
// belong to clients: a socket does not show who chose its port.
func Wildcard() ([]uint16, error) {
	var ports []uint16
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		list, err := sockets.All(unix.IPPROTO_UDP, family)
		if err != nil {
			return nil, fmt.Errorf("list udp sockets (is CONFIG_INET_UDP_DIAG there?): %w", err)
		}
		for _, s := range list {
			if s.State != sockets.Established && s.Local.Addr().IsUnspecified() {
				ports = append(ports, s.Local.Port())
			}
		}
	}
	return ports, nil
}
