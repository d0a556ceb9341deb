// SPDX-License-Identifier: Apache-2.0

package product

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"replypath/test/await"
)

// TracedPacket is a line of `replypath trace -o json`, as checks read it.
type TracedPacket struct {
	Direction   string
	Protocol    string
	Peer        string
	PeerPort    uint16 `json:"peer_port"`
	Packets     int
	TCPFlags    *string `json:"tcp_flags"`
	InterfaceIn *string `json:"interface_in"`
	SourceMAC   *string `json:"source_mac"`
	Kernel, Out struct {
		Interface  *string
		NextHopMAC *string `json:"next_hop_mac"`
	}
	Verdict     string
	Reason      *string
	SeenLeaving *bool `json:"seen_leaving"`
	Lost        uint64
}

// String shows what a test asks about.
func (p *TracedPacket) String() string {
	seen := "-"
	if p.SeenLeaving != nil {
		seen = fmt.Sprint(*p.SeenLeaving)
	}
	return fmt.Sprintf("%s %s%s: in %q, kernel %q %s, out %q %s, %s %s, seen leaving: %s", p.Direction, p.Protocol, OrEmpty(p.TCPFlags),
		OrEmpty(p.InterfaceIn), OrEmpty(p.Kernel.Interface), OrEmpty(p.Kernel.NextHopMAC), OrEmpty(p.Out.Interface),
		OrEmpty(p.Out.NextHopMAC), p.Verdict, OrEmpty(p.Reason), seen)
}

// Trace is a running `replypath trace -o json`.
type Trace struct{ *Program }

// Trace starts a trace and returns when it shows packets, which nudge sends.
func (p *Product) Trace(nudge func() error, args ...string) *Trace {
	p.t.Helper()
	c := p.Command(context.Background(), append([]string{"trace", "-o", "json"}, args...)...)
	trace := &Trace{StartProgram(p.t, c, unix.SIGINT)}
	await.Eventually(p.t, "the trace shows packets", func() error {
		if err := nudge(); err != nil {
			return err
		}
		if len(trace.Packets()) == 0 {
			return fmt.Errorf("nothing but %q", trace.Log)
		}
		return nil
	})
	return trace
}

// Packets returns what was shown until now.
func (p *Trace) Packets() []TracedPacket {
	p.t.Helper()
	return TracedPackets(p.t, p.Log.String())
}

// TracedPackets reads what a trace printed. Of one that goes on the last line may not be whole yet.
func TracedPackets(t testing.TB, text string) []TracedPacket {
	t.Helper()
	var packets []TracedPacket
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "{") || !strings.HasSuffix(line, "\n") { // not of standard output, or not whole
			continue
		}
		var packet TracedPacket
		await.Must(t, json.Unmarshal([]byte(line), &packet))
		packets = append(packets, packet)
	}
	return packets
}

// Interrupt ends the trace, which has to succeed, and returns what it showed.
func (p *Trace) Interrupt() []TracedPacket {
	p.t.Helper()
	p.Signal(unix.SIGINT)
	p.WantEnd(0)
	return p.Packets()
}
