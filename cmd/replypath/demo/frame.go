package demo

import (
	"bytes"
	"fmt"
	"net/netip"

	"replypath/cmd/replypath/demo/network"
	"replypath/cmd/replypath/output"
)

// describe is a frame in one line, as tcpdump -e has it.
func describe(f *network.Frame) string {
	return fmt.Sprintf("%s > %s  %s > %s  %s", f.SourceMAC, f.DestinationMAC,
		endpoint(f.Source), endpoint(f.Destination), content(f))
}

func endpoint(a netip.AddrPort) string { return output.Endpoint(a.Addr().String(), a.Port()) }

func content(f *network.Frame) string {
	switch f.Protocol {
	case "tcp":
		return "TCP [" + f.TCPFlags.String() + "]"
	case "udp":
		return "UDP"
	default:
		return "ICMP echo reply" // IPv6 is not shown frame by frame
	}
}

// fromTo tells whether a frame went from an interface to the other end of its
// cable, which is the gateway.
func fromTo(i *network.Interface, f *network.Frame) bool {
	return bytes.Equal(f.SourceMAC, i.MAC) && bytes.Equal(f.DestinationMAC, i.Peer().MAC)
}

// allFromTo tells whether there are frames and all of them are fromTo.
func allFromTo(i *network.Interface, frames []*network.Frame) bool {
	for _, f := range frames {
		if !fromTo(i, f) {
			return false
		}
	}
	return len(frames) > 0
}

// mostFrames is how many of a round's frames are shown.
const mostFrames = 6

func showFrames(p *page, frames []*network.Frame) {
	for _, f := range frames[:min(len(frames), mostFrames)] {
		p.quote(describe(f))
	}
	if more := len(frames) - mostFrames; more > 0 {
		p.quote(fmt.Sprintf("and %d more", more))
	}
}
