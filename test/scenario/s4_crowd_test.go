// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/net/icmp"
	packet4 "golang.org/x/net/ipv4"
	packet6 "golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"replypath/test/harness"
	"replypath/test/topology"
)

// clients is how many ask through the box of S4.
const clients = 30_000

// crowdBatch is how many of them ask at once: what they ask and what comes back
// has to fit the sockets' buffers.
const crowdBatch = 64

// batchConn sends and receives several datagrams by one system call. Its messages
// are the same type for both families.
type batchConn interface {
	WriteBatch([]packet4.Message, int) (int, error)
	ReadBatch([]packet4.Message, int) (int, error)
	SetReadDeadline(time.Time) error
}

// crowd is many clients behind one socket of the inside host, each with its own
// address.
type crowd struct {
	t       *testing.T
	family  topology.Family
	clients []netip.Addr
	conn    batchConn
	// asks are the questions of one batch, answers the room for as many answers.
	asks, answers []packet4.Message
}

// newCrowd makes the clients that send questions by a socket to the internet's
// server.
func newCrowd(t *testing.T, s *topology.S4, f topology.Family, conn net.PacketConn, to net.Addr, question []byte) *crowd {
	t.Helper()
	t.Cleanup(func() { conn.Close() })
	c := &crowd{t: t, family: f}
	for number := range clients {
		c.clients = append(c.clients, s.Client(f, number+1))
	}
	if f == topology.IPv4 {
		p := packet4.NewPacketConn(conn)
		harness.Must(t, p.SetControlMessage(packet4.FlagDst, true))
		c.conn = p
	} else {
		p := packet6.NewPacketConn(conn)
		harness.Must(t, p.SetControlMessage(packet6.FlagDst, true))
		c.conn = p
	}
	for range crowdBatch {
		c.asks = append(c.asks, packet4.Message{Buffers: [][]byte{question}, Addr: to})
		c.answers = append(c.answers, packet4.Message{Buffers: [][]byte{make([]byte, 256)}, OOB: make([]byte, 128)})
	}
	return c
}

// udpCrowd asks the internet's echo server from one port of each client.
func udpCrowd(t *testing.T, s *topology.S4, f topology.Family) *crowd {
	t.Helper()
	wildcard := netip.AddrPortFrom(netip.IPv4Unspecified(), 0)
	if f == topology.IPv6 {
		wildcard = netip.AddrPortFrom(netip.IPv6Unspecified(), 0)
	}
	conn := harness.Must1[net.PacketConn](t)(s.Inside.ListenPacket(t.Context(), "udp", wildcard.String()))
	to := netip.AddrPortFrom(s.InternetEth0.Address(f), harness.EchoPort)
	return newCrowd(t, s, f, conn, net.UDPAddrFromAddrPort(to), []byte("question"))
}

// pingCrowd pings the internet's server from each client. Its answers are not
// read but counted by the kernel.
func pingCrowd(t *testing.T, s *topology.S4, f topology.Family) *crowd {
	t.Helper()
	request := icmp.Message{Type: packet4.ICMPTypeEcho, Body: &icmp.Echo{ID: 1, Seq: 1}}
	network, wildcard := "ip4:icmp", "0.0.0.0"
	if f == topology.IPv6 {
		request.Type, network, wildcard = packet6.ICMPTypeEchoRequest, "ip6:ipv6-icmp", "::"
	}
	question := harness.Must1[[]byte](t)(request.Marshal(nil))
	conn := harness.Must1[net.PacketConn](t)(s.Inside.ListenPacket(t.Context(), network, wildcard))
	c := newCrowd(t, s, f, conn, &net.IPAddr{IP: s.InternetEth0.Address(f).AsSlice()}, question)
	if f == topology.IPv4 {
		filter := new(packet4.ICMPFilter)
		filter.SetAll(true)
		harness.Must(t, c.conn.(*packet4.PacketConn).SetICMPFilter(filter))
	} else {
		filter := new(packet6.ICMPFilter)
		filter.SetAll(true)
		harness.Must(t, c.conn.(*packet6.PacketConn).SetICMPFilter(filter))
	}
	return c
}

// source is the control message that sets a datagram's source address.
func source(a netip.Addr) []byte {
	if a.Is4() {
		return (&packet4.ControlMessage{Src: a.AsSlice()}).Marshal()
	}
	return (&packet6.ControlMessage{Src: a.AsSlice()}).Marshal()
}

// send sends the question of the next clients and returns the rest of them.
func (c *crowd) send(clients []netip.Addr) (rest []netip.Addr) {
	c.t.Helper()
	batch := c.asks[:min(len(c.asks), len(clients))]
	for i := range batch {
		batch[i].OOB = source(clients[i])
	}
	for sent := 0; sent < len(batch); {
		n, err := c.conn.WriteBatch(batch[sent:], 0)
		harness.Must(c.t, err)
		sent += n
	}
	return clients[len(batch):]
}

// sendAll has every client ask and does not wait for answers.
func (c *crowd) sendAll() {
	c.t.Helper()
	for rest := c.clients; len(rest) > 0; {
		rest = c.send(rest)
	}
}

// patience is how long an answer may take before the client asks again: the
// kernel drops packets where the whole machine has too many on their way.
const patience = time.Second

