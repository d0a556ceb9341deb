// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"bytes"
	"net"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket/layers"

	"replypath/bpf"
)

// nobodies are the MACs that nobody has.
var nobodies = map[string]net.HardwareAddr{"silent gateway": bpf.SilentGateway, "any peer": bpf.AnyPeer}

// TestNobodyIsNoStranger: bridges and hosts take the MACs for what they are, locally administered ones of single stations, and
// none is taken for a neighbouring number.
func TestNobodyIsNoStranger(t *testing.T) {
	for name, mac := range nobodies {
		if mac[0]&3 != 2 || !bpf.IsNobody(mac) {
			t.Errorf("%s: %s", name, mac)
		}
		for i := range mac {
			other := bytes.Clone(mac)
			if other[i] ^= 0x40; bpf.IsNobody(other) {
				t.Errorf("%s is nobody's too", net.HardwareAddr(other))
			}
		}
	}
}

// TestNobodyReaddressed: what belongs to a flow of this interface gets its MAC, whatever the next hop.
func TestNobodyReaddressed(t *testing.T) {
	for name, mac := range nobodies {
		t.Run(name, func(t *testing.T) {
			eachReply(t, func(t *testing.T, b *bed, n network, m message) {
				frame := n.out(b.replication, m, destinationMAC(mac))
				b.run(egress(b.replication, frame), b.readdresses(n, m, b.replication, frame))
			})
		})
	}
}

// TestNobodyMoved: what belongs to a flow of another interface is moved as ever.
func TestNobodyMoved(t *testing.T) {
	for name, mac := range nobodies {
		t.Run(name, func(t *testing.T) {
			eachReply(t, func(t *testing.T, b *bed, n network, m message) {
				frame := n.out(b.production, m, destinationMAC(mac))
				b.run(egress(b.production, frame), b.moves(n, m, b.production, b.replication, frame))
			})
		})
	}
}

// TestNobodyObserved: where nothing is corrected nothing leaves for nobody either.
func TestNobodyObserved(t *testing.T) {
	eachReply(t, func(t *testing.T, b *bed, n network, m message) {
		b.switchMode(bpf.DatapathModeMODE_OBSERVE)
		frame := n.out(b.production, m, destinationMAC(bpf.SilentGateway))
		got := b.perform(egress(b.production, frame))
		if left := got.verdict == pass; left {
			t.Errorf("verdict %d: it leaves", got.verdict)
		}
	})
}

// TestNobodyRefused: what the host begins is answered as where it has no route, everything else ends. By IPv4 what goes to any
// peer is sent to it as to a neighbour.
func TestNobodyRefused(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		for name, mac := range nobodies {
			t.Run(name, func(t *testing.T) {
				b.t = t
				question := n.out(b.production, echo{}, destinationMAC(mac))
				refused := effect{redirect: true, frame: b.unreachable(n, b.production, question), events: n.dropped()}
				segment := n.out(b.production, tcp{flags: "PA", payload: 10}, destinationMAC(mac))
				dropped := effect{drop: true, events: n.dropped()}
				if n.family == 4 && name == "any peer" {
					refused, dropped = effect{redirect: true}, effect{redirect: true}
				}
				b.run(egress(b.production, question), refused)
				b.run(egress(b.production, segment), dropped)
			})
		}
	})
}

// TestNobodyAsksEverybody: the kernel's question whether the gateway has the MAC that nobody has goes to everybody, by IPv4 to
// all stations, by IPv6 to the group of the address.
func TestNobodyAsksEverybody(t *testing.T) {
	router := netip.MustParseAddr("fd00:3::12:3456")
	solicitation := icmp{kind: layers.ICMPv6TypeNeighborSolicitation}
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		asked := func(mac net.HardwareAddr, edits ...edit) []byte {
			edits = append(edits, destinationMAC(mac))
			if n.family == 4 {
				return n.out(b.production, udp{}, append(edits, etherType(layers.EthernetTypeARP))...)
			}
			return n.out(b.production, solicitation, edits...)
		}
		want := asked(layers.EthernetBroadcast)
		if n.family == 6 {
			group := netip.MustParseAddr("ff02::1:ff12:3456")
			want = asked(net.HardwareAddr{0x33, 0x33, 0xff, 0x12, 0x34, 0x56}, destination(group))
		}
		toRouter := func(h *headers) {
			if n.family == 6 {
				destination(router)(h)
			}
		}
		got := b.perform(egress(b.production, asked(bpf.SilentGateway, toRouter)))
		if got.verdict != pass || !bytes.Equal(got.frame, want) {
			t.Errorf("verdict %d\n% x\nwanted to pass\n% x", got.verdict, got.frame, want)
		}
		t.Logf("asked as % x", got.frame[:6])
	})
}

// TestNobodyIsAskedNothingElse: nothing leaves that is no such question.
func TestNobodyIsAskedNothingElse(t *testing.T) {
	b, v4, v6 := newBed(t, normal), networks[0], networks[1]
	silent := destinationMAC(bpf.SilentGateway)
	for name, frame := range map[string][]byte{
		"any peer's MAC":            v4.out(b.production, udp{}, destinationMAC(bpf.AnyPeer), etherType(layers.EthernetTypeARP)),
		"neither ARP nor IP":        v4.out(b.production, udp{}, silent, etherType(layers.EthernetTypeLinkLayerDiscovery)),
		"advertisement":             v6.out(b.production, icmp{kind: layers.ICMPv6TypeNeighborAdvertisement}, silent),
		"135 of another protocol":   v6.out(b.production, raw{layers.IPProtocolUDP, []byte{135, 0, 0, 0, 0, 0, 0, 0}}, silent),
		"nothing behind the header": v6.out(b.production, raw{layers.IPProtocolNoNextHeader, nil}, silent),
	} {
		t.Run(name, func(t *testing.T) {
			b.t = t
			if got := b.perform(egress(b.production, frame)); got.verdict == pass {
				t.Errorf("verdict %d: it leaves", got.verdict)
			}
		})
	}
}

// TestNobodyWithoutTailCalls: where the kernel has none, frames for nobody end without an answer.
func TestNobodyWithoutTailCalls(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		b.must(b.Nobody.Delete(uint32(0)))
		defer func() { b.must(b.Nobody.Put(uint32(0), b.ReplypathFallback)) }()
		b.run(egress(b.production, n.out(b.production, echo{}, destinationMAC(bpf.SilentGateway))), effect{drop: true})
	})
}
