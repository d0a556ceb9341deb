// SPDX-License-Identifier: Apache-2.0

package gather

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"replypath/loader/doctor/snapshot"
)

// mostHeard bounds how many packets of a tunnel are looked at.
const mostHeard = 10_000

// listen begins to hear what arrives by tunnels without an address, which are not managed unless they are named: no program
// of ours sees that. A tunnel that has gone or is down meanwhile brings nothing.
func (t *hearing) listen(g *gatherer) error {
	*t = hearing{time.Now(), map[string]int{}}
	for _, l := range g.links {
		name := l.Attrs().Name
		if g.Quiet || g.host.Config.Interfaces != nil || !slices.Contains(g.host.Tunnels, name) {
			continue
		}
		socket, err := hear(l)
		if errors.Is(err, fs.ErrPermission) {
			return fmt.Errorf("listen at %s: %w", name, err)
		}
		if err == nil {
			t.sockets[name] = socket
		}
	}
	return nil
}

// hear opens a socket that gets the packets of an interface, without what frames have before them.
func hear(l netlink.Link) (int, error) {
	socket, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	everything := binary.NativeEndian.Uint16([]byte{0, unix.ETH_P_ALL}) // in network byte order
	if err = unix.Bind(socket, &unix.SockaddrLinklayer{Protocol: everything, Ifindex: l.Attrs().Index}); err != nil {
		unix.Close(socket)
	}
	return socket, err
}

// heard notes what has arrived meanwhile for addresses of other interfaces.
func (t *hearing) heard(h *snapshot.Host) error {
	if len(t.sockets) > 0 {
		time.Sleep(time.Until(t.since.Add(sampleTime)))
	}
	for _, tunnel := range slices.Sorted(maps.Keys(t.sockets)) {
		counts := map[string]uint64{} // by the interface that has the address
		for range mostHeard {
			asked, more := next(t.sockets[tunnel])
			if !more {
				break
			}
			for _, own := range h.Own {
				if own.Address == asked {
					counts[h.DeviceName(own.Interface)]++
				}
			}
		}
		for _, name := range slices.Sorted(maps.Keys(counts)) {
			h.WrongWays = append(h.WrongWays, snapshot.WrongWay{From: name, To: tunnel, Reason: snapshot.ReasonTunnel, Packets: counts[name]})
		}
	}
	return nil
}

// next takes the next packet, and returns its destination: not valid where that is not this host, or not told.
func next(socket int) (to netip.Addr, more bool) {
	packet := make([]byte, 40) // the header of IPv6, the longer one
	n, from, err := unix.Recvfrom(socket, packet, 0)
	if err != nil {
		return to, false // there is no more, or the tunnel has gone
	}
	if at, ok := from.(*unix.SockaddrLinklayer); !ok || at.Pkttype != unix.PACKET_HOST {
		return to, true
	}
	return destination(packet[:n]), true
}

// destination is that of an IP packet, not valid for any other.
func destination(packet []byte) (to netip.Addr) {
	switch {
	case len(packet) >= 20 && packet[0]>>4 == 4:
		to, _ = netip.AddrFromSlice(packet[16:20])
	case len(packet) >= 40 && packet[0]>>4 == 6:
		to, _ = netip.AddrFromSlice(packet[24:40])
	}
	return to
}

func (t *hearing) close() {
	for _, socket := range t.sockets {
		unix.Close(socket)
	}
}
