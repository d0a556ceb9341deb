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
	notices io.Writer // takes what is told beside the packets
	to      io.Writer
	encoder *json.Encoder // nil for people
	table   output.Table[trace.Packet]
	colour  bool
	err     error
}

// newTraceField returns one with how wide it is at least: most IPv4 addresses with a port fit, and most reasons.
func newTraceField(name string, rank, width int, cell func(*trace.Packet) string) output.Field[trace.Packet] {
	return output.Field[trace.Packet]{Name: name, Rank: rank, Width: width, Cell: cell}
}

var traceFields = []output.Field[trace.Packet]{
	newTraceField("TIME", 7, 15, func(p *trace.Packet) string { return p.Time.Local().Format("15:04:05.000000") }),
	newTraceField("DIR", 1, 3, func(p *trace.Packet) string { return p.Direction }),
	newTraceField("PROTOCOL", 5, 9, withFlags),
	newTraceField("PEER", 0, 18, func(p *trace.Packet) string { return output.Endpoint(p.Peer, p.PeerPort) }),
	newTraceField("SELF", 6, 18, func(p *trace.Packet) string { return output.Endpoint(p.Self, p.SelfPort) }),
	newTraceField("IN", 4, 4, func(p *trace.Packet) string { return output.OrEmpty(p.InterfaceIn) }),
	newTraceField("KERNEL", 3, 6, func(p *trace.Packet) string { return output.OrEmpty(p.Kernel.Interface) }),
	newTraceField("OUT", 2, 4, func(p *trace.Packet) string { return output.OrEmpty(p.Out.Interface) }),
	newTraceField("MAC", 9, 17, tracedMAC),
	newTraceField("LEFT", 8, 4, seenLeaving),
	newTraceField("VERDICT", 0, 23, func(p *trace.Packet) string { return verdictText(p.Verdict, p.Reason) }),
}

// tracedMAC is where a packet came from, or goes to.
func tracedMAC(p *trace.Packet) string {
	if p.Direction == trace.Inbound {
		return output.OrEmpty(p.SourceMAC)
	}
	return output.OrEmpty(p.Out.NextHopMAC)
}

func seenLeaving(p *trace.Packet) string {
	if p.SeenLeaving == nil {
		return ""
	}
	return output.YesNo(*p.SeenLeaving)
}

// newTracePrinter shows packets to somebody, and tells beside them what is odd.
func newTracePrinter(to, notices io.Writer, colour bool) *tracePrinter {
	return &tracePrinter{notices: notices, to: to, table: output.NewTable(traceFields, nil, output.Width(to)), colour: colour}
}

func (p *tracePrinter) header() error {
	if p.encoder != nil {
		return nil
	}
	_, err := fmt.Fprintln(p.to, p.table.Header())
	return err
}

func (p *tracePrinter) print(packet trace.Packet) error {
	if p.encoder != nil {
		return p.encoder.Encode(packet)
	}
	if packet.Lost > 0 {
		p.lost(packet.Lost)
	}
	colour := ""
	if p.colour {
		colour = verdictColours[packet.Verdict]
	}
	_, err := fmt.Fprintln(p.to, p.table.Row(&packet, colour))
	return err
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
	explain.LastHop:    "32",
	explain.StrongHost: "32",
	explain.Related:    "32",
	explain.Fallback:   "33",
	trace.Returned:     "33",
	trace.Refused:      "33",
	trace.Unseen:       "31",
}

// lost tells of packets that were not shown.
func (p *tracePrinter) lost(count uint64) {
	_, err := fmt.Fprintf(p.notices, "replypath: %d events were lost: packets came faster than they could be shown\n", count)
	if err != nil && p.err == nil {
		p.err = err
	}
}
