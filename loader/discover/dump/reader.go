// SPDX-License-Identifier: Apache-2.0

package dump

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// ReadRoutes has collectors go through the routes of both families in all tables,
// those of VRFs and the local table included. After an error what they hold is of no use.
// It works in the network namespace of the calling thread.
//
// Routes through nexthop objects look like any other as long as the sysctl
// net.ipv4.nexthop_compat_mode is on, as it is by default; without it, the
// kernel leaves their next hops out.
func ReadRoutes(collectors ...Collector) error {
	return ReadRoutesOf(unix.RTPROT_UNSPEC, collectors...)
}

// ReadRoutesOf is ReadRoutes for those that one protocol has made.
func ReadRoutesOf(protocol int, collectors ...Collector) error {
	r, err := OpenRoutes()
	if err != nil {
		return err
	}
	defer r.Close()
	for _, family := range Families {
		if err := r.ReadFamily(family, protocol, collectors...); err != nil {
			return err
		}
	}
	return nil
}

// Families are those that routes are of.
var Families = [...]int{unix.AF_INET, unix.AF_INET6}

// readFamily has collectors go through what lists the routes of a family.
func readFamily(list func(each func(*Route)) error, family int, collectors []Collector) error {
	_, err := retry("routes", func() (none struct{}, err error) {
		for _, c := range collectors {
			c.Begin(family)
		}
		return none, list(func(r *Route) {
			for _, c := range collectors {
				c.Collect(r)
			}
		})
	})
	if lacksFamily(err) {
		return nil
	}
	return err
}

// RouteReader reads the routes of the network namespace in which it was opened. The library's list of them takes four times as
// long, and allocates with each what a garbage collector has to find again.
type RouteReader struct {
	socket int
	buffer []byte
	hops   []Hop
	last   lastRoute
}

// largestDatagram is more than the kernel puts into one.
const largestDatagram = 64 << 10

// OpenRoutes opens one in the network namespace of the calling thread.
func OpenRoutes() (*RouteReader, error) {
	socket, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open a netlink socket for routes: %w", err)
	}
	r := &RouteReader{socket: socket, buffer: make([]byte, largestDatagram)}
	err = errors.Join(
		// Else the kernel does not heed what is asked for, and leaves out nothing.
		unix.SetsockoptInt(socket, unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1),
		unix.SetsockoptTimeval(socket, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &nl.SocketTimeoutTv))
	if err != nil {
		r.Close()
		return nil, fmt.Errorf("set up a netlink socket for routes: %w", err)
	}
	return r, nil
}

// Close closes its socket.
func (r *RouteReader) Close() { unix.Close(r.socket) }

// ReadFamily is ReadRoutesOf for one family; unix.RTPROT_UNSPEC stands for all protocols.
func (r *RouteReader) ReadFamily(family, protocol int, collectors ...Collector) error {
	return readFamily(func(each func(*Route)) error { return r.list(family, protocol, each) }, family, collectors)
}

// list reads the routes of a family, of one protocol or of all.
func (r *RouteReader) list(family, protocol int, each func(*Route)) error {
	if err := r.waitForFlush(); err != nil {
		return err
	}
	r.last.forget()
	request := nl.NewNetlinkRequest(unix.RTM_GETROUTE, unix.NLM_F_DUMP)
	request.AddData(&nl.RtMsg{RtMsg: unix.RtMsg{Family: uint8(family), Protocol: uint8(protocol)}})
	if err := unix.Sendto(r.socket, request.Serialize(), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	interrupted := false
	for {
		datagram, err := r.receive()
		if err != nil {
			return err
		}
		for rest := datagram; len(rest) > 0; {
			var m message
			if m, rest, err = cut(rest); err != nil {
				return err
			}
			interrupted = interrupted || m.flags&unix.NLM_F_DUMP_INTR != 0
			isLast, err := r.take(m, family, each)
			switch {
			case err != nil:
				return err
			case isLast && interrupted:
				return netlink.ErrDumpInterrupted
			case isLast:
				return nil
			}
		}
	}
}

// waitForFlush returns once routes that go with something of which an event has told have gone. Such an event comes before
// the kernel flushes them, under a lock that a dump of routes takes no more since 6.9. A question about lo still does.
func (r *RouteReader) waitForFlush() error {
	request := nl.NewNetlinkRequest(unix.RTM_GETLINK, 0)
	info := nl.NewIfInfomsg(unix.AF_UNSPEC)
	info.Index = 1
	request.AddData(info)
	if err := unix.Sendto(r.socket, request.Serialize(), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	_, err := r.receive() // whatever it says
	return err
}

// receive returns the next datagram.
func (r *RouteReader) receive() ([]byte, error) {
	for {
		n, _, err := unix.Recvfrom(r.socket, r.buffer, 0)
		if err != unix.EINTR {
			return r.buffer[:max(n, 0)], err
		}
	}
}

// take reads one message of a dump, and tells whether it is the last.
func (r *RouteReader) take(m message, family int, each func(*Route)) (isLast bool, _ error) {
	switch m.kind {
	case unix.NLMSG_DONE, unix.NLMSG_ERROR:
		if len(m.body) >= 4 {
			if code := int32(binary.NativeEndian.Uint32(m.body)); code < 0 {
				return true, unix.Errno(-code)
			}
		}
		return true, nil
	case unix.RTM_NEWROUTE:
		if route, is := r.last.another(m.body); is {
			each(route)
			return false, nil
		}
		route, err := parseRoute(m.body, r.hops[:0])
		if err != nil {
			return false, err
		}
		r.hops = route.Hops
		r.last.forget()
		if route.Family == family && !IsException(m.body) {
			r.last.keep(route, m.body)
			each(&r.last.route)
		}
	}
	return false, nil
}

// message is one of several in a datagram.
type message struct {
	kind, flags uint16
	body        []byte
}

// cut takes the first message of a datagram.
func cut(datagram []byte) (first message, rest []byte, _ error) {
	if len(datagram) < unix.NLMSG_HDRLEN {
		return message{}, nil, errMessage
	}
	length := int(binary.NativeEndian.Uint32(datagram))
	if length < unix.NLMSG_HDRLEN || length > len(datagram) {
		return message{}, nil, errMessage
	}
	first = message{
		kind: binary.NativeEndian.Uint16(datagram[4:]), flags: binary.NativeEndian.Uint16(datagram[6:]),
		body: datagram[unix.NLMSG_HDRLEN:length],
	}
	return first, datagram[min(len(datagram), aligned(length)):], nil
}
