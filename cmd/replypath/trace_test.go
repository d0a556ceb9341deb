package main

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"replypath/loader/explain"
	"replypath/loader/trace"
)

// fakeTrace tells of a question and its answer, one of which is moved, and of an
// echo of the host's own; then three events are lost.
func fakeTrace(ctx context.Context, dir string, filter trace.Filter, o trace.Observer) error {
	if err := dirError(dir); err != nil {
		return err
	}
	o.Ready()
	for _, p := range fakePackets() {
		if ctx.Err() != nil {
			return nil
		}
		if peer := netip.MustParseAddr(p.Peer); filter.Peer.IsValid() && !filter.Peer.Contains(peer) {
			continue
		}
		if err := o.Packet(p); err != nil {
			return err
		}
	}
	o.Lost(3)
	return nil
}

func fakePackets() []trace.Packet {
	at := func(microseconds int) time.Time {
		return time.Date(2026, time.March, 1, 12, 30, 0, microseconds*1000, time.UTC)
	}
	question := trace.Packet{
		Time: at(100), Direction: trace.Inbound, Protocol: "tcp", Family: "ipv4",
		Peer: "10.1.0.100", PeerPort: 50000, Self: "10.4.0.100", SelfPort: 5432, TCPFlags: new("S"), Length: 74, Packets: 1,
		InterfaceIn: new("eth1"), SourceMAC: new("02:00:00:00:00:04"), Verdict: trace.New,
	}
	answer := question
	answer.Time, answer.Direction, answer.TCPFlags, answer.SourceMAC = at(150), trace.Outbound, new("SA"), nil
	answer.Kernel = trace.Way{Interface: new("eth0"), NextHopMAC: new("02:00:00:00:00:03")}
	answer.Out = trace.Way{Interface: new("eth1"), NextHopMAC: new("02:00:00:00:00:04")}
	answer.Verdict, answer.SeenLeaving, answer.Lost = explain.Corrected, new(true), 2
	left := answer
	left.Time, left.TCPFlags, left.Lost = at(180), new("PA"), 0
	left.Out, left.Verdict, left.Reason = left.Kernel, explain.Fallback, new("bound_device")
	probe := trace.Packet{
		Time: at(200), Direction: trace.Outbound, Protocol: "icmp", Family: "ipv4",
		Peer: "10.1.0.7", PeerPort: 77, Self: "10.4.0.100", Form: new(trace.EchoRequest), Length: 57, Packets: 1,
		Kernel: left.Kernel, Out: left.Kernel, Verdict: explain.LocalOrigin, SeenLeaving: new(true),
	}
	echo := probe
	echo.Form = new(trace.EchoReply)
	echo.Time, echo.Direction, echo.InterfaceIn, echo.SourceMAC = at(300), trace.Inbound, new("eth0"), new("02:00:00:00:00:03")
	echo.Kernel, echo.Out, echo.Verdict, echo.Reason, echo.SeenLeaving = trace.Way{}, trace.Way{}, trace.Ignored, new("answer"), nil
	return []trace.Packet{question, answer, left, probe, echo}
}

type fakeProbe struct{ peer netip.Addr }

func (p fakeProbe) Send() error {
	if p.peer == netip.MustParseAddr("192.0.2.1") {
		return errors.New("send a probe to 192.0.2.1: network is unreachable")
	}
	return nil
}

func (p fakeProbe) IsOf(packet *trace.Packet) bool { return packet.Peer == p.peer.String() }
func (p fakeProbe) Close() error                   { return nil }

// People get colours, pipes and files do not.
func TestTraceColour(t *testing.T) {
	var out bytes.Buffer
	p := &tracePrinter{to: &out, errors: &out, colour: true}
	for _, packet := range fakePackets() {
		if err := p.print(packet); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []string{"\x1b[32mcorrected\x1b[0m\n", "\x1b[33mfallback (bound_device)\x1b[0m\n", "local-origin\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%q", want, out.String())
		}
	}
	file, err := os.Create(t.TempDir() + "/out")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if isTerminal(file) || isTerminal(&out) {
		t.Error("a file or a buffer is taken for a terminal")
	}
	terminal, err := os.Open("/dev/ptmx")
	if err != nil {
		t.Fatal(err)
	}
	defer terminal.Close()
	if !isTerminal(terminal) {
		t.Error("a terminal is not taken for one")
	}
}
