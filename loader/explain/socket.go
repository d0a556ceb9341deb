package explain

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// socket is what is of interest of the local socket that a tuple belongs to.
type socket struct {
	device    int // that it is bound to
	uid       uint32
	mark      uint32
	connected bool
}

// The kernel's struct inet_diag_req_v2 and inet_diag_msg (linux/inet_diag.h).
const (
	diagRequestSize = 56
	diagMessageSize = 72
	diagSocketAt    = 8 // struct inet_diag_sockid in the request
	diagMark        = 15
	tcpEstablished  = 1
)

type diagRequest [diagRequestSize]byte

func (r *diagRequest) Len() int          { return diagRequestSize }
func (r *diagRequest) Serialize() []byte { return r[:] }

// askSocket finds the socket of a tuple as a packet finds it that comes in by one
// of the devices, nil where there is none or the kernel cannot tell.
func askSocket(q *Question, devices ...int) (*socket, error) {
	if q.Protocol == nil || *q.Protocol != unix.IPPROTO_TCP && *q.Protocol != unix.IPPROTO_UDP ||
		q.Peer.Port() == 0 || q.Self.Port() == 0 {
		return nil, nil
	}
	for _, device := range devices {
		s, err := askSocketAt(q, device)
		if s != nil || err != nil {
			return s, err
		}
	}
	return nil, nil
}

// asksBySocket tells whether a connected UDP socket owns the tuple: the host asks
// then, as answers_socket() in bpf/src/socket.h.
func asksBySocket(q *Question) (bool, error) {
	if q.Protocol != nil && *q.Protocol != unix.IPPROTO_UDP {
		return false, nil
	}
	udp := *q
	udp.Protocol = new(uint8(unix.IPPROTO_UDP))
	s, err := askSocket(&udp, 0)
	return s != nil && s.connected, err
}

func askSocketAt(q *Question, device int) (*socket, error) {
	r := newDiagRequest(q, device)
	request := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, 0)
	request.AddData(r)
	messages, err := request.Execute(unix.NETLINK_INET_DIAG, nl.SOCK_DIAG_BY_FAMILY)
	// Without a handler for the protocol the kernel says ENOENT as well.
	if errors.Is(err, unix.ENOENT) || err == nil && len(messages) == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("ask the kernel for the socket of %s: %w", q.Self, err)
	}
	return parseSocket(messages[0])
}

func newDiagRequest(q *Question, device int) *diagRequest {
	r := new(diagRequest)
	r[0], r[1] = unix.AF_INET, *q.Protocol
	if q.Self.Addr().Is6() {
		r[0] = unix.AF_INET6
	}
	binary.NativeEndian.PutUint32(r[4:], ^uint32(0)) // any state
	source, destination := q.Self, q.Peer
	if *q.Protocol == unix.IPPROTO_UDP { // the other way round, "for historical reasons" (net/ipv4/udp_diag.c)
		source, destination = destination, source
	}
	id := r[diagSocketAt:]
	put := func(port, address []byte, a netip.AddrPort) {
		binary.BigEndian.PutUint16(port, a.Port())
		copy(address, a.Addr().AsSlice())
	}
	put(id[0:], id[4:], source)
	put(id[2:], id[20:], destination)
	binary.NativeEndian.PutUint32(id[36:], uint32(device))
	binary.NativeEndian.PutUint32(id[40:], nl.TCPDIAG_NOCOOKIE)
	binary.NativeEndian.PutUint32(id[44:], nl.TCPDIAG_NOCOOKIE)
	return r
}

func parseSocket(message []byte) (*socket, error) {
	if len(message) < diagMessageSize {
		return nil, fmt.Errorf("read a socket: %d bytes are too few", len(message))
	}
	s := &socket{
		connected: message[1] == tcpEstablished,
		device:    int(binary.NativeEndian.Uint32(message[40:])),
		uid:       binary.NativeEndian.Uint32(message[64:]),
	}
	attributes, err := nl.ParseRouteAttr(message[diagMessageSize:])
	if err != nil {
		return nil, fmt.Errorf("read a socket: %w", err)
	}
	for _, a := range attributes {
		if a.Attr.Type == diagMark && len(a.Value) == 4 {
			s.mark = binary.NativeEndian.Uint32(a.Value)
		}
	}
	return s, nil
}
