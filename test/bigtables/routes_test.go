// SPDX-License-Identifier: Apache-2.0

package bigtables

import (
	"context"
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"replypath/test/await"
	"replypath/test/topology"
)

// speaker enters routes as a BGP speaker does: many in one message, no answer awaited.
type speaker struct {
	t      testing.TB
	socket int
	device int // index
	via    map[topology.Family]netip.Addr
}

// batch is how many routes are sent at once.
const batch = 200

// newSpeaker returns one whose routes lead by an interface's gateways.
func newSpeaker(t testing.TB, host *topology.Host, nic *topology.Interface, via ...netip.Addr) *speaker {
	t.Helper()
	s := &speaker{t: t, device: nic.Index, via: make(map[topology.Family]netip.Addr)}
	for _, gateway := range via {
		s.via[topology.FamilyOf(gateway)] = gateway
	}
	await.Must(t, host.Do(func() (err error) {
		s.socket, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
		return err
	}))
	t.Cleanup(func() { unix.Close(s.socket) })
	return s
}

// network is the nth of those that the speaker knows of a family.
func network(family topology.Family, n int) netip.Prefix {
	if family == topology.IPv4 {
		var a [4]byte
		binary.BigEndian.PutUint32(a[:], 20<<24+uint32(n)<<8)
		return netip.PrefixFrom(netip.AddrFrom4(a), 24)
	}
	a := netip.MustParseAddr("2a00::").As16()
	binary.BigEndian.PutUint32(a[2:], uint32(n))
	return netip.PrefixFrom(netip.AddrFrom16(a), 48)
}

// send enters routes to networks, or takes them away: messageType is RTM_NEWROUTE or RTM_DELROUTE.
func (s *speaker) send(messageType uint16, family topology.Family, from, to int) {
	s.t.Helper()
	var message []byte
	flush := func() {
		if len(message) > 0 {
			await.Must(s.t, unix.Sendto(s.socket, message, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}))
			message = message[:0]
		}
	}
	for n := from; n < to; n++ {
		message = append(message, s.route(messageType, network(family, n))...)
		if (n-from)%batch == batch-1 {
			flush()
		}
	}
	flush()
}

func (s *speaker) route(messageType uint16, network netip.Prefix) []byte {
	family := topology.FamilyOf(network.Addr())
	request := nl.NewNetlinkRequest(int(messageType), 0)
	if messageType == unix.RTM_NEWROUTE {
		request.Flags |= unix.NLM_F_CREATE
	}
	header := nl.NewRtMsg()
	header.Family, header.Dst_len, header.Protocol = unix.AF_INET, uint8(network.Bits()), unix.RTPROT_BGP
	if family == topology.IPv6 {
		header.Family = unix.AF_INET6
	}
	request.AddData(header)
	request.AddData(nl.NewRtAttr(unix.RTA_DST, network.Addr().AsSlice()))
	request.AddData(nl.NewRtAttr(unix.RTA_GATEWAY, s.via[family].AsSlice()))
	request.AddData(nl.NewRtAttr(unix.RTA_OIF, nl.Uint32Attr(uint32(s.device))))
	return request.Serialize()
}

// change has routes come and go, so many a second, until ctx ends. It returns how many changes there were.
func (s *speaker) change(ctx context.Context, each int) (changes int) {
	tick := time.NewTicker(time.Second / time.Duration(each))
	defer tick.Stop()
	const first = 2_000_000 // above those that stay
	for {
		select {
		case <-ctx.Done():
			return changes
		case <-tick.C:
		}
		family := topology.IPv4
		if changes/20%2 == 1 {
			family = topology.IPv6
		}
		messageType := uint16(unix.RTM_NEWROUTE)
		if changes/10%2 == 1 {
			messageType = unix.RTM_DELROUTE
		}
		s.send(messageType, family, first+changes%10, first+changes%10+1)
		changes++
	}
}
