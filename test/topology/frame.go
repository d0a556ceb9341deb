// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"
)

// Direction is which way a frame passed the interface of its capture.
type Direction int

// The directions.
const (
	// Received frames came from the cable.
	Received Direction = iota
	// Sent frames went onto the cable.
	Sent
)

// String returns "received" or "sent".
func (d Direction) String() string {
	if d == Sent {
		return "sent"
	}
	return "received"
}

// TCPFlags are the control bits of RFC 9293.
type TCPFlags uint8

// The control bits.
const (
	FIN TCPFlags = 1 << iota
	SYN
	RST
	PSH
	ACK
)

// String lists the bits as tcpdump does: "S." is SYN and ACK.
func (f TCPFlags) String() string {
	var b strings.Builder
	for i, letter := range "FSRP." {
		if f&(1<<i) != 0 {
			b.WriteRune(letter)
		}
	}
	return b.String()
}

// Frame is a captured frame. What the frame does not have is zero. Where headers are nested, as in a tunnel, the fields
// are the outermost ones'.
type Frame struct {
	Time      time.Time
	Direction Direction
	// Length is that on the wire, in bytes; above the MTU where segmentation is left to the interface.
	Length int
	// Data is the frame from its Ethernet header on, cut to the snap length, with its VLAN tag in place.
	Data []byte

	SourceMAC, DestinationMAC net.HardwareAddr
	// Source and Destination are the IP header's.
	Source, Destination netip.Addr
	// Protocol is that of the last header before the payload: IPv6 extension headers are passed over.
	Protocol layers.IPProtocol
	// Ports of TCP, UDP and SCTP; not in later fragments.
	SourcePort, DestinationPort uint16
	TCPFlags                    TCPFlags
	// ICMPType, ICMPCode and ICMPID are ICMP's and ICMPv6's; ICMPID is the echo identifier.
	ICMPType, ICMPCode uint8
	ICMPID             uint16

	link gopacket.Decoder
}

// newFrame copies a frame out of the ring and decodes its headers.
func newFrame(s slot) *Frame {
	f := &Frame{Time: s.time, Length: s.length, Data: s.bytes(), link: s.link()}
	if s.tpid != 0 {
		f.Length += vlanTagLength
	}
	if s.kind == unix.PACKET_OUTGOING {
		f.Direction = Sent
	}
	for _, layer := range gopacket.NewPacket(f.Data, f.link, gopacket.NoCopy).Layers() {
		if f.addHeader(layer) {
			break
		}
	}
	return f
}

const (
	vlanTagLength = 4
	// vlanTagOffset is after both MACs.
	vlanTagOffset = 12
)

// bytes copies the frame and puts the VLAN tag back, which the kernel keeps beside it.
func (s slot) bytes() []byte {
	var data []byte
	if s.tpid == 0 || len(s.data) < vlanTagOffset {
		data = append(data, s.data...)
	} else {
		data = append(data, s.data[:vlanTagOffset]...)
		data = binary.BigEndian.AppendUint16(data, s.tpid)
		data = binary.BigEndian.AppendUint16(data, s.vlan)
		data = append(data, s.data[vlanTagOffset:]...)
	}
	return data[:min(len(data), snapLength)]
}

// link tells what the frame begins with: devices such as tun have no Ethernet header.
func (s slot) link() gopacket.Decoder {
	switch s.hardware {
	case unix.ARPHRD_ETHER, unix.ARPHRD_LOOPBACK:
		return layers.LinkTypeEthernet
	default:
		return layers.LinkTypeRaw
	}
}

