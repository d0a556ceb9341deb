// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/bpf/internal/rig"
	"replypath/test/await"
)

// eachAsked runs a test for both families on a host that was asked at the address from which no route would have it
// answer; the programs that mend that are attached.
func eachAsked(t *testing.T, f func(*testing.T, *bed, network)) {
	t.Helper()
	if host.Cookie == 0 {
		t.Skip("the kernel does not show the cookie of a network namespace: no SO_NETNS_COOKIE (Linux 5.14)")
	}
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		b.must(b.ForgetLeads(leadAsker))
		b.repair(repairOn)
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

// answer has a socket answer the peer, and holds the address that it does that from against this one, and whether
// that is a repair.
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
	wire := b.listen(b.replication.OtherEnd)
	b.sendTo(netip.AddrPortFrom(to, peerPort), fd, []byte("answer"), want)
	await.Same(b.t, "source of the answer", from, b.sourceOfAnswer(n, wire))
}

func (b *bed) listen(at uint32) int {
	b.t.Helper()
	return openWith(b.t, unix.AF_PACKET, unix.SOCK_RAW, 0, setTimeout, func(fd int) error {
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: rig.Port(unix.ETH_P_ALL), Ifindex: int(at)})
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

// serve opens a UDP socket at an address in the namespace of the host under test.
func (b *bed) serve(at netip.Addr, protocol int, steps ...step) int {
	b.t.Helper()
	self := netip.AddrPortFrom(at, selfPort)
	return openWith(b.t, familyOf(self), unix.SOCK_DGRAM, protocol, append(steps, bindTo(self))...)
}

// TestSourceRepaired: a wildcard socket answers from the address that was asked, by IPv4 as well if it is one of IPv6.
// One that is bound to an address answers from that.
func TestSourceRepaired(t *testing.T) {
	eachAsked(t, func(t *testing.T, b *bed, n network) { b.answer(n, b.serve(n.wildcard(), 0), n.other, true) })
	eachAsked(t, func(t *testing.T, b *bed, n network) {
		b.answer(n, b.serve(netip.IPv6Unspecified(), 0), n.other, true)
	})
	eachAsked(t, func(t *testing.T, b *bed, n network) { b.answer(n, b.serve(n.self, 0), n.self, false) })
}

// TestSourceLeft: what is not known, no longer so, or not ours to change goes as the kernel would have it.
func TestSourceLeft(t *testing.T) {
	for name, change := range map[string]setup{
		"nobody asked": func(b *bed, _ network) { b.must(b.ForgetLeads(leadAsker)) },
		"gone":         func(b *bed, _ network) { b.put() },
		"idle": func(b *bed, n network) {
			b.put(connectionlessFlow(b.flow(n.at(n.other), udp{}, b.replication, idleConnectionless+1)))
		},
		"address is no longer ours": func(b *bed, n network) {
			b.must(b.OwnAddresses.Delete(n.other.As16()))
		},
		"interface is gone": func(b *bed, _ network) { b.unmanage(b.replication) },
		"observed":          func(b *bed, _ network) { b.switchMode(modeObserve) },
		"trial is over":     func(b *bed, _ network) { b.configure(func(s *bpf.DatapathSettings) { s.Until = 1 }) },
		// Written beside the asker while it was looked up: the next one's flow.
		"of another peer": func(b *bed, n network) {
			another := newcomer(n.at(n.other))
			b.rewriteAsked(b.Seeds.Digest(another.tuple(udp{})))
			b.put(connectionlessFlow(b.flow(another, udp{}, b.replication, 0)))
		},
	} {
		under(t, name, eachAsked, func(t *testing.T, b *bed, n network) {
			change(b, n)
			b.answer(n, b.serve(n.wildcard(), 0), n.self, false)
		})
	}
}

// TestSourceUDPLite: UDP-Lite has ports of its own.
func TestSourceUDPLite(t *testing.T) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.IPPROTO_UDPLITE)
	if errors.Is(err, unix.EPROTONOSUPPORT) {
		t.Skip("the kernel has no UDP-Lite (deprecated since Linux 6.5)")
	}
	await.Must(t, err)
	closeSocket(t, fd)
	eachAsked(t, func(t *testing.T, b *bed, n network) {
		b.answer(n, b.serve(n.wildcard(), unix.IPPROTO_UDPLITE), n.self, false)
	})
}

