// SPDX-License-Identifier: Apache-2.0

// Package load has the work that the benchmark's contenders are measured with.
package load

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"time"

	"replypath/test/bench/contender"
)

// Workload is a kind of work.
type Workload struct {
	Name, Unit string
	About      string
	// Quick workloads are those of a short run.
	Quick bool
	// Program ones have a server that is a program.
	Program bool
	// Only names contenders, if the work is not for all.
	Only []string
	// Flows is how many flows there are; 0 is a handful.
	Flows int
	// Forward has the server forward the packets of others, which no contender has a say in.
	Forward bool
	// Origin has the server ask, from the address of eth1.
	Origin bool
	// IPv6 has everything by IPv6.
	IPv6 bool
	// CPUs is how many the work needs.
	CPUs int

	start func(context.Context, *contender.Site, *Shared) (Work, error)
}

// Work is a workload on a site, where the contender has been set up.
type Work interface {
	// Run works for a time, or as long as it takes where the amount of work is
	// given, and returns the figure. Before and after, nothing works.
	Run(context.Context, time.Duration) (float64, error)
	// Close ends servers and clients. What runs in processes ends with the site.
	Close() error
}

// Start starts servers and clients.
func (w *Workload) Start(ctx context.Context, s *contender.Site, shared *Shared) (Work, error) {
	work, err := w.start(ctx, s, shared)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", w.Name, err)
	}
	return work, nil
}

// Site is the network that the work needs.
func (w *Workload) Site() contender.SiteOptions {
	return contender.SiteOptions{IPv6: w.IPv6, Forward: w.Forward}
}

// manyFlows compares what keeps something for each flow with what does not.
var manyFlows = []string{
	contender.Static, contender.Floor, contender.Rules2, contender.Connmark,
	contender.Replypath, "replypath-before", "replypath-clsact", "replypath-observe", "replypath-observe-clsact",
}

// All returns the workloads. Scripts know the first four by their names.
func All() []*Workload {
	const (
		perSecond   = "1/s"
		besideAbout = " on a host that reads 1 MiB of its own between two of them: that time is not counted"
	)
	all := []*Workload{
		{Name: "udp-echo-64", Unit: perSecond, Quick: true, start: udpEcho(64, 1),
			About: "datagrams of 64 bytes sent back by a socket that is not connected, one at a time, on one core"},
		{Name: "tcp-rr", Unit: perSecond, Quick: true, start: tcpRequests(1),
			About: "requests of 64 bytes answered on one connection, one at a time, on one core"},
		{Name: "tcp-crr", Unit: perSecond, Quick: true, start: tcpConnections,
			About: "connect, request, answer, close, one at a time, each time from another address, on one core"},
		{Name: "tcp-bulk", Unit: "Mbit/s", Quick: true, Program: true, start: bulk(true),
			About: "the server sends (iperf3), in packets of up to 64 kB: GSO, which veth hands over uncut, so that there is nothing for GRO, on one core"},
		{Name: "tcp-bulk-in", Unit: "Mbit/s", Program: true, start: bulk(false),
			About: "the client sends (iperf3), in such packets, and the server acknowledges, on one core"},
		{Name: "tcp-crr-beside", Unit: perSecond, Quick: true, start: beside(connectInTurns), About: "tcp-crr" + besideAbout},
		{Name: "tcp-rr-beside", Unit: perSecond, start: beside(askInTurns), About: "tcp-rr" + besideAbout},
		{Name: "udp-echo-64-beside", Unit: perSecond, start: beside(echoOne), About: "udp-echo-64" + besideAbout},
		{Name: "udp-echo-1400", Unit: perSecond, start: udpEcho(1400, 1),
			About: "as udp-echo-64, with 1400 bytes"},
		{Name: "udp-echo-64-two-cores", Unit: perSecond, CPUs: 2, start: udpEcho(64, 2),
			About: "two of udp-echo-64 side by side, each on a core of its own"},
		{Name: "udp-echo-64-ipv6", Unit: perSecond, IPv6: true, start: udpEcho(64, 1), About: "udp-echo-64 by IPv6"},
		{Name: "tcp-rr-ipv6", Unit: perSecond, IPv6: true, start: tcpRequests(1), About: "tcp-rr by IPv6"},
		{Name: "tcp-crr-ipv6", Unit: perSecond, IPv6: true, start: tcpConnections, About: "tcp-crr by IPv6"},
		{Name: "udp-echo-64-flows-10000", Unit: perSecond, Flows: 10_000, Only: manyFlows, start: udpCrowd(10_000),
			About: "as udp-echo-64, each datagram from another one of 10,000 peers"},
		{Name: "udp-echo-64-flows-1000000", Unit: perSecond, Flows: 1_000_000, Only: manyFlows, start: udpCrowd(1_000_000),
			About: "as udp-echo-64, each datagram from another one of 1,000,000 peers"},
		{Name: "tcp-rr-1000", Unit: perSecond, Only: manyFlows, start: tcpRequests(1000),
			About: "as tcp-rr, on 1,000 connections that all have a request on its way"},
		{Name: "tcp-rr-10000", Unit: perSecond, Only: manyFlows, start: tcpRequests(10_000), About: "the same, on 10,000"},
		{Name: "nginx", Unit: perSecond, Program: true, start: nginx(true),
			About: "nginx and wrk: 64 connections that are kept, 1 KiB each answer, on one core"},
		{Name: "nginx-connect", Unit: perSecond, Program: true, start: nginx(false),
			About: "nginx and wrk: a connection for each request"},
		{Name: "postgresql", Unit: "MiB/s", Program: true, start: replication,
			About: "PostgreSQL's WAL sent to pg_receivewal"},
		{Name: "forward", Unit: perSecond, Forward: true, start: forward,
			About: "udp-echo-64 between two other hosts, forwarded by the server"},
		{Name: "syn-flood", Unit: perSecond, start: synFlood,
			About: "SYN-ACKs that leave the server under a flood of SYNs from random addresses, on one core"},
	}
	return append(all, origins()...)
}

