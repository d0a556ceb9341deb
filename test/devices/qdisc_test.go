// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"errors"
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

// TestPacing has a server limit the rate of a connection (SO_MAX_PACING_RATE), which fq at the interfaces carries out: what is
// moved keeps the pace. So does, by the strong host model, a connection that the server opens from replication's address.
func TestPacing(t *testing.T) {
	quick := short.Run(t)
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
			for _, f := range traffic.Families {
				s.wantLost(t, f, traffic.TCP)
				opened := traffic.NewConversation(t, traffic.TCP, s.Replication, s.ClientEth0.Address(f))
				s.wantAnswersLost(t, opened, opened.Questions())
			}
			product.On(t, s.Server).Start("--config", product.WriteConfig(t, s.strongHost()))
			for n, f := range traffic.Families { // each takes seconds, in which nothing happens
				if !quick || n == 0 {
					t.Run("asked/"+f.String(), func(t *testing.T) { s.wantPace(t, f, false, devices[len(devices)-1] == "eth1") })
				}
				if len(devices) == 2 && (!quick || n == 1) {
					t.Run("originated/"+f.String(), func(t *testing.T) { s.wantPace(t, f, true, true) })
				}
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

// wantPace has the server send five seconds' worth by a connection with replication's address, which it has opened or
// accepted, and wants it to leave by replication at that pace.
func (s *site) wantPace(t *testing.T, f topology.Family, opened, byFQ bool) {
	t.Helper()
	const size = 5 * paced
	ctx, own := await.Within(t, 3*await.AnswerTime), netip.AddrPortFrom(s.Replication.Address(f), 0)
	listens, at, dials, from := s.Server, own, s.Client, netip.AddrPortFrom(s.ClientEth0.Address(f), 0)
	if opened {
		listens, at, dials, from = dials, from, listens, at
	}
	l := await.Must1[net.Listener](t)(listens.Listen(ctx, "tcp", at.String()))
	defer l.Close()
	exits, before := wire.TapAll(t, s.nics()...), s.throttled(t)
	receiver := await.Must1[net.Conn](t)(dials.Dial(ctx, "tcp", l.Addr().String(), topology.FromAddress(from)))
	defer receiver.Close()
	sender := await.Must1[net.Conn](t)(l.Accept())
	defer sender.Close()
	if opened {
		sender, receiver = receiver, sender
	}
	raw := await.Must1[syscall.RawConn](t)(sender.(*net.TCPConn).SyscallConn())
	var limitErr error
	await.Must(t, raw.Control(func(fd uintptr) {
		limitErr = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MAX_PACING_RATE, paced)
	}))
	await.Must(t, limitErr)
	sent := make(chan error, 1)
	go func() {
		_, err := sender.Write(make([]byte, size))
		sent <- errors.Join(err, sender.(*net.TCPConn).CloseWrite())
	}()
	await.Same(t, "bytes that arrived", size, await.Must1[int64](t)(io.Copy(io.Discard, receiver)))
	await.Must(t, <-sent)
	if byFQ && s.throttled(t) == before {
		t.Error("fq at replication has held nothing back")
	}
	port := netip.MustParseAddrPort(l.Addr().String()).Port()
	what := topology.All(topology.TCP, topology.From(own.Addr()), topology.OneOf(topology.FromPort(port), topology.ToPort(port)))
	rate := rateOf(exits.Want("what is paced", what, s.Replication, s.Replication.Peer().MAC))
	t.Logf("%.0f bytes a second of %d", rate, paced)
	if rate < 0.8*paced || rate > 1.2*paced { // of frames with their headers
		t.Errorf("%.0f bytes a second, not %d", rate, paced)
	}
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

var throttledFlows = regexp.MustCompile(`gc \d+.* throttled (\d+)`)

// throttled is how many packets fq at replication has held back.
func (s *site) throttled(t *testing.T) int {
	t.Helper()
	return number(t, throttledFlows, testhost.Shell(t, s.Server, "tc -s qdisc show dev eth1"))
}
