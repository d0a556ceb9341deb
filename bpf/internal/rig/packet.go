// SPDX-License-Identifier: Apache-2.0

package rig

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"structs"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

const (
	ethernetSize = 14
	ipv6Size     = 40
)

// Headers are those before what an IP packet carries; one of V4 and V6 is nil.
type Headers struct {
	Ethernet *layers.Ethernet
	V4       *layers.IPv4
	V6       *layers.IPv6
}

// NewHeaders are those of a frame from one station to another, with a packet of this protocol.
func NewHeaders(fromMAC, toMAC net.HardwareAddr, from, to netip.Addr, protocol layers.IPProtocol) *Headers {
	ethernet := &layers.Ethernet{SrcMAC: fromMAC, DstMAC: toMAC, EthernetType: layers.EthernetTypeIPv4}
	if from.Is4() {
		return &Headers{Ethernet: ethernet, V4: &layers.IPv4{
			Version: 4, TTL: 64, Id: 0x1234, Protocol: protocol, SrcIP: from.AsSlice(), DstIP: to.AsSlice(),
		}}
	}
	ethernet.EthernetType = layers.EthernetTypeIPv6
	return &Headers{Ethernet: ethernet, V6: &layers.IPv6{
		Version: 6, HopLimit: 64, NextHeader: protocol, SrcIP: from.AsSlice(), DstIP: to.AsSlice(),
	}}
}

// Frame builds the frame, with this behind the IP header. What it is made of is known: it can be built, or the program
// is wrong.
func (h *Headers) Frame(rest ...gopacket.SerializableLayer) []byte {
	ip, network := gopacket.SerializableLayer(h.V4), gopacket.NetworkLayer(h.V4)
	if h.V6 != nil {
		ip, network = h.V6, h.V6
	}
	for _, layer := range rest {
		if checked, ok := layer.(interface {
			SetNetworkLayerForChecksum(gopacket.NetworkLayer) error
		}); ok {
			check(checked.SetNetworkLayerForChecksum(network))
		}
	}
	return Serialize(h.Ethernet, append([]gopacket.SerializableLayer{ip}, rest...)...)
}

// Serialize builds a frame with lengths and checksums filled in, the Ethernet header first. The library pads frames to
// 60 bytes; that is taken off again, as the kernel's own frames have no padding either when they pass TC.
func Serialize(ethernet gopacket.SerializableLayer, rest ...gopacket.SerializableLayer) []byte {
	buffer := gopacket.NewSerializeBuffer()
	opts := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	check(gopacket.SerializeLayers(buffer, opts, rest...))
	size := len(buffer.Bytes())
	check(ethernet.SerializeTo(buffer, gopacket.SerializeOptions{}))
	return buffer.Bytes()[:ethernetSize+size]
}

func check(err error) {
	if err != nil {
		panic(fmt.Errorf("build frame: %w", err))
	}
}

// Extension is an IPv6 extension header, whose first byte is filled in.
type Extension struct {
	Kind layers.IPProtocol
	Body []byte
}

// Extend puts extension headers behind the IPv6 header of a frame.
func Extend(frame []byte, extensions ...Extension) []byte {
	const length, nextHeader = ethernetSize + 4, ethernetSize + 6
	next := frame[nextHeader]
	var inserted []byte
	for _, e := range slices.Backward(extensions) {
		body := slices.Clone(e.Body)
		body[0], next = next, byte(e.Kind)
		inserted = append(body, inserted...)
	}
	extended := slices.Insert(slices.Clone(frame), ethernetSize+ipv6Size, inserted...)
	extended[nextHeader] = next
	binary.BigEndian.PutUint16(extended[length:], binary.BigEndian.Uint16(frame[length:])+uint16(len(inserted)))
	return extended
}

// Context is struct __sk_buff of <linux/bpf.h>, what BPF_PROG_TEST_RUN takes as the context of a TC program. The kernel
// refuses other fields than Mark, Priority, IngressIfindex, Ifindex, CB, Tstamp, WireLen, GSOSegs, GSOSize and
// Hwtstamp, and gives back the same ones (net/bpf/test_run.c, convert___skb_to_skb).
type Context struct {
	_              structs.HostLayout
	Len            uint32
	PktType        uint32
	Mark           uint32
	QueueMapping   uint32
	Protocol       uint32
	VLANPresent    uint32
	VLANTCI        uint32
	VLANProto      uint32
	Priority       uint32
	IngressIfindex uint32
	Ifindex        uint32
	TCIndex        uint32
	CB             [5]uint32
	Hash           uint32
	TCClassid      uint32
	Data           uint32
	DataEnd        uint32
	NAPIID         uint32
	Family         uint32
	RemoteIP4      uint32
	LocalIP4       uint32
	RemoteIP6      [4]uint32
	LocalIP6       [4]uint32
	RemotePort     uint32
	LocalPort      uint32
	DataMeta       uint32
	FlowKeys       uint64
	Tstamp         uint64
	WireLen        uint32
	GSOSegs        uint32
	Sk             uint64
	GSOSize        uint32
	TstampType     uint32
	Hwtstamp       uint64
}
