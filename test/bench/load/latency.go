// SPDX-License-Identifier: Apache-2.0

package load

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"time"

	"replypath/test/bench/contender"
)

// latencies are the half and the 99 of a hundred round trips that took no longer,
// at half the load that one core takes by the static route.
func latencies() []*Workload {
	const about = "the time of a round trip that %s stay below (sockperf), one at a time and at most half as many a second as udp-echo-64 reached"
	return []*Workload{
		{Name: "latency-p50", Unit: "µs", LowerIsBetter: true, Program: true, Unbound: true, Whole: true, CPUs: 2, start: latency("50.000"),
			About: fmt.Sprintf(about, "half of all")},
		{Name: "latency-p99", Unit: "µs", LowerIsBetter: true, Program: true, Unbound: true, Whole: true, CPUs: 2, start: latency("99.000"),
			About: fmt.Sprintf(about, "99 of a hundred")},
	}
}

func latency(percentile string) func(context.Context, *contender.Site, *Shared) (Work, error) {
	found := regexp.MustCompile(`percentile ` + regexp.QuoteMeta(percentile) + `\s*=\s*([0-9.]+)`)
	return func(ctx context.Context, s *contender.Site, shared *Shared) (Work, error) {
		load, err := shared.HalfLoad(ctx)
		if err != nil {
			return nil, err
		}
		program := onCPU(context.Background(), s.Server, CPU(), "sockperf", "server",
			"-i", contender.IPv4.Self.String(), "-p", strconv.Itoa(firstPort))
		server, err := startServer(ctx, program, "to block on socket(s)")
		if err != nil {
			return nil, err
		}
		return &paced{server: server, site: s, perSecond: load, percentile: found}, nil
	}
}

// paced is sockperf at work: the server on the measured core, the client, which waits busily until it is to ask
// again, on another one. It asks when it has its answer: with a thread of its own for the answers (sockperf's under-load), which
// shares that core, 99 of a hundred would be the time until the scheduler's next tick.
type paced struct {
	*server
	site       *contender.Site
	perSecond  int
	percentile *regexp.Regexp
}

// Run returns a percentile of the round-trip times in microseconds.
func (p *paced) Run(ctx context.Context, d time.Duration) (float64, error) {
	program := onCPU(ctx, p.site.Client, CPU()-1, "sockperf", "ping-pong",
		"-i", contender.IPv4.Self.String(), "-p", strconv.Itoa(firstPort), "--client_ip", contender.IPv4.Peer.String(),
		"-m", "64", "-t", wholeSeconds(d), "--mps", strconv.Itoa(p.perSecond), "--full-rtt")
	text, err := outputOf(program)
	if err != nil {
		return 0, err
	}
	match := p.percentile.FindStringSubmatch(text)
	if match == nil {
		return 0, fmt.Errorf("sockperf printed no percentile: %s", text)
	}
	return strconv.ParseFloat(match[1], 64)
}