// TestSourceOtherNamespace: a container's socket with the same ports is none of the host's.
func TestSourceOtherNamespace(t *testing.T) {
	container, err := rig.NewHost(0)
	await.Must(t, err)
	t.Cleanup(func() {
		if err := container.Close(); err != nil {
			t.Error(err)
		}
	})
	eachAsked(t, func(t *testing.T, b *bed, n network) {
		_, to := sockaddr(n.there())
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

// TestSourceBegun: what the host began, and was answered, stays where it is, though the peer, or somebody in its
// name, asks at another address.
func TestSourceBegun(t *testing.T) {
	for _, when := range []string{"before the answer", "afterwards"} {
		under(t, when, eachAsked, func(t *testing.T, b *bed, n network) {
			b.must(b.ForgetLeads(leadAsker))
			b.put()
			fd := b.serve(n.wildcard(), 0)
			b.speaks(n, udp{})
			if when == "before the answer" {
				b.question(n.at(n.other), udp{})
			}
			b.question(n, udp{}) // the answer
			b.question(n.at(n.other), udp{})
			b.flags(n.at(n.other))
			b.answer(n, fd, n.self, false)
		})
	}
}

// TestSourceBoundToDevice: a socket that is bound to a device was not asked by another one, nor a VRF's by what is none
// of its ports.
func TestSourceBoundToDevice(t *testing.T) {
	for _, by := range []struct {
		name          string
		nic           func(*bed) nic
		vrf, repaired bool
	}{
		{"another", func(b *bed) nic { return b.backup }, false, false},
		{"the same", func(b *bed) nic { return b.replication }, false, true},
		{"a port of its vrf", func(b *bed) nic { return b.backup }, true, true},
	} {
		under(t, by.name, eachAsked, func(t *testing.T, b *bed, n network) {
			asked := by.nic(b)
			b.put(connectionlessFlow(b.flow(n.at(n.other), udp{}, asked, 0)))
			if by.vrf { // the device stands for that
				b.manage(asked, func(i *bpf.DatapathInterface) { i.Vrf = b.replication.Index })
			}
			fd := b.serve(n.wildcard(), 0, bindToDevice(b.replication))
			b.answer(n, fd, either(by.repaired, n.other, n.self), by.repaired)
		})
	}
}

// eachSender runs a test for both families, with what the kernel has and with what 5.10 has, with the programs
// attached.
func eachSender(t *testing.T, f func(*testing.T, *bed, network)) {
	eachVariant(t, func(t *testing.T, b *bed, n network) {
		b.attachEgress()
		f(t, b, n)
	})
}

// untakenSender is a UDP socket that sends by the tuple of a flow that nobody took.
type untakenSender struct {
	name   string
	self   func(network) netip.Addr // what it is bound to
	peer   uint16                   // port of the peer's that it is connected to; 0: to none
	begins func(*bed) bool          // whether it is the host's own beginning
}

func always(*bed) bool { return true }

// tellsProxies: whether the programs can tell a transparent proxy's socket from others.
func tellsProxies(b *bed) bool { return b.Features.ProbeRead }

var untakenSenders = []untakenSender{
	{"bound to the port", network.wildcard, 0, always},
	{"bound to the address", network.own, 0, tellsProxies},
	{"connected", network.own, peerPort, always},
	{"connected to another", network.own, peerPort + 1, always},
}

// TestUntakenBegins: a flow whose datagrams nobody took is over when a socket of the host's sends by its tuple. What is
// another's answer goes back by it; so does what a transparent proxy sends, by whatever socket, where that can be told.
func TestUntakenBegins(t *testing.T) {
	for _, s := range untakenSenders {
		for _, transparent := range []bool{false, true} {
			under(t, fmt.Sprintf("%s, transparent %t", s.name, transparent), eachSender, func(t *testing.T, b *bed, n network) {
				m := udp{payload: 100}
				var steps []step
				if transparent {
					steps = append(steps, setOption(either(n.family == 4, unix.SOL_IP, unix.SOL_IPV6),
						either(n.family == 4, unix.IP_TRANSPARENT, unix.IPV6_TRANSPARENT), 1))
				}
				fd := b.serve(s.self(n), 0, steps...)
				if s.peer != 0 {
					b.must(connectTo(netip.AddrPortFrom(n.peer, s.peer))(fd))
				}
				begins := s.begins(b) && !(transparent && tellsProxies(b))
				b.put(connectionlessFlow(b.untaken(n, m, b.backup)))
				b.send(n, fd, m, either(begins, b.beginsAnew(n, m), b.sentBy(n, m, b.backup)))
			})
		}
	}
}

// TestUntakenRaw: what writes the UDP header itself may answer for others, though a socket of the host's would take
// the next datagram. The kernel shows the protocol of a raw socket as its port.
func TestUntakenRaw(t *testing.T) {
	for name, raw := range map[string]struct {
		protocol   int
		port       uint16
		withHeader bool
	}{"any protocol": {unix.IPPROTO_RAW, unix.IPPROTO_RAW, true}, "UDP": {unix.IPPROTO_UDP, selfPort, false}} {
		under(t, name, eachSender, func(t *testing.T, b *bed, n network) {
			defer closeSocket(t, listenUDP(t, netip.AddrPortFrom(n.wildcard(), raw.port)))
			m := udp{ports: ports{self: raw.port}, payload: 100}
			b.put(connectionlessFlow(b.untaken(n, m, b.backup)))
			fd := openWith(t, n.inet(), unix.SOCK_RAW, raw.protocol)
			b.sendRaw(n, fd, m, raw.withHeader, b.sentBy(n, m, b.backup))
		})
	}
}

func (b *bed) untaken(n network, m message, via nic) bpf.DatapathFlow {
	f := b.flow(n, m, via, 0)
	f.Flags |= flagNoSocket
	f.State = 0
	return f
}

// beginsAnew is the effect of a datagram by which the host begins in the place of a flow.
func (b *bed) beginsAnew(n network, m message) effect {
	return b.notes(n, m).and(func(t tables) { delete(t.Connectionless, n.tuple(m)) })
}

// TestBoundDevice: what a socket sends that is bound to another device stays there; one that is bound to the VRF of
// the flow's interface is not.
func TestBoundDevice(t *testing.T) {
	eachSender(t, func(t *testing.T, b *bed, n network) {
		m := udp{payload: 100}
		fd := b.serve(n.self, 0, bindToDevice(b.replication))
		b.put(connectionlessFlow(b.flow(n, m, b.backup, 0)))
		b.send(n, fd, m, b.keptBy(n, m, b.backup, bound))

		b.manage(b.backup, func(i *bpf.DatapathInterface) { i.Vrf = b.replication.Index })
		b.put(connectionlessFlow(b.flow(n, m, b.backup, 0)))
		b.send(n, fd, m, b.sentBy(n, m, b.backup))
	})
}

// TestBoundDeviceRaw: a raw socket sends its own protocol, or any. What is of another one only carries what the
// socket sent, as a tunnel does, and is not bound.
func TestBoundDeviceRaw(t *testing.T) {
	for _, s := range []struct {
		name       string
		protocol   func(network) int
		withHeader bool
		message
		reason bpf.DatapathOutcome // 0: it is moved
	}{
		{"of the protocol", func(n network) int { return int(echo{}.protocol(n)) }, false, echo{reply: true}, bound},
		{"of any", func(network) int { return unix.IPPROTO_RAW }, true, udp{payload: 100}, bound},
		{"of another", func(network) int { return unix.IPPROTO_GRE }, true, udp{payload: 100}, 0},
	} {
		under(t, s.name, eachSender, func(t *testing.T, b *bed, n network) {
			steps := []step{bindToDevice(b.replication)}
			if s.withHeader {
				steps = append(steps, n.writesHeader())
			}
			want := either(s.reason != 0, b.keptBy(n, s.message, b.backup, s.reason), b.sentBy(n, s.message, b.backup))
			b.put(connectionlessFlow(b.flow(n, s.message, b.backup, 0)))
			fd := openWith(t, n.inet(), unix.SOCK_RAW, s.protocol(n), steps...)
			b.sendRaw(n, fd, s.message, s.withHeader, want)
		})
	}
}

const bound = bpf.DatapathOutcomeOUTCOME_BOUND_DEVICE

var sourceSender = map[string]story{
	"one that sends frames sends all that it does itself": func(t *testing.T, b *bed, n network) {
		m := udp{payload: 100}
		b.put(connectionlessFlow(b.flow(n, m, b.backup, 0)))
		b.emitFrame(b.replication, n.out(b.replication, m), b.keptBy(n, m, b.backup, bound), bindToDevice(b.replication))
	},
	"a SYN-ACK is bound as the socket is that listens": func(t *testing.T, b *bed, n network) {
		openWith(t, n.inet(), unix.SOCK_STREAM, 0, bindToDevice(b.replication),
			bindTo(n.here()), listen)
		question := syn // the request outlives its listener for a second: by a port that no other test has
		question.ports = ports{peer: peerPort + 5000}
		b.put(halfOpen(b.flow(n, question, b.backup, 0)))
		wire := openWith(t, unix.AF_PACKET, unix.SOCK_RAW, 0)
		_, before := b.snapshot()
		b.must(sendFrame(wire, b.replication.OtherEnd, n.in(b.replication, question)))

		reasons := make(map[bpf.DatapathOutcome]uint64)
		for deadline := time.Now().Add(10 * time.Second); len(reasons) < 2 && time.Now().Before(deadline); {
			_, after := b.snapshot()
			for pair, counted := range pairDelta(before, after) {
				reasons[bpf.DatapathOutcome(pair.Outcome)] = counted.Packets + counted.Flows
			}
		}
		want := map[bpf.DatapathOutcome]uint64{outcomeAsymmetric: 1, bound: 1}
		await.Same(t, "outcomes of the SYN-ACK", want, reasons)
	},
}

func TestSourceSender(t *testing.T) { tell(t, eachSender, sourceSender) }
