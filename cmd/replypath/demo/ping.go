package demo

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"replypath/cmd/replypath/demo/network"
)

// echoes are the names and numbers of a ping.
var echoes = map[network.Family]struct {
	name, protocol string
	number         int
	request, reply icmp.Type
}{
	network.IPv4: {"icmp", "ip4:icmp", 1, ipv4.ICMPTypeEcho, ipv4.ICMPTypeEchoReply},
	network.IPv6: {"icmpv6", "ip6:ipv6-icmp", 58, ipv6.ICMPTypeEchoRequest, ipv6.ICMPTypeEchoReply},
}

// ping sends an echo request and waits for its answer until ctx ends. What else arrives is passed over.
func ping(ctx context.Context, q *question) error {
	echo := echoes[q.family]
	conn, err := q.from.ListenPacket(ctx, echo.protocol, q.asker.Addr().String())
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(0, 1)) })
	defer stop()
	id := 1 + rand.IntN(0xffff)
	// The kernel fills in the checksum of ICMPv6.
	request, err := (&icmp.Message{Type: echo.request, Body: &icmp.Echo{ID: id}}).Marshal(nil)
	if err != nil {
		return fmt.Errorf("build an echo request: %w", err)
	}
	if _, err := conn.WriteTo(request, &net.IPAddr{IP: q.asked.Addr().AsSlice()}); err != nil {
		return err
	}
	for buffer := make([]byte, 1<<16); ; {
		n, _, err := conn.ReadFrom(buffer)
		if err != nil {
			return err
		}
		answer, err := icmp.ParseMessage(echo.number, buffer[:n])
		if err != nil || answer.Type != echo.reply {
			continue
		}
		if body, ok := answer.Body.(*icmp.Echo); ok && body.ID == id {
			return nil
		}
	}
}