// addHeader notes what a header says, and tells whether it is the last one before the outermost packet's payload.
func (f *Frame) addHeader(layer gopacket.Layer) (last bool) {
	switch l := layer.(type) {
	case *layers.Ethernet:
		if f.SourceMAC != nil {
			return true // in a tunnel
		}
		f.SourceMAC, f.DestinationMAC = l.SrcMAC, l.DstMAC
	case *layers.IPv4:
		return f.addAddresses(l.SrcIP, l.DstIP, l.Protocol)
	case *layers.IPv6:
		return f.addAddresses(l.SrcIP, l.DstIP, l.NextHeader)
	case *layers.IPv6HopByHop:
		f.Protocol = l.NextHeader
	case *layers.IPv6Routing:
		f.Protocol = l.NextHeader
	case *layers.IPv6Destination:
		f.Protocol = l.NextHeader
	case *layers.IPv6Fragment:
		f.Protocol = l.NextHeader
	case *layers.TCP:
		f.SourcePort, f.DestinationPort, f.TCPFlags = uint16(l.SrcPort), uint16(l.DstPort), tcpFlags(l)
		return true
	case *layers.UDP:
		f.SourcePort, f.DestinationPort = uint16(l.SrcPort), uint16(l.DstPort)
		return true
	case *layers.SCTP:
		f.SourcePort, f.DestinationPort = uint16(l.SrcPort), uint16(l.DstPort)
		return true
	case *layers.ICMPv4:
		f.ICMPType, f.ICMPCode, f.ICMPID = l.TypeCode.Type(), l.TypeCode.Code(), l.Id
		return true
	case *layers.ICMPv6:
		f.ICMPType, f.ICMPCode = l.TypeCode.Type(), l.TypeCode.Code()
	case *layers.ICMPv6Echo:
		f.ICMPID = l.Identifier
		return true
	}
	return false
}

// addAddresses tells whether this is the header of a packet in another one.
func (f *Frame) addAddresses(source, destination net.IP, protocol layers.IPProtocol) (inner bool) {
	if f.Source.IsValid() {
		return true
	}
	f.Source, _ = netip.AddrFromSlice(source)
	f.Destination, _ = netip.AddrFromSlice(destination)
	f.Protocol = protocol
	return false
}

func tcpFlags(l *layers.TCP) TCPFlags {
	var flags TCPFlags
	for i, set := range []bool{l.FIN, l.SYN, l.RST, l.PSH, l.ACK} {
		if set {
			flags |= 1 << i
		}
	}
	return flags
}

// Packet decodes the whole frame.
func (f *Frame) Packet() gopacket.Packet {
	packet := gopacket.NewPacket(f.Data, f.link, gopacket.NoCopy)
	packet.Metadata().CaptureInfo = gopacket.CaptureInfo{
		Timestamp: f.Time, CaptureLength: len(f.Data), Length: f.Length,
	}
	packet.Metadata().Truncated = len(f.Data) < f.Length
	return packet
}

// String describes the frame in one line.
func (f *Frame) String() string {
	macs := fmt.Sprintf("%s > %s", f.SourceMAC, f.DestinationMAC)
	switch {
	case !f.Source.IsValid():
		if arp, ok := f.Packet().Layer(layers.LayerTypeARP).(*layers.ARP); ok {
			return fmt.Sprintf("ARP %d of %s for %s, %s", arp.Operation, net.IP(arp.SourceProtAddress), net.IP(arp.DstProtAddress), macs)
		}
		return fmt.Sprintf("%s, %d bytes", macs, f.Length)
	case f.SourcePort != 0 || f.DestinationPort != 0:
		return fmt.Sprintf("%s > %s %s, %s, %d bytes",
			netip.AddrPortFrom(f.Source, f.SourcePort), netip.AddrPortFrom(f.Destination, f.DestinationPort),
			f.what(), macs, f.Length)
	default:
		return fmt.Sprintf("%s > %s %s, %s, %d bytes", f.Source, f.Destination, f.what(), macs, f.Length)
	}
}

// what names the protocol and the kind of packet.
func (f *Frame) what() string {
	switch f.Protocol {
	case layers.IPProtocolTCP:
		return "TCP [" + f.TCPFlags.String() + "]"
	case layers.IPProtocolICMPv4:
		return "ICMP " + layers.CreateICMPv4TypeCode(f.ICMPType, f.ICMPCode).String()
	case layers.IPProtocolICMPv6:
		return "ICMPv6 " + layers.CreateICMPv6TypeCode(f.ICMPType, f.ICMPCode).String()
	default:
		return f.Protocol.String()
	}
}
