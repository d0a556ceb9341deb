// SPDX-License-Identifier: Apache-2.0

package floods

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/gopacket/gopacket/layers"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
)

const (
	// messageSize is what a connection asks, is answered and is told, in bytes.
	messageSize = 16
	// askers is how many ask at a time while a flood goes on.
	askers = 4
	// pace is how often everything is used while a flood goes on, openingPace how often a connection is opened.
	pace        = time.Second
	openingPace = 50 * time.Millisecond
)

// connection is a live TCP connection. The test has both of its ends.
type connection struct {
	peer           netip.AddrPort
	client, server net.Conn
	// peerStart and ownStart are the first sequence numbers of the data.
	peerStart, ownStart uint32
}

// live are those who have something to lose.
type live struct {
	connections   []*connection
	conversations []net.Conn // UDP
}

// victim is a server with live connections and conversations by its eth1.
type victim struct {
	t      *testing.T
	n      *topology.TwoNIC
	p      *product.Product
	family topology.Family
	asked  netip.Addr // the server's address on eth1
	peer   netip.Addr // the client's

	listener net.Listener
	port     uint16 // that the connections are with
	live
	questions uint64 // of the conversations
}

// newVictim builds the network, starts replypath with a configuration, and flags if there
// are any, and opens the connections.
func newVictim(
	t *testing.T, f topology.Family, config string, connections, conversations int, flags ...string,
) *victim {
	t.Helper()
	n := traffic.NewTwoNIC(t, topology.TwoNICOptions{
		Policy: topology.AnySource, Offloads: topology.WireExact,
	})
	for _, router := range []*topology.Router{n.Production, n.Replication} {
		// Nothing is done about the answers to strangers.
		host.Nft(t, router.Host, fmt.Sprintf(`table inet swallow { chain prerouting {
			type filter hook prerouting priority raw;
			ip daddr %s drop
			ip6 daddr %s drop
		}
		}`, strangers[topology.IPv4], strangers[topology.IPv6]))
	}
	// Else the strangers of a flood are answered for a minute more.
	await.Must(t, n.Server.SetSysctl("net/ipv4/tcp_synack_retries", "0"))
	v := &victim{
		t: t, n: n, p: product.On(t, n.Server.Host), family: f,
		asked: n.Server.Eth1.Address(f), peer: n.ClientEth0.Address(f),
	}
	v.p.Start(append([]string{"--config", product.WriteConfig(t, config)}, flags...)...)
	v.p.WaitGrace()
	v.connect(connections)
	v.converse(conversations)
	return v
}

// connect opens TCP connections from the client to the server.
func (v *victim) connect(count int) {
	v.t.Helper()
	ctx := await.Within(v.t, 3*await.AnswerTime)
	l := await.Must1[net.Listener](v.t)(v.n.Server.Listen(ctx, "tcp", netip.AddrPortFrom(v.asked, 0).String()))
	v.t.Cleanup(func() { l.Close() })
	v.listener, v.port = l, netip.MustParseAddrPort(l.Addr().String()).Port()
	wires := v.tap(v.t)
	for range count {
		v.connections = append(v.connections, await.Must1[*connection](v.t)(v.open(ctx)))
	}
	starts := make(map[uint16]*layers.TCP)
	for _, frame := range wires.left(topology.Flags(topology.SYN|topology.ACK, topology.SYN|topology.ACK)) {
		tcp := frame.Packet().Layer(layers.LayerTypeTCP).(*layers.TCP)
		starts[uint16(tcp.DstPort)] = tcp
	}
	for _, c := range v.connections {
		answer := starts[c.peer.Port()]
		if answer == nil {
			v.t.Fatalf("no SYN-ACK to %s was captured", c.peer)
		}
		c.peerStart, c.ownStart = answer.Ack, answer.Seq+1
	}
}

// open opens a connection, which the test closes at its end.
func (v *victim) open(ctx context.Context) (*connection, error) {
	client, err := v.n.Client.Dial(ctx, "tcp", v.listener.Addr().String())
	if err != nil {
		return nil, err
	}
	v.t.Cleanup(func() { client.Close() })
	server, err := v.listener.Accept()
	if err != nil {
		return nil, err
	}
	v.t.Cleanup(func() { server.Close() })
	return &connection{peer: netip.MustParseAddrPort(client.LocalAddr().String()), client: client, server: server}, nil
}

