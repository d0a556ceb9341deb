// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/bpf/internal/rig"
)

// eachAsked runs a test for both families on a host that was asked at the address from which no
// route would have it answer; the programs that mend that are attached.
func eachAsked(t *testing.T, f func(*testing.T, *bed, network)) {
	t.Helper()
	if host.Cookie == 0 {
		t.Skip("the kernel does not show the cookie of a network namespace: no SO_NETNS_COOKIE (Linux 5.14)")
	}
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		b.must(b.Asked.Put(uint32(0), bpf.DatapathAskedSet{}))
		b.configure(func(s *bpf.DatapathSettings) { s.Repair = uint8(bpf.DatapathSourceRepairREPAIR_ON) })
		server := listenUDP(t, netip.AddrPortFrom(n.wildcard(), selfPort))
		b.question(n.at(n.other), udp{})
		closeSocket(t, server)
		b.wantAsked(n.at(n.other).tuple(udp{}))
		detach, err := b.AttachSource()
		b.must(err)
		t.Cleanup(func() { b.must(detach()) })
		f(t, b, n)
	})
}

// answer has a socket answer the peer, and holds the address that it does that from against
// this one, and whether that is a repair.
func (b *bed) answer(n network, fd int, from netip.Addr, repaired bool) {
	b.t.Helper()
	to := n.peer
	if family, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN); err != nil || family == unix.AF_INET6 {
		b.must(err)
		to = netip.AddrFrom16(n.peer.As16()) // IPv4-mapped where it is IPv4
	}
	var want effect
	if repaired {
		want.events = once(bpf.DatapathEventEVENT_SOURCE_REPAIRED_V4)
		if n.family == 6 {
			want.events = once(bpf.DatapathEventEVENT_SOURCE_REPAIRED_V6)
		}
	}
	wire := b.listen(b.replication)
	b.sendTo(netip.AddrPortFrom(to, peerPort), fd, []byte("answer"), want)
	if got := b.sourceOfAnswer(n, wire); got != from {
		b.t.Errorf("answers from %s, want %s", got, from)
	}
}

// listen opens a packet socket at the other end of an interface.
func (b *bed) listen(via nic) int {
	b.t.Helper()
	return openWith(b.t, unix.AF_PACKET, unix.SOCK_RAW, 0, func(fd int) error {
		patience := unix.NsecToTimeval((10 * time.Second).Nanoseconds())
		return errors.Join(
			unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &patience),
			unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: rig.Port(unix.ETH_P_ALL), Ifindex: int(via.OtherEnd)}),
		)
	})
}

// read waits for a frame. With a limit to that the kernel does not go on after a signal.
func (b *bed) read(wire int, buffer []byte) (length int) {
	b.t.Helper()
	length, err := unix.Read(wire, buffer)
	for errors.Is(err, unix.EINTR) {
		length, err = unix.Read(wire, buffer)
	}
	b.must(err)
	return length
}

// sourceOfAnswer waits for the datagram to the peer and says where it comes from.
func (b *bed) sourceOfAnswer(n network, wire int) netip.Addr {
	b.t.Helper()
	size := n.peer.BitLen() / 8
	addresses := ethernetSize + n.ipSize() - 2*size // the last two fields of either header
	for buffer := make([]byte, 2048); ; {
		frame := buffer[:b.read(wire, buffer)]
		transport := ethernetSize + n.ipSize()
		if len(frame) < transport+4 || binary.BigEndian.Uint16(frame[transport+2:]) != peerPort {
			continue
		}
		source, _ := netip.AddrFromSlice(frame[addresses : addresses+size])
		destination, _ := netip.AddrFromSlice(frame[addresses+size : transport])
		if destination == n.peer {
			return source
		}
	}
}

// serve opens a wildcard UDP socket in the namespace of the host under test.
func (b *bed) serve(n network, protocol int) int {
	b.t.Helper()
	return openWith(b.t, n.inet(), unix.SOCK_DGRAM, protocol, bindTo(netip.AddrPortFrom(n.wildcard(), selfPort)))
}

// TestSourceRepaired: a wildcard socket answers from the address that was asked.
func TestSourceRepaired(t *testing.T) {
	eachAsked(t, func(t *testing.T, b *bed, n network) {
		b.answer(n, b.serve(n, 0), n.other, true)
	})
}

// TestSourceRepairedMapped: an IPv6 socket that answers an IPv4 peer sends by IPv4.
func TestSourceRepairedMapped(t *testing.T) {
	eachAsked(t, func(t *testing.T, b *bed, n network) {
		fd := openWith(t, unix.AF_INET6, unix.SOCK_DGRAM, 0, bindTo(netip.AddrPortFrom(netip.IPv6Unspecified(), selfPort)))
		b.answer(n, fd, n.other, true)
	})
}

