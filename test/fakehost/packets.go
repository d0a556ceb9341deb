// SPDX-License-Identifier: Apache-2.0

package fakehost

import (
	"time"

	"replypath/loader/explain"
	"replypath/loader/trace"
)

// Packets are a question and its answers, one of which is moved, and an echo of the host's own with its answer.
func Packets() []trace.Packet {
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
