// SPDX-License-Identifier: Apache-2.0

package model

import (
	"bytes"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"replypath/test/await"
)

func TestInSequence(t *testing.T) {
	for _, test := range []struct {
		number, low, high uint32
		want              bool
	}{
		{5, 5, 5, true},
		{4, 5, 9, false},
		{10, 5, 9, false},
		{2, 1<<32 - 2, 3, true},
		{1<<32 - 3, 1<<32 - 2, 3, false},
		{4, 1<<32 - 2, 3, false},
	} {
		if got := inSequence(test.number, test.low, test.high); got != test.want {
			t.Errorf("inSequence(%d, %d, %d) = %v", test.number, test.low, test.high, got)
		}
	}
}

func TestMSSOption(t *testing.T) {
	for _, test := range []struct {
		name    string
		options []byte
		at      int // in the options; 0: none
	}{
		{"none", nil, 0},
		{"alone", []byte{2, 4, 5, 180}, 2},
		{"after a no-operation", []byte{1, 2, 4, 5, 180, 0, 0, 0}, 3},
		{"after the end", []byte{0, 2, 4, 5, 180, 0, 0, 0}, 0},
		{"twice", []byte{2, 4, 5, 180, 2, 4, 5, 180}, 0},
		{"signed", append([]byte{2, 4, 5, 180, 29, 4, 0, 0}, 0, 0, 0, 0), 0},
		{"too long for the header", []byte{2, 4, 5}, 0},
		{"before a length of 0", []byte{2, 4, 5, 180, 3, 0, 0, 0}, 0},
	} {
		want := test.at
		if want != 0 {
			want += 20
		}
		if got := mssOption(append(make([]byte, 20), test.options...)); got != want {
			t.Errorf("%s: at %d, want %d", test.name, got, want)
		}
	}
}

// TestTooBig compares the errors with what a library makes.
func TestTooBig(t *testing.T) {
	quote := bytes.Repeat([]byte{1, 2, 3}, quoted)[:quoted]
	from4, to4 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	from6, to6 := netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")
	v4 := &layers.IPv4{Version: 4, TOS: 0xc0, TTL: 64, Flags: layers.IPv4DontFragment,
		Protocol: layers.IPProtocolICMPv4, SrcIP: from4.AsSlice(), DstIP: to4.AsSlice()}
	v6 := &layers.IPv6{Version: 6, TrafficClass: 0xc0, HopLimit: 64,
		NextHeader: layers.IPProtocolICMPv6, SrcIP: from6.AsSlice(), DstIP: to6.AsSlice()}
	icmp6 := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(layers.ICMPv6TypePacketTooBig, 0)}
	await.Must(t, icmp6.SetNetworkLayerForChecksum(v6))
	for _, test := range []struct {
		name string
		got  []byte
		want []gopacket.SerializableLayer
	}{
		{"ipv4", tooBigV4(from4, to4, 1400, quote), []gopacket.SerializableLayer{v4,
			&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(3, 4), Seq: 1400}, gopacket.Payload(quote)}},
		{"ipv6", tooBigV6(from6, to6, 1400, quote), []gopacket.SerializableLayer{v6,
			icmp6, gopacket.Payload{0, 0, 5, 120}, gopacket.Payload(quote)}},
	} {
		buffer := gopacket.NewSerializeBuffer()
		opts := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
		await.Must(t, gopacket.SerializeLayers(buffer, opts, test.want...))
		if got := test.got[2:]; !bytes.Equal(got, buffer.Bytes()) {
			t.Errorf("%s:\n%x, want\n%x", test.name, got, buffer.Bytes())
		}
	}
}

func TestExtraordinary(t *testing.T) {
	for address, want := range map[string]bool{
		"0.0.0.0": true, "0.0.0.1": false, "1.0.0.0": false, "127.0.0.1": true, "128.0.0.1": false,
		"169.254.0.0": true, "169.255.0.0": false, "223.255.255.255": false, "224.0.0.0": true, "239.255.255.255": true,
		"240.0.0.0": false, "255.255.255.254": false, "255.255.255.255": true,
		"::": true, "::1": true, "::2": false, "fe80::1": true, "febf:ffff::1": true, "fec0::1": false, "ff02::1": true,
	} {
		if got := extraordinary(netip.MustParseAddr(address)); got != want {
			t.Errorf("%s: %v", address, got)
		}
	}
}

// TestIdle: an entry lives for as long as its kind does, and a connection that one side has ended for two minutes.
func TestIdle(t *testing.T) {
	const now = 10_000_000
	for _, test := range []struct {
		name    string
		flow    Flow
		seconds uint32
	}{
		{"tcp", Flow{Tuple: Tuple{Protocol: protoTCP}}, 86400},
		{"closing", Flow{Tuple: Tuple{Protocol: protoTCP}, State: stateClosing}, 120},
		{"reset", Flow{Tuple: Tuple{Protocol: protoTCP}, Flags: flagReset}, 120},
		{"udp", Flow{Tuple: Tuple{Protocol: protoUDP}}, 180},
		{"echo", Flow{Tuple: Tuple{Protocol: protoICMP}}, 30},
	} {
		m := New(Host{}, func(seconds uint32) uint32 { return seconds * 10 })
		m.Now = now
		live := func(age uint32) bool {
			f := test.flow
			f.Seen = now - age
			if f.Tuple.Protocol == protoTCP {
				return m.IsEstablished(f)
			}
			return m.IsConnectionless(f)
		}
		if !live(test.seconds*10) || live(test.seconds*10+1) {
			t.Errorf("%s is not idle after %d seconds", test.name, test.seconds)
		}
	}
}
