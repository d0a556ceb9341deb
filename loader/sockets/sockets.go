// SPDX-License-Identifier: Apache-2.0

// Package sockets asks the kernel for the TCP and UDP sockets of the calling thread's network namespace (sock_diag(7)).
package sockets

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"replypath/loader/problems"
)

// Socket is what the kernel tells of one.
type Socket struct {
	State         uint8          // Established, or another of include/net/tcp_states.h
	Local, Remote netip.AddrPort // with the addresses of IPv4 as such, also of an IPv6 socket
	Device        int            // that it is bound to; 0: none
	UID, Mark     uint32
	Heard         time.Duration // since its last acknowledgement came in, if that was asked for
	Sent          *uint64       // bytes of payload that it sent, each once; nil: not asked for, or not known
	Segments      uint64        // that it sent; 0: not asked for, or not known
}

// Established is the state of a TCP connection, and of a connected UDP socket.
const Established = unix.BPF_TCP_ESTABLISHED

// AnyState has the bits of all states of TCP and UDP, Listening that of TCP sockets which accept connections.
const (
	AnyState  = 0xfff
	Listening = 1 << unix.BPF_TCP_LISTEN
)

// ErrUnfinished tells that there are more connections than could be looked at.
var ErrUnfinished = errors.New("there are too many to look at all of them")

// All returns the sockets of a protocol and family, of which AF_INET6 has IPv4 ones too. A kernel without a handler for
// the protocol returns ENOENT, one without the protocol EPROTONOSUPPORT.
func All(protocol, family uint8) (list []Socket, err error) {
	err = Each(protocol, family, AnyState, func(s *Socket) { list = append(list, *s) })
	return list, err
}

// Each is All for those in some states, a bit each, of which none is kept. Those of TCP tell what they sent.
func Each(protocol, family uint8, states uint32, visit func(*Socket)) error {
	r := &request{family: family, protocol: protocol, states: states, info: protocol == unix.IPPROTO_TCP}
	return each(r, func() bool { return true }, func(s *Socket) bool {
		visit(s)
		return true
	})
}

// EachConnection visits the established TCP connections of a family, of which AF_INET6 has IPv4 ones too,
// until visit says that it is enough, or the time has come and some of them have been visited: ErrUnfinished then. A dump
// ends with its socket, so that the kernel does not go through the rest of them.
func EachConnection(family uint8, some int, until time.Time, visit func(*Socket) (goOn bool)) error {
	return eachTCP(family, 1<<Established, some, until, visit)
}

func eachTCP(family uint8, states uint32, some int, until time.Time, visit func(*Socket) (goOn bool)) error {
	r := &request{family: family, protocol: unix.IPPROTO_TCP, states: states, info: true}
	visited := 0
	hasTime := func() bool { return visited < some || time.Now().Before(until) }
	return each(r, hasTime, func(s *Socket) bool {
		visited++
		return visit(s)
	})
}

// open are the states of TCP connections of which the kernel tells all.
const open = 1<<Established | 1<<unix.BPF_TCP_FIN_WAIT1 | 1<<unix.BPF_TCP_FIN_WAIT2 | 1<<unix.BPF_TCP_CLOSE_WAIT |
	1<<unix.BPF_TCP_LAST_ACK | 1<<unix.BPF_TCP_CLOSING

// EachOpen visits the TCP connections of a family that are established or closing, as EachConnection does.
func EachOpen(family uint8, some int, until time.Time, visit func(*Socket) (goOn bool)) error {
	return eachTCP(family, open, some, until, visit)
}

// Bound returns the devices that IPv6 sockets are bound to which others may ask: those of UDP, and of TCP that listen, or any.
func Bound(any bool) (devices []int, err error) {
	tcp := uint32(Listening)
	if any {
		tcp |= open
	}
	for protocol, states := range map[uint8]uint32{unix.IPPROTO_TCP: tcp, unix.IPPROTO_UDP: AnyState} {
		r := &request{family: unix.AF_INET6, protocol: protocol, states: states}
		err := each(r, func() bool { return true }, func(s *Socket) bool {
			if s.Device != 0 && s.Local.Addr().Is6() && !s.Local.Addr().IsLinkLocalUnicast() {
				devices = append(devices, s.Device)
			}
			return true
		})
		if err != nil {
			return nil, err
		}
	}
	return devices, nil
}

// each visits what a dump has, until visit says that it is enough. Whether there is time is asked before each batch. A panic is
// an error: the daemon looks at sockets again and again.
func each(r *request, hasTime func() bool, visit func(*Socket) (goOn bool)) error {
	return problems.Caught(func() error { return eachOf(r, hasTime, visit) })
}

func eachOf(r *request, hasTime func() bool, visit func(*Socket) (goOn bool)) error {
	socket, err := nl.Subscribe(unix.NETLINK_INET_DIAG)
	if err != nil {
		return err
	}
	defer socket.Close()
	if err := socket.SetReceiveTimeout(&nl.SocketTimeoutTv); err != nil {
		return err
	}
	dump := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
	dump.AddData(r)
	if err := socket.Send(dump); err != nil {
		return err
	}
	for hasTime() {
		messages, _, err := socket.Receive()
		if err != nil {
			return err
		}
		for _, m := range messages {
			switch m.Header.Type {
			case unix.NLMSG_DONE, unix.NLMSG_ERROR:
				return errorIn(m.Data)
			}
			s, err := parse(m.Data)
			if err != nil {
				return err
			}
			if !visit(s) {
				return nil
			}
		}
	}
	return ErrUnfinished
}

