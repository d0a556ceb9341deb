// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"strings"
	"testing"

	"replypath/bpf"
)

// TestFinalACK tries every bound of what answers a SYN-ACK.
func TestFinalACK(t *testing.T) {
	eachFamily(t, func(t *testing.T, _ *bed, n network) {
		for _, test := range []struct {
			name     string
			isn, nxt uint32
			ack      uint32
			good     bool
		}{
			{"one too low", ourISN, ourISN + 1, ourISN, false},
			{"right", ourISN, ourISN + 1, ourISN + 1, true},
			{"one too high", ourISN, ourISN + 1, ourISN + 2, false},
			{"zero", ourISN, ourISN + 1, 0, false},
			{"opposite", ourISN, ourISN + 1, ourISN + 1 + 1<<31, false},
			{"lowest with data", ourISN, ourISN + 11, ourISN + 1, true},
			{"within the data", ourISN, ourISN + 11, ourISN + 6, true},
			{"all data", ourISN, ourISN + 11, ourISN + 11, true},
			{"beyond the data", ourISN, ourISN + 11, ourISN + 12, false},
			{"wrapped", 1<<32 - 1, 0, 0, true},
			{"one too low, wrapped", 1<<32 - 1, 0, 1<<32 - 1, false},
			{"one too high, wrapped", 1<<32 - 1, 0, 1, false},
			{"data over the wrap, low", 1<<32 - 3, 7, 1<<32 - 2, true},
			{"data over the wrap, high", 1<<32 - 3, 7, 7, true},
			{"data over the wrap, too low", 1<<32 - 3, 7, 1<<32 - 3, false},
			{"data over the wrap, too high", 1<<32 - 3, 7, 8, false},
		} {
			t.Run(test.name, func(t *testing.T) {
				b := newBed(t, normal)
				flow := b.answered(n, b.replication, 1)
				flow.SndUna, flow.SndNxt = test.isn, test.nxt
				flow.State |= stateAsymmetric | stateCorrected
				flow.Flags |= flagActive
				flow.Corrected = 2
				b.put(halfOpen(flow))
				ack := tcp{flags: "A", ack: test.ack}
				want := unread(bpf.DatapathEventEVENT_IGNORED_HANDSHAKE)
				if test.good {
					want = establishes(flow, ack)
				}
				b.run(ingress(b.replication, n.in(b.replication, ack)), want)
			})
		}
	})
}

func TestFinalACKFlags(t *testing.T) {
	eachFamily(t, func(t *testing.T, _ *bed, n network) {
		for flags, good := range map[string]bool{
			"A": true, "PA": true, "FA": true, "FPA": true, "RA": false, "R": false, "P": false, "F": false, "": false,
		} {
			t.Run(flags, func(t *testing.T) {
				b := newBed(t, normal)
				flow := b.answered(n, b.replication, 1)
				b.put(halfOpen(flow))
				ack := tcp{flags: flags, ack: ourISN + 1}
				want := unread(bpf.DatapathEventEVENT_IGNORED_HANDSHAKE)
				if good {
					want = establishes(flow, ack)
				} else if strings.Contains(flags, "R") { // which ends no handshake
					want = nothing
				}
				b.run(ingress(b.replication, n.in(b.replication, ack)), want)
			})
		}
	})
}

// TestFinalACKNextHop: it is chosen anew where the SYN is not of this very second.
func TestFinalACKNextHop(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		for age, known := range map[uint32]bool{0: false, 1: true} {
			r := ingress(b.replication, n.in(b.replication, finalAck))
			b.inOneTick(r, func() effect {
				flow := b.answered(n, b.replication, age)
				flow.Gateway, flow.Flags = 0, 0
				b.put(halfOpen(flow))
				if known {
					flow.Gateway, flow.Flags = b.replication.gateway(n.family), flagGateway
				}
				return establishes(flow, finalAck)
			})
		}
	})
}

// TestFinalACKOfFIN: with Fast Open the host may have said all before it.
func TestFinalACKOfFIN(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		flow := b.answered(n, b.replication, 0)
		b.put(halfOpen(flow))
		b.exec(egress(b.replication, n.out(b.replication, tcp{flags: "FPA", seq: ourISN + 1, payload: 100})))
		flow.SndNxt += 101
		ack := tcp{flags: "A", seq: peerISN + 1, ack: ourISN + 102}
		b.run(ingress(b.replication, n.in(b.replication, ack)), establishes(flow, ack))
	})
}

// TestFinalACKUnanswered: an ACK proves nothing while nothing was sent, even if
// it guesses what the empty entry holds.
func TestFinalACKUnanswered(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		b.put(halfOpen(b.flow(n, tcp{}, b.replication, 0)))
		for _, ack := range []uint32{0, 1, ourISN + 1} {
			b.run(ingress(b.replication, n.in(b.replication, tcp{flags: "A", ack: ack})),
				unread(bpf.DatapathEventEVENT_IGNORED_HANDSHAKE))
		}
	})
}

func TestFinalACKLate(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		r := ingress(b.replication, n.in(b.replication, finalAck))
		b.inOneTick(r, func() effect {
			flow := b.answered(n, b.replication, uint32(bpf.DatapathIdleSecondsIDLE_HALF_OPEN))
			b.put(halfOpen(flow))
			return establishes(flow, finalAck)
		})
		flow := b.answered(n, b.replication, uint32(bpf.DatapathIdleSecondsIDLE_HALF_OPEN))
		flow.Seen--
		b.put(halfOpen(flow))
		b.run(r, b.meetsStranger(n, b.replication))
	})
}

// TestFinalACKOtherWay: the ACK is the proof, so its way is the connection's.
func TestFinalACKOtherWay(t *testing.T) {
	for _, follow := range []bpf.DatapathFollow{bpf.DatapathFollowFOLLOW_VALIDATED, bpf.DatapathFollowFOLLOW_LATEST} {
		eachFamily(t, func(t *testing.T, b *bed, n network) {
			b.configure(func(s *bpf.DatapathSettings) { s.Follow = uint8(follow) })
			flow := b.answered(n, b.replication, 1)
			b.put(halfOpen(flow))
			moved := b.flow(n, tcp{}, b.backup, 0)
			moved.Created, moved.SndUna, moved.SndNxt = flow.Created, flow.SndUna, flow.SndNxt
			b.run(ingress(b.backup, n.in(b.backup, finalAck)), establishes(moved, finalAck))
		})
	}
}

func TestFinalACKOtherWayPinned(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		b.configure(func(s *bpf.DatapathSettings) { s.Follow = uint8(bpf.DatapathFollowFOLLOW_PINNED) })
		flow := b.answered(n, b.replication, 1)
		b.put(halfOpen(flow))
		want := establishes(flow, finalAck)
		want.events[bpf.DatapathEventEVENT_REFUSED_PINNED] = 1
		b.run(ingress(b.backup, n.in(b.backup, finalAck)), want)
	})
}

func TestFinalACKUnmanagedInterface(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		b.put(halfOpen(b.answered(n, b.replication, 1)))
		b.unmanage(b.backup)
		b.run(ingress(b.backup, n.in(b.backup, finalAck)), unread(bpf.DatapathEventEVENT_IGNORED_INTERFACE))
	})
}
