// SPDX-License-Identifier: Apache-2.0

package load

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"replypath/test/await"
	"replypath/test/bench/contender"
)

// TestSYN compares the checksum with a library's, which is also asked what it reads.
func TestSYN(t *testing.T) {
	packet, random := newSYN(), rand.New(rand.NewPCG(1, 2))
	for range 100 {
		packet.from(random)
		decoded := gopacket.NewPacket(packet[:], layers.LayerTypeIPv4, gopacket.Default)
		ip, _ := decoded.NetworkLayer().(*layers.IPv4)
		tcp, _ := decoded.TransportLayer().(*layers.TCP)
		if ip == nil || tcp == nil {
			t.Fatalf("no SYN: %s", decoded)
		}
		if !tcp.SYN || tcp.ACK || int(tcp.DstPort) != firstPort || !ip.DstIP.Equal(contender.IPv4.Self.AsSlice()) {
			t.Fatalf("not a SYN to the server: %s", decoded)
		}
		await.Must(t, tcp.SetNetworkLayerForChecksum(ip))
		buffer := gopacket.NewSerializeBuffer()
		await.Must(t, tcp.SerializeTo(buffer, gopacket.SerializeOptions{ComputeChecksums: true}))
		if !bytes.Equal(buffer.Bytes(), packet[20:]) {
			t.Fatalf("% x, want % x", packet[20:], buffer.Bytes())
		}
	}
}

// TestFit leaves out what the machine is too small for.
func TestFit(t *testing.T) {
	fit, absent := Fit([]*Workload{{Name: "small"}, {Name: "large", CPUs: 1 << 20}})
	if len(fit) != 1 || fit[0].Name != "small" || absent["large"] == "" {
		t.Errorf("fit %+v, absent %+v", fit, absent)
	}
}