// errorIn returns the error of a message that ends a dump.
func errorIn(data []byte) error {
	if len(data) < 4 {
		return nil
	}
	if number := int32(binary.NativeEndian.Uint32(data)); number != 0 {
		return unix.Errno(-number)
	}
	return nil
}

// Find returns the socket that a packet finds which comes in by a device, nil where there is none or the kernel cannot
// tell. Of no device, it is one that is bound to none.
func Find(protocol uint8, local, remote netip.AddrPort, device int) (*Socket, error) {
	return find(&request{protocol: protocol, source: local, destination: remote, device: device})
}

// Connection is Find for one of TCP, and tells how much it sent.
func Connection(local, remote netip.AddrPort) (*Socket, error) {
	return find(&request{protocol: unix.IPPROTO_TCP, source: local, destination: remote, info: true})
}

func find(r *request) (*Socket, error) {
	local := r.source
	r.family, r.states = unix.AF_INET, ^uint32(0)
	if local.Addr().Is6() {
		r.family = unix.AF_INET6
	}
	if r.protocol == unix.IPPROTO_UDP { // the other way round, "for historical reasons" (net/ipv4/udp_diag.c)
		r.source, r.destination = r.destination, r.source
	}
	ask := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, 0)
	ask.AddData(r)
	messages, err := ask.Execute(unix.NETLINK_INET_DIAG, nl.SOCK_DIAG_BY_FAMILY)
	// Without a handler for the protocol the kernel says ENOENT as well.
	if errors.Is(err, unix.ENOENT) || err == nil && len(messages) == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("ask the kernel for the socket of %s: %w", local, err)
	}
	return parse(messages[0])
}

// request is the kernel's struct inet_diag_req_v2 (linux/inet_diag.h).
type request struct {
	family, protocol    uint8
	states              uint32
	info                bool // struct tcp_info is wanted
	source, destination netip.AddrPort
	device              int
}

// Len is the size of the struct.
func (*request) Len() int { return 56 }

// Serialize writes the struct.
func (r *request) Serialize() []byte {
	b := make([]byte, r.Len())
	b[0], b[1] = r.family, r.protocol
	if r.info {
		b[2] = 1 << (netlink.INET_DIAG_INFO - 1)
	}
	binary.NativeEndian.PutUint32(b[4:], r.states)
	id := b[8:] // struct inet_diag_sockid
	put := func(port, address []byte, a netip.AddrPort) {
		binary.BigEndian.PutUint16(port, a.Port())
		copy(address, a.Addr().AsSlice())
	}
	put(id[0:], id[4:], r.source)
	put(id[2:], id[20:], r.destination)
	binary.NativeEndian.PutUint32(id[36:], uint32(r.device))
	binary.NativeEndian.PutUint32(id[40:], nl.TCPDIAG_NOCOOKIE)
	binary.NativeEndian.PutUint32(id[44:], nl.TCPDIAG_NOCOOKIE)
	return b
}

// The kernel's struct inet_diag_msg (linux/inet_diag.h), and where fields are in struct tcp_info (linux/tcp.h).
const (
	messageSize    = 72
	lastAckRecvAt  = unsafe.Offsetof(unix.TCPInfo{}.Last_ack_recv) // in milliseconds
	bytesSentAt    = unsafe.Offsetof(unix.TCPInfo{}.Bytes_sent)    // each time that they were sent
	segmentsAt     = unsafe.Offsetof(unix.TCPInfo{}.Segs_out)
	bytesRetransAt = unsafe.Offsetof(unix.TCPInfo{}.Bytes_retrans)
)

func parse(message []byte) (*Socket, error) {
	if len(message) < messageSize {
		return nil, fmt.Errorf("read a socket: %d bytes are too few", len(message))
	}
	s := &Socket{
		State:  message[1],
		Local:  end(message[0], message[4:6], message[8:24]),
		Remote: end(message[0], message[6:8], message[24:40]),
		Device: int(binary.NativeEndian.Uint32(message[40:])),
		UID:    binary.NativeEndian.Uint32(message[64:]),
		Heard:  heardLongAgo,
	}
	attributes, err := nl.ParseRouteAttr(message[messageSize:])
	if err != nil {
		return nil, fmt.Errorf("read a socket: %w", err)
	}
	for _, a := range attributes {
		switch {
		case a.Attr.Type == netlink.INET_DIAG_INFO:
			s.setInfo(a.Value)
		case a.Attr.Type == netlink.INET_DIAG_MARK && len(a.Value) == 4:
			s.Mark = binary.NativeEndian.Uint32(a.Value)
		}
	}
	return s, nil
}

// setInfo reads a struct tcp_info, which is as long as the kernel knows it.
func (s *Socket) setInfo(info []byte) {
	if len(info) >= int(lastAckRecvAt)+4 {
		s.Heard = time.Duration(binary.NativeEndian.Uint32(info[lastAckRecvAt:])) * time.Millisecond
	}
	if len(info) >= int(segmentsAt)+4 {
		s.Segments = uint64(binary.NativeEndian.Uint32(info[segmentsAt:]))
	}
	if len(info) >= int(bytesRetransAt)+8 {
		sent, again := binary.NativeEndian.Uint64(info[bytesSentAt:]), binary.NativeEndian.Uint64(info[bytesRetransAt:])
		s.Sent = new(sent - min(again, sent))
	}
}

// heardLongAgo is of a connection of which the kernel does not tell.
const heardLongAgo = time.Hour

// end reads an address and its port.
func end(family uint8, port, address []byte) netip.AddrPort {
	if family == unix.AF_INET {
		address = address[:4]
	}
	a, _ := netip.AddrFromSlice(address)
	return netip.AddrPortFrom(a.Unmap(), binary.BigEndian.Uint16(port))
}
