// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"slices"
	"testing"

	"github.com/gopacket/gopacket/layers"

	"replypath/bpf"
)

// Options of TCP headers.
func option(kind layers.TCPOptionKind, data ...byte) layers.TCPOption {
	o := layers.TCPOption{OptionType: kind, OptionData: data, OptionLength: uint8(2 + len(data))}
	if kind == layers.TCPOptionKindNop || kind == layers.TCPOptionKindEndList {
		o.OptionLength = 1
	}
	return o
}

func mss(size uint16) layers.TCPOption {
	return option(layers.TCPOptionKindMSS, byte(size>>8), byte(size))
}

var (
	nop       = option(layers.TCPOptionKindNop)
	end       = option(layers.TCPOptionKindEndList)
	sack      = option(layers.TCPOptionKindSACKPermitted)
	timestamp = option(layers.TCPOptionKindTimestamps, 1, 2, 3, 4, 5, 6, 7, 8)
	scale     = option(layers.TCPOptionKindWindowScale, 7)
	signature = option(19, make([]byte, 16)...) // RFC 2385: does not cover the options
	signed    = option(29, make([]byte, 14)...) // RFC 5925: does
)

// largestMSS is what fits the narrow interface.
func largestMSS(n network) uint16 { return uint16(narrowMTU - n.ipSize() - 20) }

// announcements are options of a SYN, and whether the size in them stays whatever
// it is.
var announcements = []struct {
	name    string
	options func(size uint16) []layers.TCPOption
	stays   bool
}{
	{"only", func(s uint16) []layers.TCPOption { return []layers.TCPOption{mss(s)} }, false},
	{"linux", func(s uint16) []layers.TCPOption { return []layers.TCPOption{mss(s), sack, timestamp, nop, scale} }, false},
	{"windows", func(s uint16) []layers.TCPOption { return []layers.TCPOption{mss(s), nop, scale, nop, nop, sack} }, false},
	{"last", func(s uint16) []layers.TCPOption { return []layers.TCPOption{sack, timestamp, scale, nop, mss(s)} }, false},
	{"astride two words", func(s uint16) []layers.TCPOption { return []layers.TCPOption{nop, mss(s), nop, nop, nop} }, false},
	{"astride two words, last", func(s uint16) []layers.TCPOption { return []layers.TCPOption{nop, nop, nop, mss(s), end} }, false},
	{"after 36 no-operations", func(s uint16) []layers.TCPOption {
		return append(slices.Repeat([]layers.TCPOption{nop}, 36), mss(s))
	}, false},
	{"before 36 no-operations", func(s uint16) []layers.TCPOption {
		return append([]layers.TCPOption{mss(s)}, slices.Repeat([]layers.TCPOption{nop}, 36)...)
	}, false},
	{"signed without options", func(s uint16) []layers.TCPOption { return []layers.TCPOption{nop, nop, signature, mss(s)} }, false},
	{"before the end", func(s uint16) []layers.TCPOption { return []layers.TCPOption{mss(s), end, signed} }, false},
	{"none", func(uint16) []layers.TCPOption { return nil }, true},
	{"others", func(uint16) []layers.TCPOption { return []layers.TCPOption{sack, timestamp, scale, nop} }, true},
	{"after the end", func(s uint16) []layers.TCPOption { return []layers.TCPOption{sack, end, mss(s)} }, true},
	{"signed", func(s uint16) []layers.TCPOption { return []layers.TCPOption{mss(s), signed} }, true},
	{"twice", func(s uint16) []layers.TCPOption { return []layers.TCPOption{mss(s), mss(s)} }, true},
	{"too short", func(uint16) []layers.TCPOption {
		return []layers.TCPOption{option(layers.TCPOptionKindMSS, 0x20), nop}
	}, true},
	{"too long", func(s uint16) []layers.TCPOption {
		return []layers.TCPOption{option(layers.TCPOptionKindMSS, byte(s>>8), byte(s), 0, 0), nop, nop}
	}, true},
}

