package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"

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

func (t *traceCommand) newPrinter() *tracePrinter {
	p := &tracePrinter{to: t.stdout, errors: t.stderr, colour: isTerminal(t.stdout) && os.Getenv("NO_COLOR") == ""}
	if t.output.format == outputJSON {
		p.encoder = newEncoder(t.stdout)
	}
	return p
}

// isTerminal tells whether people look at what is written.
func isTerminal(w io.Writer) bool {
	file, is := w.(*os.File)
	if !is {
		return false
	}
	_, err := unix.IoctlGetTermios(int(file.Fd()), unix.TCGETS)
	return err == nil
}

// traceColumns keep the columns in line, as far as can be told without knowing the
// rows to come: an IPv4 address with a port fits.
var traceColumns = []struct {
	name  string
	width int
}{
	{"TIME", 15}, {"DIR", 3}, {"PROTOCOL", 11}, {"PEER", 21}, {"SELF", 21}, {"IN", 8}, {"KERNEL", 8}, {"OUT", 8},
	{"MAC", 17}, {"LEFT", 4}, {"VERDICT", 0},
}

func (p *tracePrinter) header() error {
	if p.encoder != nil {
		return nil
	}
	cells := make([]string, len(traceColumns))
	for i, column := range traceColumns {
		cells[i] = column.name
	}
	return p.row(cells, "")
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
		left = yesNo(*packet.SeenLeaving)
	}
	return p.row([]string{
		packet.Time.Local().Format("15:04:05.000000"), packet.Direction, withFlags(&packet),
		endpoint(packet.Peer, packet.PeerPort), endpoint(packet.Self, packet.SelfPort),
		orEmpty(packet.InterfaceIn), orEmpty(packet.Kernel.Interface), orEmpty(packet.Out.Interface), orEmpty(mac), left,
		verdictWith(packet.Verdict, packet.Reason),
	}, verdictColours[packet.Verdict])
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
	explain.Corrected: "32",
	explain.Fallback:  "33",
	trace.Returned:    "33",
	trace.Refused:     "33",
	trace.Unseen:      "31",
}

// row writes a line; its last cell has the colour.
func (p *tracePrinter) row(cells []string, colour string) error {
	var line strings.Builder
	for i, cell := range cells {
		if i == len(cells)-1 && p.colour && colour != "" {
			fmt.Fprintf(&line, "\x1b[%sm%s\x1b[0m", colour, orDash(cell))
			break
		}
		fmt.Fprintf(&line, "%-*s  ", traceColumns[i].width, orDash(cell))
	}
	_, err := fmt.Fprintln(p.to, strings.TrimRight(line.String(), " "))
	return err
}

// lost tells of packets that were not shown.
func (p *tracePrinter) lost(count uint64) {
	_, err := fmt.Fprintf(p.errors, "replypath: %d events were lost: packets came faster than they could be shown\n", count)
	if err != nil && p.err == nil {
		p.err = err
	}
}
