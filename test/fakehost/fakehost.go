// SPDX-License-Identifier: Apache-2.0

// Package fakehost stands for a host on which some pin directories hold something: the tests of the commands share what
// is there. It touches nothing.
package fakehost

import (
	"fmt"
	"slices"
	"time"

	"replypath/loader/explain"
	"replypath/loader/flows"
	"replypath/loader/pins"
	"replypath/loader/status"
	"replypath/loader/top"
	"replypath/loader/trace"
)

// Pin directories of the fake host. Any other holds nothing.
const (
	WatchedDir = "watched" // a datapath with a daemon
	LonelyDir  = "lonely"  // a datapath without one
	IdleDir    = "idle"    // a datapath that is attached nowhere
	ForeignDir = "foreign" // that of another network namespace
	HealthyDir = "healthy" // a datapath with a daemon, of which nothing is wrong
	StrongDir  = "strong"  // the same, which observes in part, and has an interface with the strong host model
)

// DirError is what the loader says of a pin directory.
func DirError(dir string) error {
	switch dir {
	case WatchedDir, LonelyDir, IdleDir, HealthyDir, StrongDir:
		return nil
	case ForeignDir:
		return fmt.Errorf("%s: %w", dir, pins.ErrForeignNamespace)
	}
	return fmt.Errorf("%w in %s: start replypath run", pins.ErrNone, dir)
}

// FlowList has a flow of each kind.
func FlowList() []flows.Flow {
	return []flows.Flow{
		{
			Protocol: "tcp", Family: "ipv6", Peer: "2001:db8::7", PeerPort: 40000, Self: "2001:db8:4::100", SelfPort: 443,
			Verdict:   new(flows.WayDirectReturn),
			Interface: new("eth1"), State: flows.StateHalfOpen, AgeSeconds: 0.2,
		},
		{
			Protocol: "tcp", Family: "ipv4", Peer: "10.1.0.100", PeerPort: 50000, Self: "10.4.0.100", SelfPort: 5432,
			Interface: new("eth1"), NextHopMAC: new("02:00:00:00:00:04"), Gateway: new("10.4.0.1"),
			State: flows.StateEstablished, AgeSeconds: 3723.4, IdleSeconds: 1.1, CorrectedPackets: 1234, Asymmetric: true,
			KernelInterface: new("eth0"), Bytes: new(uint64(98765)),
		},
		{
			Protocol: "icmp", Family: "ipv4", Peer: "10.1.0.100", PeerPort: 77, Self: "10.4.0.100",
			State: flows.StateConnectionless, AgeSeconds: 10, IdleSeconds: 4,
		},
		{
			Protocol: "tcp", Family: "ipv4", Peer: "10.1.0.100", PeerPort: 50001, Self: "10.4.0.100", SelfPort: 5432,
			Interface: new("eth1"), NextHopMAC: new("02:00:00:00:00:04"), Gateway: new("10.4.0.1"),
			State: flows.StateEstablished, AgeSeconds: 63, IdleSeconds: 3, CorrectedPackets: 7, Asymmetric: true,
			Closing: true, Bytes: new(uint64(123456789)),
		},
	}
}

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

// DetachedDir is a pin directory of the fake host that somebody detaches after the first look.
const DetachedDir = "detached"

// Top is what looks at a host that always does the same, a second later each time; see top.New.
func Top(dir string, order flows.Order, limit int) (look func() (*top.Look, error)) {
	looks := 0
	return func() (*top.Look, error) {
		if looks++; looks > 1 || dir != DetachedDir {
			if err := DirError(dir); err != nil {
				return nil, err
			}
		}
		look := FirstLook()
		look.Time = look.Time.Add(time.Duration(looks) * time.Second)
		if looks == 1 {
			look.Seconds = 0
		}
		if order == flows.ByAge {
			slices.Reverse(look.Flows)
		}
		look.Flows = look.Flows[:min(len(look.Flows), limit)]
		return look, nil
	}
}

// FirstLook is what there is to see, with rates.
func FirstLook() *top.Look {
	missed := func(packets float64, reasons map[string]float64) top.Asymmetry {
		return top.Asymmetry{Packets: packets, Uncorrected: reasons}
	}
	none := missed(0, map[string]float64{"mtu": 0, "observe": 0})
	some := missed(1250.04, map[string]float64{"mtu": 0.5, "observe": 1e6})
	corrected := top.Volume{Packets: 1234.5, Bytes: 999.96e3}
	list := FlowList()
	list[2].CorrectedPackets = 7
	busy, young := top.Flow{Flow: list[1], Rate: 1234.5}, top.Flow{Flow: list[2]}
	return &top.Look{
		Time: time.Date(2026, time.March, 1, 12, 30, 0, 0, time.UTC), Seconds: 1, Mode: "enforce",
		Daemon: status.Daemon{Running: true, PID: new(4711), Version: new("1.2.3"), Passed: time.Now()},
		Interfaces: []top.Interface{
			{Name: "eth0", Index: 2, Up: true, Attached: true, Mechanism: new("tcx"), Mode: "enforce",
				From: corrected, Asymmetry: none},
			{Name: "eth1", Index: 3, Up: true, Attached: true, Mechanism: new("tcx"), Mode: "enforce",
				To: corrected, Asymmetry: some},
			{Name: "eth2", Index: 4, Mode: "observe", Asymmetry: none},
		},
		Total: top.Total{Corrected: corrected, Asymmetry: some},
		FlowTables: []flows.TableUsage{
			{Name: "half_open", Capacity: 65536}, {Name: "established", Flows: 1, Lasting: 1, Capacity: 262144},
			{Name: "connectionless", Flows: 1, Capacity: 131072},
		},
		Flows: []top.Flow{busy, young},
	}
}