// TestSizeAnnounced: a SYN by a narrow interface, and the SYN-ACK that is moved to
// it, announce no more than it takes, with whatever options, extension headers and
// IPv4 options; the checksum is right afterwards.
func TestSizeAnnounced(t *testing.T) {
	for _, test := range announcements {
		t.Run(test.name, func(t *testing.T) {
			eachFamily(t, func(t *testing.T, b *bed, n network) {
				b.limit(narrowMTU)
				for _, size := range []uint16{0, 536, largestMSS(n) - 1, largestMSS(n), largestMSS(n) + 1, 1460, 8960, 0xffff} {
					becomes := min(size, largestMSS(n))
					if test.stays {
						becomes = size
					}
					for _, edits := range []edit{ipOptions(0), ipOptions(4), ipOptions(40)} {
						in := func(size uint16) []byte {
							return n.in(b.replication, tcp{flags: "S", seq: peerISN, options: test.options(size)}, edits)
						}
						b.announces(n, in(size), in(becomes))
					}
					if n.family == 6 {
						in := func(size uint16) []byte {
							return extend(n.in(b.replication, tcp{flags: "S", seq: peerISN, options: test.options(size)}), hopByHop, longOptions)
						}
						b.announces(n, in(size), in(becomes))
					}
					out := func(size uint16) []byte {
						return n.out(b.production, tcp{flags: "SA", seq: ourISN, ack: peerISN + 1, options: test.options(size)})
					}
					b.answersWith(n, out(size), out(becomes))
				}
			})
		})
	}
}

// announces runs a SYN that starts a flow, and has to become another.
func (b *bed) announces(n network, frame, becomes []byte) {
	b.t.Helper()
	b.put()
	want := b.starts(n, syn, b.replication)
	want.frame = becomes
	b.run(ingress(b.replication, frame), want)
}

// answersWith runs a SYN-ACK that is moved, and has to become another.
func (b *bed) answersWith(n network, frame, becomes []byte) {
	b.t.Helper()
	b.put(halfOpen(b.answered(n, b.replication, 0)))
	b.run(egress(b.production, frame), b.moves(n, synAck, b.production, b.replication, becomes))
}