// askAll has every client ask, and wants every one of them to be answered.
func (c *crowd) askAll() {
	c.t.Helper()
	for rest := c.clients; len(rest) > 0; {
		asked := rest
		rest = c.send(rest)
		missing := make(map[netip.Addr]bool)
		for _, client := range asked[:len(asked)-len(rest)] {
			missing[client] = true
		}
		for tries := 3; len(missing) > 0; tries-- {
			if tries == 0 {
				c.t.Fatalf("%d clients were not answered, among the first %d", len(missing), len(c.clients)-len(rest))
			}
			c.receive(missing)
			c.send(slices.Collect(maps.Keys(missing)))
		}
	}
}

// receive strikes off who is answered, until all are or no more answers come.
func (c *crowd) receive(missing map[netip.Addr]bool) {
	c.t.Helper()
	for len(missing) > 0 {
		harness.Must(c.t, c.conn.SetReadDeadline(time.Now().Add(patience)))
		n, err := c.conn.ReadBatch(c.answers, 0)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return
		}
		harness.Must(c.t, err)
		for _, answer := range c.answers[:n] {
			delete(missing, c.destination(answer))
		}
	}
}

// destination returns the client that an answer is for.
func (c *crowd) destination(answer packet4.Message) netip.Addr {
	c.t.Helper()
	oob := answer.OOB[:answer.NN]
	if c.family == topology.IPv4 {
		var control packet4.ControlMessage
		harness.Must(c.t, control.Parse(oob))
		a, _ := netip.AddrFromSlice(control.Dst.To4())
		return a
	}
	var control packet6.ControlMessage
	harness.Must(c.t, control.Parse(oob))
	a, _ := netip.AddrFromSlice(control.Dst)
	return a
}

// TestS4Crowd forwards 30,000 clients, with and without replypath: all are
// answered, none of them leaves a trace in replypath, the neighbour table stays at
// a handful of entries, and the management is answered by eth0 meanwhile.
func TestS4Crowd(t *testing.T) {
	s, _ := newS4(t)
	for _, f := range s.Families() {
		udpCrowd(t, s, f).askAll()
	}
	before := neighbours(t, s.Box)
	forgetConnections(t, s)
	p := harness.On(t, s.Box)
	p.Start()
	early := waitForGrace(t, s, p)
	wires := harness.Tap(t, managed(s))
	var management []topology.Filter // its answers
	var talks []*harness.Talk
	for _, f := range s.Families() {
		c := harness.NewConversation(t, harness.TCP, s.MonitorEth0, s.Eth0.Address(f))
		management = append(management, c.Answers())
		talks = append(talks, c.Keep(t))
	}
	for _, f := range s.Families() {
		udpCrowd(t, s, f).askAll()
		askAsClients(t, s, f)
	}
	for _, talk := range talks {
		talk.Stop()
	}
	for _, answers := range management {
		wires.WantEth1("management", answers)
	}

	if n := neighbours(t, s.Box); n > before+2 || n > 12 {
		t.Errorf("%d neighbour entries, %d before", n, before)
	}
	if recorded := slices.DeleteFunc(clientFlows(s, p), early.has); len(recorded) > 0 {
		t.Errorf("flows of clients were recorded: %v", recorded)
	}
	metrics := p.Metrics()
	_, answers := wires.Left(func(f *topology.Frame) bool {
		return slices.ContainsFunc(management, func(of topology.Filter) bool { return of(f) })
	})
	if n := metrics.Sum("replypath_corrected_packets_total"); n != float64(len(answers)) {
		t.Errorf("%v packets corrected, but %d frames of the management", n, len(answers))
	}
}

// clientFlows are the recorded flows that are not of the management.
func clientFlows(s *topology.S4, p *harness.Product) []harness.Flow {
	return slices.DeleteFunc(p.Flows(), func(f harness.Flow) bool {
		return slices.ContainsFunc(s.Families(), func(of topology.Family) bool { return f.Self == s.Eth0.Address(of).String() })
	})
}

// forgetConnections has the box translate anew: a second crowd finds the ports taken
// that the first one was given, too few of them are left for all, and the kernel drops
// what it finds none for.
func forgetConnections(t *testing.T, s *topology.S4) {
	t.Helper()
	handle := harness.Must1[*netlink.Handle](t)(netlink.NewHandleAt(s.Box.Namespace(), unix.NETLINK_NETFILTER))
	defer handle.Close()
	harness.Must(t, handle.ConntrackTableFlush(netlink.ConntrackTable))
}

// recorded are flows by their names.
type recorded map[string]bool

func (r recorded) has(f harness.Flow) bool { return r[f.String()] }

// waitForGrace returns when what the box begins, or translates to its own
// address, is known as such: for a moment after the first start it is not. It
// returns the flows that were recorded until then.
func waitForGrace(t *testing.T, s *topology.S4, p *harness.Product) recorded {
	t.Helper()
	early := make(recorded)
	harness.Eventually(t, "what is translated is known as such", func() error {
		askAsClient(t, s, topology.IPv4, harness.UDP)
		before := len(early)
		for _, f := range clientFlows(s, p) {
			early[f.String()] = true
		}
		if len(early) > before {
			return fmt.Errorf("%d flows", len(early))
		}
		return nil
	})
	return early
}

// askAsClients asks from some clients by every kind of question.
func askAsClients(t *testing.T, s *topology.S4, f topology.Family) {
	t.Helper()
	for _, kind := range harness.Kinds {
		askAsClient(t, s, f, kind)
	}
}
