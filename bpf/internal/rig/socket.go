// SPDX-License-Identifier: Apache-2.0

package rig

import (
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Constants of <linux/tcp.h> that x/sys lacks.
const (
	TCPRecvQueue = 1
	TCPSendQueue = 2
)

// Sockaddr is an address as system calls take it, and its family.
func Sockaddr(a netip.AddrPort) (family int, address unix.Sockaddr) {
	if a.Addr().Is4() {
		return unix.AF_INET, &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return unix.AF_INET6, &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}

// Restore makes a TCP socket an established one, which expects these sequence numbers, without a packet: the way in
// which checkpoints are restored. It leaves the socket under repair, with the send queue chosen.
func Restore(fd int, self, peer netip.AddrPort, received, acked uint32) error {
	for _, option := range []struct{ name, value int }{
		{unix.TCP_REPAIR, 1},
		{unix.TCP_REPAIR_QUEUE, TCPRecvQueue},
		{unix.TCP_QUEUE_SEQ, int(int32(received))},
		{unix.TCP_REPAIR_QUEUE, TCPSendQueue},
		{unix.TCP_QUEUE_SEQ, int(int32(acked))},
	} {
		if err := unix.SetsockoptInt(fd, unix.SOL_TCP, option.name, option.value); err != nil {
			return fmt.Errorf("set TCP option %d: %w", option.name, err)
		}
	}
	_, local := Sockaddr(self)
	_, remote := Sockaddr(peer)
	if err := unix.Bind(fd, local); err != nil {
		return fmt.Errorf("bind: %w", err)
	}
	if err := unix.Connect(fd, remote); err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	return nil
}