// Fit returns those of the workloads that the machine has enough CPUs for, and why the others are left out.
func Fit(workloads []*Workload) (fit []*Workload, absent map[string]string) {
	absent = make(map[string]string)
	for _, w := range workloads {
		if w.CPUs > runtime.NumCPU() {
			absent[w.Name] = fmt.Sprintf("needs %d CPUs", w.CPUs)
			continue
		}
		fit = append(fit, w)
	}
	return fit, absent
}

// Named returns workloads by their names.
func Named(names ...string) ([]*Workload, error) {
	var found []*Workload
	for _, w := range All() {
		if slices.Contains(names, w.Name) {
			found = append(found, w)
		}
	}
	if len(found) != len(names) {
		return nil, fmt.Errorf("of the workloads %q only %d are known", names, len(found))
	}
	return found, nil
}

// CPU is the one that work on one core is done on: the last one, as interrupts and
// whatever else the machine does prefer the first.
func CPU() int { return runtime.NumCPU() - 1 }

// OtherCPUs are for what is not to be measured, as taskset(1) takes them; "" where there are none.
func OtherCPUs() string {
	if CPU() == 0 {
		return ""
	}
	return fmt.Sprintf("0-%d", CPU()-1)
}

// Shared is what is made once for all contenders and rounds.
type Shared struct {
	database *database
}

// Close removes it.
func (s *Shared) Close() error {
	if s.database == nil {
		return nil
	}
	return s.database.remove()
}

// origins are the workloads whose questions the server asks, from the address of eth1.
func origins() []*Workload {
	only := []string{contender.Static, contender.Rules2, "iprule-100", contender.Strong}
	return []*Workload{
		{Name: "origin-udp-64", Unit: "1/s", Origin: true, Only: only, start: originate(func(_ context.Context, c *crew, r route) error {
			r.unconnected = true
			return c.echoUDP(r, CPU(), 64)
		}), About: "udp-echo-64 the other way: the server asks, from an address of eth1, by a socket that is not connected"},
		{Name: "origin-tcp-rr", Unit: "1/s", Origin: true, Only: only, start: originate(func(ctx context.Context, c *crew, r route) error {
			return c.askOnConnections(ctx, r, 1)
		}), About: "tcp-rr the other way: the server opened the connection, from an address of eth1"},
	}
}

// originate starts work for which the server asks the client.
func originate(start func(context.Context, *crew, route) error) func(context.Context, *contender.Site, *Shared) (Work, error) {
	return func(ctx context.Context, s *contender.Site, _ *Shared) (Work, error) {
		c := newCrew()
		if err := start(ctx, c, route{client: s.Server, from: s.Self, server: s.Client, to: s.Peer, port: firstPort}); err != nil {
			return nil, c.closeAfter(err)
		}
		return c, nil
	}
}
