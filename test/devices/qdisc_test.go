// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"context"
	"fmt"
	"io"
	"math"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"replypath/test/await"
	testhost "replypath/test/host"
	"replypath/test/product"
	"replypath/test/short"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// qdisc puts a queueing discipline on the server's interfaces.
func qdisc(t *testing.T, host *topology.Host, device string, what ...string) {
	t.Helper()
	args := append([]string{"qdisc", "replace", "dev", device, "root"}, what...)
	output, err := host.Command(await.Within(t, await.AnswerTime), "tc", args...).CombinedOutput()
	if err != nil && strings.Contains(string(output), "qdisc kind is unknown") {
		lacks(t, "queueing discipline "+what[0])
	}
	if err != nil {
		t.Fatalf("tc %v: %v\n%s", args, err, output)
	}
}

// TestNetem delays what leaves by either interface. Without replypath an answer is held by production and gets lost; a
// moved one is held by the interface that it leaves by, once, and not by the one that the kernel chose.
func TestNetem(t *testing.T) {
	const production, replication = 2 * time.Second, 500 * time.Millisecond
	s := newSite(t, ethernet, ethernet)
	// What resolves MACs is delayed as well.
	for _, f := range traffic.Families {
		ctx := await.Within(t, await.AnswerTime)
		await.Must(t, s.Replication.Resolve(ctx, s.Replication.Gateway(f)))
		await.Must(t, s.Replication.Peer().Resolve(ctx, s.Replication.Address(f)))
	}
	qdisc(t, s.Server, "eth0", "netem", "delay", "2s")
	qdisc(t, s.Server, "eth1", "netem", "delay", "500ms")
	traffic.EachQuestion(t, "without replypath", func(t *testing.T, f topology.Family, kind traffic.Kind) {
		c := s.ask(t, kind, s.Replication.Address(f))
		exits := wire.TapAll(t, s.nics()...)
		s.wantConversationLost(t, c)
		wantHeld(t, exits, c, s.Replication, s.Production, production)
	})
	product.On(t, s.Server).Start()
	traffic.EachQuestion(t, "with replypath", func(t *testing.T, f topology.Family, kind traffic.Kind) {
		c := s.ask(t, kind, s.Replication.Address(f))
		exits := wire.TapAll(t, s.nics()...)
		traffic.Ask(t, c)
		wantHeld(t, exits, c, s.Replication, s.Replication, replication)
		exits.Want(c.String(), c.Answers(), s.Replication, s.Replication.Peer().MAC)
	})
}

// wantHeld wants the first answer to leave by an interface so long after its question came in, and not twice as long.
func wantHeld(t *testing.T, exits *wire.Exits, c *traffic.Conversation, in, out *topology.Interface, delay time.Duration) {
	t.Helper()
	questions, answers := exits.Came(in, c.Questions()), exits.Left(out, c.Answers())
	if len(questions) == 0 || len(answers) == 0 {
		t.Errorf("%s: %d questions by %s, %d answers by %s", c, len(questions), in.Name, len(answers), out.Name)
		return
	}
	held := answers[0].Time.Sub(questions[0].Time)
	t.Logf("%s: answered by %s after %s", c, out.Name, held.Round(time.Millisecond))
	if held < delay || held >= 2*delay {
		t.Errorf("%s: answered after %s, not after once %s", c, held, delay)
	}
}

// number returns what the first group of an expression matches, 0 where nothing does.
func number(t *testing.T, expression *regexp.Regexp, text string) int {
	t.Helper()
	match := expression.FindStringSubmatch(text)
	if match == nil {
		return 0
	}
	return await.Must1[int](t)(strconv.Atoi(match[1]))
}

// paced is how many bytes a second a server sends where it has set a limit: far
// less than what an emulated machine can do that has other work.
const paced = 50_000

// leastPace is the part of the uncorrected pace that a corrected flow has to keep.
const leastPace = 0.97

