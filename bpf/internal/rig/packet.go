// SPDX-License-Identifier: Apache-2.0

package rig

import (
	"fmt"
	"structs"

	"github.com/gopacket/gopacket"
)

const ethernetSize = 14

// Serialize builds a frame with lengths and checksums filled in, the Ethernet header first. The library pads frames to
// 60 bytes; that is taken off again, as the kernel's own frames have no padding either when they pass TC.
func Serialize(ethernet gopacket.SerializableLayer, layers ...gopacket.SerializableLayer) ([]byte, error) {
	buffer := gopacket.NewSerializeBuffer()
	opts := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	if err := gopacket.SerializeLayers(buffer, opts, layers...); err != nil {
		return nil, fmt.Errorf("build packet: %w", err)
	}
	size := len(buffer.Bytes())
	if err := ethernet.SerializeTo(buffer, gopacket.SerializeOptions{}); err != nil {
		return nil, fmt.Errorf("build frame: %w", err)
	}
	return buffer.Bytes()[:ethernetSize+size], nil
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
