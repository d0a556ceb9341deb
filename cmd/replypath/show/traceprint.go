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
	errors  io.Writer
	encoder *json.Encoder // nil for people
	table   *output.Growing
	colour  bool
	err     error
}

// The columns of traces, with what goes first where the terminal is narrow, and how wide they
// are at least: most IPv4 addresses with a port fit, and most reasons.
var (
	traceColumns = []output.Column{
		{Name: "TIME", Rank: 7}, {Name: "DIR", Rank: 1}, {Name: "PROTOCOL", Rank: 5}, {Name: "PEER"}, {Name: "SELF", Rank: 6},
		{Name: "IN", Rank: 4}, {Name: "KERNEL", Rank: 3}, {Name: "OUT", Rank: 2}, {Name: "MAC", Rank: 9}, {Name: "LEFT", Rank: 8},
		{Name: "VERDICT"},
	}
	traceWidths = []int{15, 3, 9, 18, 18, 4, 6, 4, 17, 4, 23}
)

func newTracePrinter(to, errors io.Writer, colour bool) *tracePrinter {
	return &tracePrinter{errors: errors, table: output.NewGrowing(to, traceColumns, traceWidths), colour: colour}
}

func (p *tracePrinter) header() error {
	if p.encoder != nil {
		return nil
	}
	return p.table.Header()
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
	colour := ""
	if p.colour {
		colour = verdictColours[packet.Verdict]
	}
	return p.table.Row([]string{
		packet.Time.Local().Format("15:04:05.000000"), packet.Direction, withFlags(&packet),
		output.Endpoint(packet.Peer, packet.PeerPort), output.Endpoint(packet.Self, packet.SelfPort),
		output.OrEmpty(packet.InterfaceIn), output.OrEmpty(packet.Kernel.Interface), output.OrEmpty(packet.Out.Interface),
		output.OrEmpty(mac), left,
		verdictText(packet.Verdict, packet.Reason),
	}, colour)
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

// lost tells of packets that were not shown.
func (p *tracePrinter) lost(count uint64) {
	_, err := fmt.Fprintf(p.errors, "replypath: %d events were lost: packets came faster than they could be shown\n", count)
	if err != nil && p.err == nil {
		p.err = err
	}
}
