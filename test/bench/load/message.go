// SPDX-License-Identifier: Apache-2.0

package load

import (
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// message is a datagram whose source address is changed from one sending to the next (ip(7), IP_PKTINFO).
type message struct {
	header  unix.Msghdr
	vector  unix.Iovec
	to      unix.RawSockaddrInet4
	control struct {
		header unix.Cmsghdr
		info   unix.Inet4Pktinfo
		_      [4]byte // CMSG_SPACE
	}
	data [64]byte
}

func newMessage(to netip.Addr, port uint16) *message {
	m := new(message)
	m.to = unix.RawSockaddrInet4{Family: unix.AF_INET, Port: port<<8 | port>>8, Addr: to.As4()}
	m.control.header = unix.Cmsghdr{Level: unix.IPPROTO_IP, Type: unix.IP_PKTINFO}
	m.control.header.SetLen(unix.CmsgLen(unix.SizeofInet4Pktinfo))
	m.vector.Base = &m.data[0]
	m.vector.SetLen(len(m.data))
	m.header = unix.Msghdr{
		Name: (*byte)(unsafe.Pointer(&m.to)), Namelen: unix.SizeofSockaddrInet4, Iov: &m.vector,
		Control: (*byte)(unsafe.Pointer(&m.control)),
	}
	m.header.SetIovlen(1)
	m.header.SetControllen(unix.CmsgSpace(unix.SizeofInet4Pktinfo))
	return m
}

// from sets the source address.
func (m *message) from(a netip.Addr) { m.control.info.Spec_dst = a.As4() }

func (m *message) send(fd int) error {
	_, _, errno := unix.Syscall(unix.SYS_SENDMSG, uintptr(fd), uintptr(unsafe.Pointer(&m.header)), 0)
	if errno != 0 {
		return errno
	}
	return nil
}
