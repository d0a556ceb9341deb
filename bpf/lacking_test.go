// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"testing"
	"time"

	"github.com/gopacket/gopacket/layers"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/bpf/internal/rig"
	"replypath/test/await"
)

// eachFamilyOn runs a test for both families where lookups in some maps fail.
func eachFamilyOn(t *testing.T, v variant, f func(*testing.T, *bed, network)) {
	t.Helper()
	for _, n := range networks {
		t.Run(n.name, func(t *testing.T) { f(t, newBed(t, v), n) })
	}
}

// TestWithoutEvents: what happens cannot be counted, and happens all the same. Pairs find no slot, and are counted.
func TestWithoutEvents(t *testing.T) {
	eachFamilyOn(t, withoutEvents, func(t *testing.T, b *bed, n network) {
		for _, m := range starters {
			want := b.starts(n, m.message, b.replication)
			want.events = nil
			b.arrives(n, m.message, want)
		}
		spoken := udp{ports: ports{peer: peerPort + 1}}
		want := b.notes(n, spoken)
		want.events = nil
		b.leaves(n, spoken, want)
		b.run(ingress(b.production, n.in(b.production, spoken)), nothing)
		b.run(ingress(b.replication, n.at(n.stranger).in(b.replication, udp{})), nothing)
		b.run(egress(b.production, n.inPieces(b.production, 1).later), nothing)

		b.put(connectionlessFlow(b.flow(n, udp{}, b.replication, 0)))
		b.manage(b.replication, func(r *bpf.DatapathInterface) { r.Flags = 0 })
		b.wantStays(n, udp{}, outcomeLinkDown)
	})
}

// tunIndex stands for the tun device in the array of interfaces.
const tunIndex = 20

// openTun makes a device without an Ethernet header that takes packets of this size, attaches the program for such,
// and returns it and what reads that which leaves by it.
func (b *bed) openTun(mtu int) (nic, *os.File) {
	b.t.Helper()
	link := &netlink.Tuntap{
		LinkAttrs:  netlink.LinkAttrs{Name: "tun0"},
		Mode:       netlink.TUNTAP_MODE_TUN,
		Flags:      netlink.TUNTAP_NO_PI | netlink.TUNTAP_ONE_QUEUE,
		Queues:     1,
		NonPersist: true,
	}
	b.must(host.Do(func() error {
		return errors.Join(netlink.LinkAdd(link), netlink.LinkSetMTU(link, mtu), netlink.LinkSetUp(link))
	}))
	b.t.Cleanup(func() { b.must(link.Fds[0].Close()) })
	tun := nic{id: tunIndex}
	tun.Name, tun.Index, tun.MAC, tun.router = link.Name, uint32(link.Index), make(net.HardwareAddr, 6), make(net.HardwareAddr, 6)
	b.manage(tun, func(r *bpf.DatapathInterface) {
		r.Flags |= noHeader
		r.Mac = [6]uint8{}
		r.Gateways4, r.Gateways6, r.Gateway4, r.Gateway6 = 0, 0, 0, 0
	})
	detach, err := host.AttachEgress(b.ReplypathEgressL3, tun.Device)
	b.must(err)
	b.t.Cleanup(func() { b.must(detach()) })
	return tun, link.Fds[0]
}

// emitBare has a packet socket send a packet by a device without an Ethernet header.
func (b *bed) emitBare(n network, tun nic, packet []byte, want effect) {
	b.t.Helper()
	kind := either(n.family == 6, unix.ETH_P_IPV6, uint16(unix.ETH_P_IP))
	fd := openWith(b.t, unix.AF_PACKET, unix.SOCK_RAW, 0)
	b.emit(func() error {
		to := &unix.SockaddrLinklayer{Protocol: rig.Port(kind), Ifindex: int(tun.Index)}
		if err := unix.Sendto(fd, packet, 0, to); err != nil {
			return fmt.Errorf("send %d bytes by %s: %w", len(packet), tun.Name, err)
		}
		return nil
	}, want)
}

// wantLeaving holds what the tun device sends between the host and the peer against a packet.
func (b *bed) wantLeaving(n network, device *os.File, want []byte) {
	b.t.Helper()
	b.must(device.SetReadDeadline(time.Now().Add(10 * time.Second)))
	for buffer := make([]byte, 1<<16); ; {
		length, err := device.Read(buffer)
		b.must(err)
		if bytes.Contains(buffer[:length], n.peer.AsSlice()) {
			b.wantFrame(buffer[:length], want)
			return
		}
	}
}

// wantNothingHandedOver makes sure that no CPU waits for a packet at its target.
func (b *bed) wantNothingHandedOver() {
	b.t.Helper()
	cpus, err := b.ReadScratch()
	b.must(err)
	for cpu, scratch := range cpus {
		await.Same(b.t, fmt.Sprintf("interface for which CPU %d waits with a packet", cpu), 0, scratch.Handover.Ifindex)
	}
}

// largest is the size of the packets of these tests: the MTU of their device, and more than the kernel puts an
// Ethernet header before.
const largest = 20_000

// eachNoRoom runs a test for a flow of an interface with a header, whose replies the kernel sends by one without.
func eachNoRoom(t *testing.T, f func(t *testing.T, b *bed, n network, tun nic, device *os.File)) {
	eachSender(t, func(t *testing.T, b *bed, n network) {
		b.manage(b.backup, func(r *bpf.DatapathInterface) { r.Mtu = 1 << 16 })
		tun, device := b.openTun(largest)
		b.put(connectionlessFlow(b.flow(n, udp{}, b.backup, 0)))
		f(t, b, n, tun, device)
	})
}

// TestNoHeaderRoom: a packet that no header can be put before goes as routed, as it was. A tracer is told of that once.
func TestNoHeaderRoom(t *testing.T) {
	eachNoRoom(t, func(t *testing.T, b *bed, n network, tun nic, device *os.File) {
		m := udp{payload: largest - n.ipSize() - 8}
		packet := n.out(tun, m)[ethernetSize:]
		tracer := b.traceAll()
		b.emitBare(n, tun, packet, b.stays(n, m, tun, b.backup, packet, outcomeNoHeaderRoom))
		b.wantLeaving(n, device, packet)
		b.wantNothingHandedOver()
		if told := tracer.read(); len(told) != 1 || told[0].OutIfindex != tun.Index || told[0].Outcome != uint8(outcomeNoHeaderRoom) {
			t.Errorf("told: %+v", told)
		}
	})
}

// TestNoHeaderRoomFragments: the other fragments of such a packet follow the first one.
func TestNoHeaderRoomFragments(t *testing.T) {
	eachNoRoom(t, func(t *testing.T, b *bed, n network, tun nic, device *os.File) {
		m := udp{payload: largest - n.ipSize() - 8}
		frame := n.out(tun, m, func(h *headers) {
			if h.V4 != nil {
				h.V4.Flags = layers.IPv4MoreFragments
			}
		})
		later := n.inPieces(tun, 0x1234).later[ethernetSize:]
		if n.family == 6 {
			m.payload -= 8
			frame = rig.Extend(n.out(tun, m), first)
			later = rig.Extend(n.out(tun, udp{payload: 16}), last)[ethernetSize:]
		}
		b.emitBare(n, tun, frame[ethernetSize:], b.stays(n, m, tun, b.backup, frame[ethernetSize:], outcomeNoHeaderRoom))
		b.wantLeaving(n, device, frame[ethernetSize:])

		want := b.stays(n, m, tun, b.backup, later, outcomeNoHeaderRoom).again()
		b.emitBare(n, tun, later, want)
		b.wantLeaving(n, device, later)
	})
}