// TestPacing has a server limit the rate of its connection (SO_MAX_PACING_RATE), which fq at the interfaces carries
// out: what is moved keeps the pace of what the kernel sends by replication itself. So does, by the strong host model,
// a connection that the server opens from replication's address.
func TestPacing(t *testing.T) {
	quick := short.Run(t)
	families, openedBy := traffic.Families, traffic.Families
	if quick { // each takes seconds, in which nothing happens
		families, openedBy = families[:1], families[1:]
	}
	for name, devices := range map[string][]string{
		"fq at both": {"eth0", "eth1"}, "fq at replication": {"eth1"}, "fq at production": {"eth0"},
	} {
		if quick && len(devices) < 2 {
			continue
		}
		t.Run(name, func(t *testing.T) {
			s := newSite(t, ethernet, ethernet)
			for _, device := range devices {
				qdisc(t, s.Server, device, "fq")
			}
			byFQ := devices[len(devices)-1] == "eth1"
			uncorrected := make(map[topology.Family]float64)
			for _, f := range families {
				t.Run("without replypath/"+f.String(), func(t *testing.T) {
					s.wantLost(t, f, traffic.TCP)
					opened := traffic.NewConversation(t, traffic.TCP, s.Replication, s.ClientEth0.Address(f))
					s.wantAnswersLost(t, opened, opened.Questions())
					uncorrected[f] = s.routedRate(t, f, byFQ)
				})
			}
			product.On(t, s.Server).Start("--config", product.WriteConfig(t, s.strongHost()))
			if len(devices) == 2 {
				for _, f := range openedBy {
					t.Run("originated/"+f.String(), func(t *testing.T) { s.wantPaceOfOpened(t, f) })
				}
			}
			for _, f := range families {
				t.Run("with replypath/"+f.String(), func(t *testing.T) {
					corrected := s.pacedRate(t, f, byFQ)
					ratio := corrected / uncorrected[f]
					t.Logf("corrected %.0f bytes a second, uncorrected %.0f, ratio %.3f", corrected, uncorrected[f], ratio)
					if ratio < leastPace || ratio > 1/leastPace {
						t.Errorf("the corrected flow has %.3f of the pace of the uncorrected one", ratio)
					}
				})
			}
		})
	}
}

// strongHost names the gateways of replication, to which no route leads.
func (s *site) strongHost() string {
	gateway := func(f topology.Family) netip.Addr { return address(f, replicationNet, routerNumber).Addr() }
	return fmt.Sprintf("host_model: strong\ninterfaces: [{name: eth0}, {name: eth1, gateways: [%s, %q]}]\n",
		gateway(topology.IPv4), gateway(topology.IPv6))
}

// wantPaceOfOpened wants a connection that the server opens to keep its limit.
func (s *site) wantPaceOfOpened(t *testing.T, f topology.Family) {
	rate := s.openedRate(t, f)
	t.Logf("originated %.0f bytes a second of %d", rate, paced)
	if rate < leastPace*paced || rate > 1.2*paced { // of frames with their headers
		t.Errorf("%.0f bytes a second, not %d", rate, paced)
	}
}

// openedRate has the server open a connection from replication's address and send three seconds' worth, and returns how
// many bytes a second left by replication.
func (s *site) openedRate(t *testing.T, f topology.Family) float64 {
	t.Helper()
	const size = 3 * paced
	ctx := await.Within(t, 3*await.AnswerTime)
	l := await.Must1[net.Listener](t)(s.Client.Listen(ctx, "tcp", netip.AddrPortFrom(s.ClientEth0.Address(f), 0).String()))
	defer l.Close()
	received := make(chan int64, 1)
	go func() { received <- receiveAll(l) }()
	exits, before := wire.TapAll(t, s.nics()...), s.throttled(t)
	from := topology.FromAddress(netip.AddrPortFrom(s.Replication.Address(f), 0))
	conn := await.Must1[net.Conn](t)(s.Server.Dial(ctx, "tcp", l.Addr().String(), from))
	defer conn.Close()
	raw := await.Must1[syscall.RawConn](t)(conn.(*net.TCPConn).SyscallConn())
	await.Must(t, control(raw, limitPace))
	await.Must1[int](t)(conn.Write(make([]byte, size)))
	await.Must(t, conn.(*net.TCPConn).CloseWrite())
	if n := <-received; n != size {
		t.Errorf("%d bytes arrived of %d", n, size)
	}
	if s.throttled(t) == before {
		t.Error("fq at replication has held nothing back")
	}
	port := topology.ToPort(netip.MustParseAddrPort(l.Addr().String()).Port())
	return rateOf(exits.Want("what is paced", topology.All(topology.TCP, port), s.Replication, s.Replication.Peer().MAC))
}

// receiveAll accepts one connection, and returns how many bytes come by it.
func receiveAll(l net.Listener) int64 {
	conn, err := l.Accept()
	if err != nil {
		return 0
	}
	defer conn.Close()
	n, _ := io.Copy(io.Discard, conn)
	return n
}

