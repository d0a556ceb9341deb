package demo

import (
	"bytes"
	"fmt"
	"net/netip"

	"github.com/gopacket/gopacket/layers"

	"replypath/test/topology"
)

// describe is a frame in one line, as tcpdump -e has it.
func describe(f *topology.Frame) string {
	return fmt.Sprintf("%s > %s  %s > %s  %s", f.SourceMAC, f.DestinationMAC,
		endpoint(f.Source, f.SourcePort), endpoint(f.Destination, f.DestinationPort), content(f))
}

func endpoint(a netip.Addr, port uint16) string {
	if port == 0 {
		return a.String()
	}
	return netip.AddrPortFrom(a, port).String()
}

func content(f *topology.Frame) string {
	switch f.Protocol {
	case layers.IPProtocolTCP:
		return "TCP [" + f.TCPFlags.String() + "]"
	case layers.IPProtocolUDP:
		return "UDP"
	default:
		return "ICMP echo reply" // IPv6 is not shown frame by frame
	}
}

// fromTo tells whether a frame went from an interface to the other end of its
// cable, which is the gateway.
func fromTo(i *topology.Interface, f *topology.Frame) bool {
	return f.Direction == topology.Received &&
		bytes.Equal(f.SourceMAC, i.MAC) && bytes.Equal(f.DestinationMAC, i.Peer().MAC)
}

// allFromTo tells whether there are frames and all of them are fromTo.
func allFromTo(i *topology.Interface, frames []*topology.Frame) bool {
	for _, f := range frames {
		if !fromTo(i, f) {
			return false
		}
	}
	return len(frames) > 0
}

// mostFrames is how many of a round's frames are shown.
const mostFrames = 6

func (d *demo) showFrames(frames []*topology.Frame) {
	for _, f := range frames[:min(len(frames), mostFrames)] {
		d.quote(describe(f))
	}
	if more := len(frames) - mostFrames; more > 0 {
		d.quote(fmt.Sprintf("and %d more", more))
	}
}
