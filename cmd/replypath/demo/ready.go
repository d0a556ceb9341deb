package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"replypath/cmd/replypath/demo/network"
	"replypath/loader/status"
)

// awaitReady reads what the service tells its manager (sd_notify(3)) until it is
// ready. It fails when the socket is closed.
func awaitReady(ctx context.Context, socket net.PacketConn) error {
	ctx, cancel := context.WithTimeoutCause(ctx, readyTime, fmt.Errorf("not ready in %s", readyTime))
	defer cancel()
	stop := context.AfterFunc(ctx, func() { socket.Close() })
	defer stop()
	message := make([]byte, 4096)
	for {
		n, _, err := socket.ReadFrom(message)
		switch {
		case ctx.Err() != nil:
			return fmt.Errorf("start replypath run: %w", context.Cause(ctx))
		case err != nil:
			return errors.New("replypath run ended before it was ready")
		case slices.Contains(strings.Split(string(message[:n]), "\n"), "READY=1"):
			return nil
		}
	}
}

// showAttached shows where replypath has attached itself.
func showAttached(ctx context.Context, p *page, b *network.Server, took time.Duration) error {
	output, err := call(ctx, b.Host, "status", "-o", "json")
	if err != nil {
		return err
	}
	var status status.Status
	if err := json.Unmarshal(output, &status); err != nil {
		return fmt.Errorf("replypath status: %w", err)
	}
	var attached []string
	for _, i := range status.Interfaces {
		if i.Attached && i.Mechanism != nil {
			attached = append(attached, fmt.Sprintf("%s (%s)", i.Name, *i.Mechanism))
		}
	}
	p.good("ready in %s: attached to %s, without any configuration", took, strings.Join(attached, " and "))
	return nil
}