// TestSizeNotAnnounced: what need not be lowered, or must not be, stays.
func TestSizeNotAnnounced(t *testing.T) {
	large := []layers.TCPOption{mss(1460)}
	syn, synAck := syn, synAck
	syn.options, synAck.options = large, large
	both := func(t *testing.T, set func(*bpf.DatapathInterface), prepare func(*bed)) {
		eachFamily(t, func(t *testing.T, b *bed, n network) {
			b.manage(b.replication, func(r *bpf.DatapathInterface) {
				r.Mtu, r.Flags = narrowMTU, r.Flags|narrow
				set(r)
			})
			prepare(b)
			frame := n.in(b.replication, syn)
			b.announces(n, frame, frame)
			b.put(halfOpen(b.answered(n, b.replication, 0)))
			frame = n.out(b.production, synAck)
			_, left, _ := b.exec(egress(b.production, frame))
			if !slices.Equal(left[2*6:], frame[2*6:]) {
				t.Errorf("the SYN-ACK was changed:\n%x\n%x", frame, left)
			}
		})
	}
	t.Run("no other interface takes more", func(t *testing.T) {
		both(t, func(r *bpf.DatapathInterface) { r.Flags &^= narrow }, func(*bed) {})
	})
	t.Run("observe", func(t *testing.T) {
		both(t, func(r *bpf.DatapathInterface) { r.Mode = uint8(bpf.DatapathModeMODE_OBSERVE) }, func(*bed) {})
	})
	t.Run("observe by hand", func(t *testing.T) {
		both(t, func(*bpf.DatapathInterface) {}, func(b *bed) { b.switchMode(bpf.DatapathModeMODE_OBSERVE) })
	})
	t.Run("smaller than the headers", func(t *testing.T) {
		eachFamily(t, func(t *testing.T, b *bed, n network) {
			for _, mtu := range []uint32{0, uint32(n.ipSize() + 20)} {
				b.limit(mtu)
				frame := n.in(b.replication, syn)
				b.announces(n, frame, frame)
			}
		})
	})
	t.Run("fragment", func(t *testing.T) {
		b := newBed(t, normal)
		b.limit(narrowMTU)
		frame := networks[0].in(b.replication, syn, func(h *headers) { h.v4.Flags = layers.IPv4MoreFragments })
		b.announces(networks[0], frame, frame)
		frame = extend(networks[1].in(b.replication, syn), first)
		b.announces(networks[1], frame, frame)
	})
	t.Run("options of wrong lengths", func(t *testing.T) {
		eachFamily(t, func(t *testing.T, b *bed, n network) {
			b.limit(narrowMTU)
			syn := syn
			syn.options = []layers.TCPOption{mss(1460), sack, nop, nop}
			sackLength := ethernetSize + n.ipSize() + 20 + 4 + 1
			for _, length := range []byte{0, 1, 5, 0xff} {
				frame := setByte(sackLength, length)(n.in(b.replication, syn))
				b.announces(n, frame, frame)
			}
		})
	})
	t.Run("no flow", func(t *testing.T) {
		eachFamily(t, func(t *testing.T, b *bed, n network) {
			b.limit(narrowMTU)
			frame := n.in(b.replication, syn, destination(n.stranger))
			b.run(ingress(b.replication, frame), unread(bpf.DatapathEventEVENT_IGNORED_NOT_OWN))
		})
	})
	t.Run("refused", func(t *testing.T) {
		eachFamily(t, func(t *testing.T, b *bed, n network) {
			b.limit(narrowMTU)
			b.configure(func(s *bpf.DatapathSettings) { s.Follow = uint8(bpf.DatapathFollowFOLLOW_PINNED) })
			b.put(halfOpen(b.answered(n, b.backup, 3)))
			b.run(ingress(b.replication, n.in(b.replication, syn)), unread(bpf.DatapathEventEVENT_REFUSED_PINNED))
		})
	})
	t.Run("interface of another", func(t *testing.T) {
		eachFamily(t, func(t *testing.T, b *bed, n network) {
			b.limit(narrowMTU)
			frame := n.in(b.backup, syn)
			b.run(ingress(b.backup, frame), b.starts(n, syn, b.backup))
		})
	})
	t.Run("leaves by its own", func(t *testing.T) {
		eachFamily(t, func(t *testing.T, b *bed, n network) {
			b.limit(narrowMTU)
			b.put(halfOpen(b.answered(n, b.replication, 0)))
			b.run(egress(b.replication, n.out(b.replication, synAck)), nothing)
		})
	})
}

// TestSizeAnnouncedAgain: a SYN that is sent again is changed as the first was.
func TestSizeAnnouncedAgain(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		b.limit(narrowMTU)
		with := func(size uint16) []byte {
			again := syn
			again.options = []layers.TCPOption{mss(size)}
			return n.in(b.replication, again)
		}
		flow := b.answered(n, b.replication, 3)
		b.put(halfOpen(flow))
		flow.Seen = justNow
		b.run(ingress(b.replication, with(1460)), effect{tables: halfOpen(flow), frame: with(largestMSS(n))})
	})
}

// TestSizeAnnouncedL3: devices without an Ethernet header are narrow as well.
func TestSizeAnnouncedL3(t *testing.T) {
	eachL3(t, func(t *testing.T, b *bed, n network) {
		b.manage(b.replication, func(r *bpf.DatapathInterface) {
			r.Flags |= narrow | uint8(bpf.DatapathInterfaceFlagsINTERFACE_NO_HEADER)
			r.Mtu = narrowMTU
		})
		with := func(size uint16) run {
			syn := syn
			syn.options = []layers.TCPOption{mss(size)}
			return ingressL3(b.replication, n.in(b.replication, syn))
		}
		_, frame, _ := b.exec(with(1460))
		if want := with(largestMSS(n)).frame; !slices.Equal(frame, want) {
			t.Errorf("\n%x, want\n%x", frame, want)
		}
	})
}
