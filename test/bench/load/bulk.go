package load

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"replypath/test/bench/contender"
)

// bulk sends as much as one connection takes, from the server or to it.
func bulk(fromServer bool) func(context.Context, *contender.Site, *Shared) (Work, error) {
	return func(ctx context.Context, s *contender.Site, _ *Shared) (Work, error) {
		program := onCPU(context.Background(), s.Server, CPU(), "iperf3", "--server", "--forceflush",
			"--bind", contender.IPv4.Self.String(), "--port", strconv.Itoa(firstPort))
		server, err := startServer(ctx, program, "Server listening on")
		if err != nil {
			return nil, err
		}
		return &transfer{server: server, site: s, fromServer: fromServer}, nil
	}
}

// transfer is iperf3 at work.
type transfer struct {
	*server
	site       *contender.Site
	fromServer bool
}

// Run returns the megabits that arrived in a second.
func (t *transfer) Run(ctx context.Context, d time.Duration) (float64, error) {
	args := []string{
		"--client", contender.IPv4.Self.String(), "--bind", contender.IPv4.Peer.String(), "--port", strconv.Itoa(firstPort),
		"--omit", "1", "--time", wholeSeconds(d), "--json", "--connect-timeout", "2000",
	}
	if t.fromServer {
		args = append(args, "--reverse")
	}
	text, err := outputOf(onCPU(ctx, t.site.Client, CPU(), "iperf3", args...))
	if err != nil {
		return 0, err
	}
	var result struct {
		End struct {
			SumReceived struct {
				BitsPerSecond float64 `json:"bits_per_second"`
			} `json:"sum_received"`
		}
	}
	if err := json.Unmarshal([]byte(text), &result); err != nil {
		return 0, fmt.Errorf("read what iperf3 says: %w", err)
	}
	return result.End.SumReceived.BitsPerSecond / 1e6, nil
}