// TestSourceLeft: what is not known, no longer so, or not ours to change goes as the kernel
// would have it.
func TestSourceLeft(t *testing.T) {
	flowAt := func(b *bed, n network, change func(*bpf.DatapathFlow)) {
		f := b.flow(n.at(n.other), udp{}, b.replication, 0)
		change(&f)
		b.put(connectionlessFlow(f))
	}
	for name, change := range map[string]func(*bed, network){
		"nobody asked": func(b *bed, _ network) { b.must(b.Asked.Put(uint32(0), bpf.DatapathAskedSet{})) },
		"gone":         func(b *bed, _ network) { b.put() },
		"idle": func(b *bed, n network) {
			flowAt(b, n, func(f *bpf.DatapathFlow) {
				f.Seen = b.ago(uint32(bpf.DatapathIdleSecondsIDLE_CONNECTIONLESS) + 1)
			})
		},
		"address is no longer ours": func(b *bed, n network) {
			b.must(b.OwnAddresses.Delete(bpf.DatapathAddress{Bytes: n.other.As16()}))
		},
		"interface is gone": func(b *bed, _ network) {
			b.setInterface(b.replication, bpf.DatapathInterface{})
		},
		"observed": func(b *bed, _ network) { b.switchMode(bpf.DatapathModeMODE_OBSERVE) },
		// Written beside the asker while it was looked up: the next one's flow.
		"of another peer": func(b *bed, n network) {
			var set bpf.DatapathAskedSet
			b.must(b.Asked.Lookup(uint32(0), &set))
			another := newcomer(n.at(n.other))
			for way := range set.Flow {
				set.Flow[way] = b.Seeds.Digest(another.tuple(udp{}))
			}
			b.must(b.Asked.Put(uint32(0), set))
			b.put(connectionlessFlow(b.flow(another, udp{}, b.replication, 0)))
		},
	} {
		t.Run(name, func(t *testing.T) {
			eachAsked(t, func(t *testing.T, b *bed, n network) {
				change(b, n)
				b.answer(n, b.serve(n, 0), n.self, false)
			})
		})
	}
}

// TestSourceBound: a socket that is bound to an address answers from that.
func TestSourceBound(t *testing.T) {
	eachAsked(t, func(t *testing.T, b *bed, n network) {
		fd := openWith(t, n.inet(), unix.SOCK_DGRAM, 0, bindTo(netip.AddrPortFrom(n.self, selfPort)))
		b.answer(n, fd, n.self, false)
	})
}

// TestSourceUDPLite: UDP-Lite has ports of its own.
func TestSourceUDPLite(t *testing.T) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.IPPROTO_UDPLITE)
	if errors.Is(err, unix.EPROTONOSUPPORT) {
		t.Skip("the kernel has no UDP-Lite (deprecated since Linux 6.5)")
	}
	if err != nil {
		t.Fatal(err)
	}
	closeSocket(t, fd)
	eachAsked(t, func(t *testing.T, b *bed, n network) {
		b.answer(n, b.serve(n, unix.IPPROTO_UDPLITE), n.self, false)
	})
}

// TestSourceOtherNamespace: a container's socket with the same ports is none of the host's.
func TestSourceOtherNamespace(t *testing.T) {
	container, err := rig.NewHost(0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := container.Close(); err != nil {
			t.Error(err)
		}
	})
	eachAsked(t, func(t *testing.T, b *bed, n network) {
		_, to := sockaddr(netip.AddrPortFrom(n.peer, peerPort))
		b.emit(func() error {
			return container.Do(func() error {
				fd, err := unix.Socket(n.inet(), unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
				if err != nil {
					return err
				}
				defer unix.Close(fd)
				if err := bindTo(netip.AddrPortFrom(n.wildcard(), selfPort))(fd); err != nil {
					return err
				}
				if err := unix.Sendto(fd, nil, 0, to); !errors.Is(err, unix.ENETUNREACH) {
					return errors.Join(errors.New("a namespace without a route sends"), err)
				}
				return nil
			})
		}, nothing)
	})
}

// TestSourceBegun: what the host began, and was answered, stays where it is, though the peer, or
// somebody in its name, asks at another address.
func TestSourceBegun(t *testing.T) {
	for _, when := range []string{"before the answer", "afterwards"} {
		t.Run(when, func(t *testing.T) {
			eachAsked(t, func(t *testing.T, b *bed, n network) {
				b.must(b.Asked.Put(uint32(0), bpf.DatapathAskedSet{}))
				b.put()
				fd := b.serve(n, 0)
				b.speaks(n, udp{})
				if when == "before the answer" {
					b.question(n.at(n.other), udp{})
				}
				b.question(n, udp{}) // the answer
				b.question(n.at(n.other), udp{})
				b.flags(n.at(n.other))
				b.answer(n, fd, n.self, false)
			})
		})
	}
}

// TestSourceBoundToDevice: a socket that is bound to a device was not asked by another one, nor a
// VRF's by what is none of its ports.
func TestSourceBoundToDevice(t *testing.T) {
	for _, by := range []struct {
		name     string
		nic      func(*bed) nic
		vrf      bool
		repaired bool
	}{
		{"another", func(b *bed) nic { return b.backup }, false, false},
		{"the same", func(b *bed) nic { return b.replication }, false, true},
		{"a port of its vrf", func(b *bed) nic { return b.backup }, true, true},
	} {
		t.Run(by.name, func(t *testing.T) {
			eachAsked(t, func(t *testing.T, b *bed, n network) {
				asked := by.nic(b)
				b.put(connectionlessFlow(b.flow(n.at(n.other), udp{}, asked, 0)))
				if by.vrf { // the device stands for that
					b.manage(asked, func(i *bpf.DatapathInterface) { i.Vrf = b.replication.Index })
				}
				fd := openWith(t, n.inet(), unix.SOCK_DGRAM, 0, bindToDevice(b.replication),
					bindTo(netip.AddrPortFrom(n.wildcard(), selfPort)))
				from := n.self
				if by.repaired {
					from = n.other
				}
				b.answer(n, fd, from, by.repaired)
			})
		})
	}
}