// routedRate is pacedRate where a route leads the answers to replication.
func (s *site) routedRate(t *testing.T, f topology.Family, byFQ bool) float64 {
	t.Helper()
	route := topology.Route{
		Destination: address(f, clientNet, 0), Via: address(f, replicationNet, routerNumber).Addr(), Interface: s.Replication.Name,
	}
	await.Must(t, s.Server.AddRoute(route))
	defer func() { await.Must(t, s.Server.RemoveRoute(route)) }()
	return s.pacedRate(t, f, byFQ)
}

// pacedRate has the server send five seconds' worth by replication, and returns how many bytes a second left by it.
func (s *site) pacedRate(t *testing.T, f topology.Family, byFQ bool) float64 {
	t.Helper()
	const size = 5 * paced
	ctx := await.Within(t, 3*await.AnswerTime)
	l := await.Must1[net.Listener](t)(s.listenPaced(ctx, s.Replication.Address(f)))
	defer l.Close()
	sent := make(chan error, 1)
	go func() { sent <- sendAll(l, size) }()
	port := netip.MustParseAddrPort(l.Addr().String())
	exits := wire.TapAll(t, s.nics()...)
	before := s.throttled(t)
	conn := await.Must1[net.Conn](t)(s.Client.Dial(ctx, "tcp", port.String()))
	defer conn.Close()
	got, err := io.Copy(io.Discard, conn)
	await.Must(t, err)
	await.Must(t, <-sent)
	if got != size {
		t.Errorf("%d bytes arrived of %d", got, size)
	}
	if byFQ && s.throttled(t) == before {
		t.Error("fq at replication has held nothing back")
	}
	frames := exits.Want("what is paced", topology.All(topology.TCP, topology.FromPort(port.Port())), s.Replication, s.Replication.Peer().MAC)
	rate := rateOf(frames)
	if rate < 0.8*paced || rate > 1.2*paced {
		t.Errorf("%.0f bytes a second, not %d", rate, paced)
	}
	return rate
}

// pause is the least time between two packets that pacing has set apart: it makes
// 30 ms out of a segment of 1448 bytes. Segments of one packet come together.
const pause = 5 * time.Millisecond

// rateOf is how many bytes a second the frames are: the median over the packets, each with the time to the next one. A
// mean would be that of the machine, which has other work: TCP does not make up for a packet that is late by more than
// half of the time to the next (tcp_update_skb_after_send in net/ipv4/tcp_output.c). The packets of the first second do
// not count: what is sent before the pace is known comes at once.
func rateOf(frames []*topology.Frame) float64 {
	var rates []float64
	begin, bytes := frames[0].Time, 0
	for i, frame := range frames {
		if i > 0 && frame.Time.Sub(frames[i-1].Time) >= pause {
			if begin.Sub(frames[0].Time) > time.Second {
				rates = append(rates, float64(bytes)/frame.Time.Sub(begin).Seconds())
			}
			begin, bytes = frame.Time, 0
		}
		bytes += frame.Length
	}
	if len(rates) == 0 {
		return math.Inf(1)
	}
	slices.Sort(rates)
	return rates[len(rates)/2]
}

// listenPaced listens with a limit that the accepted connections inherit.
func (s *site) listenPaced(ctx context.Context, at netip.Addr) (net.Listener, error) {
	l, err := s.Server.Listen(ctx, "tcp", netip.AddrPortFrom(at, 0).String())
	if err != nil {
		return nil, err
	}
	raw, err := l.(*net.TCPListener).SyscallConn()
	if err != nil {
		return nil, err
	}
	return l, control(raw, limitPace)
}

func limitPace(fd int) error {
	return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MAX_PACING_RATE, paced)
}

func control(raw syscall.RawConn, set func(fd int) error) error {
	var err error
	if controlErr := raw.Control(func(fd uintptr) { err = set(int(fd)) }); controlErr != nil {
		return controlErr
	}
	return err
}

// sendAll accepts one connection, sends so many bytes and closes it.
func sendAll(l net.Listener, size int) error {
	conn, err := l.Accept()
	if err != nil {
		return err
	}
	_, err = conn.Write(make([]byte, size))
	conn.Close()
	return err
}

var throttledFlows = regexp.MustCompile(`gc \d+.* throttled (\d+)`)

// throttled is how many packets fq at replication has held back.
func (s *site) throttled(t *testing.T) int {
	t.Helper()
	return number(t, throttledFlows, testhost.Shell(t, s.Server, "tc -s qdisc show dev eth1"))
}