// converse begins conversations by UDP, each with more than one question.
func (v *victim) converse(count int) {
	v.t.Helper()
	to := netip.AddrPortFrom(v.asked, traffic.EchoPort).String()
	for range count {
		conn := await.Must1[net.Conn](v.t)(v.n.Client.Dial(v.t.Context(), "udp", to))
		v.t.Cleanup(func() { conn.Close() })
		v.conversations = append(v.conversations, conn)
	}
	for range 3 {
		await.Must(v.t, v.askConversations(v.t.Context(), v.conversations))
	}
}

// use asks by a connection, is answered, and has the server say something of its own.
func (c *connection) use() error {
	if err := c.ask(); err != nil {
		return err
	}
	return c.pass(c.server, c.client)
}

// ask asks and is answered.
func (c *connection) ask() error {
	if err := c.pass(c.client, c.server); err != nil {
		return err
	}
	return c.pass(c.server, c.client)
}

// pass sends a message and returns when the other end has it.
func (c *connection) pass(from, to net.Conn) error {
	message, deadline := make([]byte, messageSize), time.Now().Add(await.AnswerTime)
	if err := errors.Join(from.SetDeadline(deadline), to.SetDeadline(deadline)); err != nil {
		return err
	}
	_, err := from.Write(message)
	if err == nil {
		_, err = io.ReadFull(to, message)
	}
	if err != nil {
		return fmt.Errorf("connection of %s: %w", c.peer, err)
	}
	return nil
}

// useAll uses each of them once.
func (v *victim) useAll(ctx context.Context, all live) error {
	var wg sync.WaitGroup
	errs := make([]error, askers+1)
	for asker := range askers {
		wg.Go(func() {
			for i := asker; i < len(all.connections) && ctx.Err() == nil; i += askers {
				errs[asker] = errors.Join(errs[asker], all.connections[i].use())
			}
		})
	}
	wg.Go(func() { errs[askers] = v.askConversations(ctx, all.conversations) })
	wg.Wait()
	return errors.Join(errs...)
}

// openOne opens a connection, which asks once.
func (v *victim) openOne() error {
	ctx, cancel := context.WithTimeout(context.Background(), await.AnswerTime)
	defer cancel()
	c, err := v.open(ctx)
	if err == nil {
		err = c.ask()
	}
	if err != nil {
		return fmt.Errorf("new connection: %w", err)
	}
	return nil
}

// keep does something again and again until ctx ends, and returns how often.
func keep(ctx context.Context, pace time.Duration, do func() error) (count int, err error) {
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for {
		if err := do(); err != nil {
			return count, err
		}
		count++
		select {
		case <-ctx.Done():
			return count, nil
		case <-tick.C:
		}
	}
}

func (v *victim) askConversations(ctx context.Context, conversations []net.Conn) error {
	var errs []error
	for _, conn := range conversations {
		if ctx.Err() != nil {
			break
		}
		v.questions++
		if _, err := traffic.AskDatagram(conn, v.questions); err != nil {
			errs = append(errs, fmt.Errorf("conversation of %s: %w", conn.LocalAddr(), err))
		}
	}
	return errors.Join(errs...)
}

// wires are captures of what leaves the server for the client.
type wires struct{ eth0, eth1 *topology.Capture }

func (v *victim) tap(t *testing.T) *wires {
	t.Helper()
	capture := func(nic *topology.Interface) *topology.Capture {
		c := await.Must1[*topology.Capture](t)(nic.Peer().Capture(topology.CaptureOptions{
			Only: v.peer, ReceivedOnly: true, Backlog: 1 << 16,
		}))
		t.Cleanup(func() {
			if err := c.Stop(); err != nil {
				t.Error(err)
			}
		})
		return c
	}
	return &wires{eth0: capture(v.n.Server.Eth0), eth1: capture(v.n.Server.Eth1)}
}

// left returns what left the server by either way.
func (w *wires) left(match topology.Filter) []*topology.Frame {
	return append(w.eth0.Frames(match), w.eth1.Frames(match)...)
}
