// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"replypath/test/harness"
	"replypath/test/topology"
)

// leaving is what B originates from eth1's address.
type leaving struct {
	name   string
	frames topology.Filter
	send   func(*testing.T)
}

// rawPackets are of protocols without a socket of their own: SCTP, and one that is listed.
func rawPackets(s *topology.S1, f topology.Family) []leaving {
	init := []gopacket.SerializableLayer{
		&layers.SCTP{SrcPort: 20000, DstPort: closedPort},
		&layers.SCTPInit{SCTPChunk: layers.SCTPChunk{Type: layers.SCTPChunkTypeInit}, InitiateTag: 1, AdvertisedReceiverWindowCredit: 1500, OutboundStreams: 1, InboundStreams: 1},
	}
	return []leaving{
		rawPacket(s, f, layers.IPProtocolSCTP, init...),
		rawPacket(s, f, layers.IPProtocolGRE, &layers.GRE{Protocol: layers.EthernetTypeIPv4}),
	}
}

func rawPacket(s *topology.S1, f topology.Family, protocol layers.IPProtocol, content ...gopacket.SerializableLayer) leaving {
	self, peer := s.B.Eth1.Address(f), s.A.Eth1.Address(f)
	frames := topology.All(topology.Protocol(protocol), topology.From(self), topology.To(peer))
	return leaving{protocol.String(), frames, func(t *testing.T) {
		buffer := gopacket.NewSerializeBuffer()
		harness.Must(t, gopacket.SerializeLayers(buffer, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, content...))
		sendRaw(t, s.B.Host, protocol, self, peer, buffer.Bytes())
	}}
}

// sendRaw sends an IP packet with this content.
func sendRaw(t *testing.T, host *topology.Host, protocol layers.IPProtocol, from, to netip.Addr, content []byte) {
	t.Helper()
	network := map[topology.Family]string{topology.IPv4: "ip4:", topology.IPv6: "ip6:"}[topology.FamilyOf(from)] + fmt.Sprint(uint8(protocol))
	conn := harness.Must1[net.PacketConn](t)(host.ListenPacket(t.Context(), network, from.String()))
	defer conn.Close()
	harness.Must1[int](t)(conn.WriteTo(content, &net.IPAddr{IP: to.AsSlice()}))
}

// ownErrors are about packets that became no flow, from A: by eth1 what has a protocol that is not listed, by
// an interface that is not managed a datagram for nobody.
func ownErrors(s *topology.S1, inside *topology.Interface, f topology.Family) (all []leaving) {
	add := func(p provocation, at *topology.Interface, toMAC net.HardwareAddr) {
		all = append(all, leaving{"error: " + p.name, topology.All(p.answer(f), topology.From(s.B.Eth1.Address(f))), func(t *testing.T) {
			harness.NewInjector(t, at).Send(p.frame(at.MAC, toMAC, s.A.Eth1.Address(f), s.B.Eth1.Address(f))...)
		}})
	}
	for _, p := range answeredAsRouted {
		add(p, s.B.Eth1.Peer(), s.B.Eth1.MAC)
	}
	add(answeredWithErrors[0], inside, inside.Peer().MAC)
	return all
}

// wantLeaving has B send, and wants all of it by one of its interfaces, and at A only what left by eth1. It returns how many
// frames that were.
func wantLeaving(t *testing.T, s *topology.S1, all []leaving, eth1 bool) (count int) {
	t.Helper()
	wires, arrived := harness.Tap(t, s.B), harness.Capture(t, s.A.Eth1)
	by := wires.Eth0
	if eth1 {
		by = wires.Eth1
	}
	for _, l := range all {
		l.send(t)
		if _, err := by.Wait(harness.Within(t, harness.AnswerTime), topology.All(l.frames, topology.Going(topology.Received))); err != nil {
			t.Errorf("%s: %v", l.name, err)
		}
	}
	for _, f := range s.Families() { // behind all of it, on the way that it would have taken by eth0
		sendRaw(t, s.B.Host, experimental, s.B.Eth0.Address(f), s.A.Eth1.Address(f), nil)
		wait(t, arrived, topology.All(topology.From(s.B.Eth0.Address(f)), topology.Protocol(experimental)))
	}
	for _, l := range all {
		count += len(wires.Want(eth1, l.name, l.frames))
		if eth1 {
			wait(t, arrived, l.frames)
		} else if n := arrived.Count(l.frames); n > 0 {
			t.Errorf("%s: %d frames reached A, although they left by the wrong side", l.name, n)
		}
	}
	return count
}

// TestStrongHostPackets has B originate what is neither TCP nor UDP from eth1's address: SCTP, a listed protocol, and ICMP
// errors about what became no flow. Observed it leaves by eth0, where it is lost; enforced by eth1.
func TestStrongHostPackets(t *testing.T) {
	s := newBeginner(t, topology.StrictSource)
	inside := hostBehind(t, s)
	promptErrors(t, s.B.Host)
	var all []leaving
	for _, f := range s.Families() {
		all = append(append(all, rawPackets(s, f)...), ownErrors(s, inside, f)...)
	}
	wantLeaving(t, s, all, false)
	p := harness.On(t, s.B.Host)
	p.Start("--config", harness.WriteConfig(t, strongHost(s)+"mode: observe\nprotocols: [tcp, udp, icmp, icmpv6, sctp, gre]\n"))
	counted := func(labels ...string) float64 {
		return p.Metrics().Sum("replypath_originated_packets_total", append(labels, "from_interface=eth0", "to_interface=eth1")...)
	}
	observed := wantLeaving(t, s, all, false)
	reason := p.Metrics().Sum("replypath_originated_routed_packets_total", "reason=observe")
	if routed, total := counted("outcome=routed"), counted(); int(routed) != observed || routed != total || routed != reason {
		t.Errorf("observed: %d frames left, counted are %v, %v of them as routed and %v as observed", observed, total, routed, reason)
	}
	for _, f := range s.Families() { // whom observing asks for nobody has, nor has enforcing at once
		harness.Must(t, s.B.Eth1.Resolve(harness.Within(t, harness.AnswerTime), s.B.Eth1.Gateway(f)))
	}
	p.Expect(0, "mode", "enforce")
	enforced := wantLeaving(t, s, all, true)
	if moved := counted("outcome=moved"); int(moved) != enforced || int(counted("outcome=routed")) != observed {
		t.Errorf("enforced: %d frames left, %v are counted as moved", enforced, moved)
	}
	t.Logf("%d kinds of packets: %d frames by eth0 while observed, %d by eth1 while enforced", len(all), observed, enforced)
}
