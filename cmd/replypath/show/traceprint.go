// SPDX-License-Identifier: Apache-2.0

package show

import (
	"encoding/json"
	"fmt"
	"io"

	"replypath/cmd/replypath/output"
	"replypath/loader/explain"
	"replypath/loader/trace"
)

// tracePrinter shows packets one by one.
type tracePrinter struct {
	to, errors io.Writer
	encoder    *json.Encoder // nil for people
	colour     bool
	err        error
}

// The columns of traces. Their widths keep them in line, as far as can be told without knowing
// the rows to come: an IPv4 address with a port fits.
var (
	traceHeader = []string{"TIME", "DIR", "PROTOCOL", "PEER", "SELF", "IN", "KERNEL", "OUT", "MAC", "LEFT", "VERDICT"}
	traceWidths = []int{15, 3, 11, 21, 21, 8, 8, 8, 17, 4, 0}
)

func (p *tracePrinter) header() error {
	if p.encoder != nil {
		return nil
	}
	return output.Row(p.to, traceWidths, traceHeader)
}

func (p *tracePrinter) print(packet trace.Packet) error {
	if p.encoder != nil {
		return p.encoder.Encode(packet)
	}
	if packet.Lost > 0 {
		p.lost(packet.Lost)
	}
	mac := packet.Out.NextHopMAC
	if packet.Direction == trace.Inbound {
		mac = packet.SourceMAC
	}
	left := ""
	if packet.SeenLeaving != nil {
		left = output.YesNo(*packet.SeenLeaving)
	}
	return output.Row(p.to, traceWidths, []string{
		packet.Time.Local().Format("15:04:05.000000"), packet.Direction, withFlags(&packet),
		output.Endpoint(packet.Peer, packet.PeerPort), output.Endpoint(packet.Self, packet.SelfPort),
		output.OrEmpty(packet.InterfaceIn), output.OrEmpty(packet.Kernel.Interface), output.OrEmpty(packet.Out.Interface),
		output.OrEmpty(mac), left,
		p.coloured(&packet),
	})
}

// withFlags is the protocol, of TCP with its flags, or with what the packet is.
func withFlags(p *trace.Packet) string {
	switch {
	case p.TCPFlags != nil:
		return p.Protocol + "[" + *p.TCPFlags + "]"
	case p.Form != nil:
		return p.Protocol + "[" + formLetters[*p.Form] + "]"
	}
	return p.Protocol
}

var formLetters = map[string]string{
	trace.EchoRequest: "req", trace.EchoReply: "rep", trace.ICMPError: "err", trace.Fragment: "frag",
}

// Colours of verdicts (ECMA-48, 8.3.117): what replypath did, what it could not do.
var verdictColours = map[string]string{
	explain.Corrected:  "32",
	explain.StrongHost: "32",
	explain.Fallback:   "33",
	trace.Returned:     "33",
	trace.Refused:      "33",
	trace.Unseen:       "31",
}

// coloured is a verdict with its reason, in its colour where there is one.
func (p *tracePrinter) coloured(packet *trace.Packet) string {
	text, colour := verdictText(packet.Verdict, packet.Reason), verdictColours[packet.Verdict]
	if !p.colour || colour == "" {
		return text
	}
	return "\x1b[" + colour + "m" + text + "\x1b[0m"
}

// lost tells of packets that were not shown.
func (p *tracePrinter) lost(count uint64) {
	_, err := fmt.Fprintf(p.errors, "replypath: %d events were lost: packets came faster than they could be shown\n", count)
	if err != nil && p.err == nil {
		p.err = err
	}
}
