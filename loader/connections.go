package loader

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"replypath/bpf"
)

// connection is an established TCP connection of this host.
type connection struct {
	tuple bpf.DatapathTuple
	heard time.Duration // since its last acknowledgement came in

	device    int // that its socket is bound to; 0: none
	mark, uid uint32
}

// errUnfinished tells that there are more connections than could be looked at.
var errUnfinished = errors.New("there are too many to look at all of them")

// someConnections are visited however long it takes: a machine that is busy may not let us run for a while.
const someConnections = 1000

// eachConnection visits the connections of a family, of which AF_INET6 has IPv4 ones too, mapped,
// until visit says that it is enough, or the time has come and some of them have been visited. The
// kernel goes through the rest of them for nobody then: a dump ends with its socket.
func eachConnection(family uint8, some int, until time.Time, visit func(*connection) (goOn bool)) error {
	socket, err := nl.Subscribe(unix.NETLINK_INET_DIAG)
	if err != nil {
		return err
	}
	defer socket.Close()
	request := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
	request.AddData(connectionRequest(family))
	if err := socket.Send(request); err != nil {
		return err
	}
	for visited := 0; visited < some || time.Now().Before(until); {
		messages, _, err := socket.Receive()
		if err != nil {
			return err
		}
		for _, m := range messages {
			switch m.Header.Type {
			case unix.NLMSG_DONE:
				return nil
			case unix.NLMSG_ERROR:
				return unix.Errno(-int32(binary.NativeEndian.Uint32(m.Data)))
			}
			c, err := parseConnection(m.Data)
			if err != nil {
				return err
			}
			if visited++; !visit(c) {
				return nil
			}
		}
	}
	return errUnfinished
}

// connectionRequest is the kernel's struct inet_diag_req_v2 (linux/inet_diag.h): the family, the
// protocol, what is to be told beside the message, and the states.
type connectionRequest uint8

func (connectionRequest) Len() int { return 56 }

func (family connectionRequest) Serialize() []byte {
	r := make([]byte, family.Len())
	r[0], r[1], r[2] = uint8(family), unix.IPPROTO_TCP, 1<<(netlink.INET_DIAG_INFO-1)
	binary.NativeEndian.PutUint32(r[4:], 1<<unix.BPF_TCP_ESTABLISHED)
	return r
}

// The kernel's struct inet_diag_msg (linux/inet_diag.h), and where tcpi_last_ack_recv is in struct
// tcp_info (linux/tcp.h), in milliseconds.
const (
	diagMessageSize = 72
	lastAckRecvAt   = 56
)

func parseConnection(message []byte) (*connection, error) {
	if len(message) < diagMessageSize {
		return nil, fmt.Errorf("read a connection: %d bytes are too few", len(message))
	}
	c := &connection{
		heard:  heardLongAgo,
		device: int(binary.NativeEndian.Uint32(message[40:])), uid: binary.NativeEndian.Uint32(message[64:]),
	}
	c.tuple.Protocol = unix.IPPROTO_TCP
	c.tuple.SelfPort = binary.NativeEndian.Uint16(message[4:]) // both are in network byte order
	c.tuple.PeerPort = binary.NativeEndian.Uint16(message[6:])
	c.tuple.Self = diagAddress(message[0], message[8:24])
	c.tuple.Peer = diagAddress(message[0], message[24:40])
	attributes, err := nl.ParseRouteAttr(message[diagMessageSize:])
	if err != nil {
		return nil, fmt.Errorf("read a connection: %w", err)
	}
	for _, a := range attributes {
		switch {
		case a.Attr.Type == netlink.INET_DIAG_INFO && len(a.Value) >= lastAckRecvAt+4:
			c.heard = time.Duration(binary.NativeEndian.Uint32(a.Value[lastAckRecvAt:])) * time.Millisecond
		case a.Attr.Type == netlink.INET_DIAG_MARK && len(a.Value) == 4:
			c.mark = binary.NativeEndian.Uint32(a.Value)
		}
	}
	return c, nil
}

// heardLongAgo is of a connection of which the kernel does not tell.
const heardLongAgo = time.Hour

// diagAddress returns an address as tuples have it: an IPv4 one is mapped.
func diagAddress(family uint8, bytes []byte) [16]uint8 {
	if family == unix.AF_INET {
		return netip.AddrFrom4([4]byte(bytes[:4])).As16()
	}
	return [16]uint8(bytes)
}
