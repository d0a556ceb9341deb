// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"io"
	"math"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"replypath/test/harness"
	"replypath/test/topology"
)

// answered returns how many echo replies the clients' kernel has received so far.
func answered(t *testing.T, s *topology.S4, f topology.Family) int {
	t.Helper()
	counter := "IcmpInEchoReps"
	if f == topology.IPv6 {
		counter = "Icmp6InEchoReplies"
	}
	lines := strings.Fields(run(t, s.Inside, "nstat -asz "+counter))
	return harness.Must1[int](t)(strconv.Atoi(lines[slices.Index(lines, counter)+1]))
}

// leastTime is less than any machine takes to forward a ping and its answer.
const leastTime = 2 * time.Microsecond

// round has every client ping, wants answers, and returns the
// processor time that it took. The kernel forwards a packet in the thread that
// sends it, on the way there and on the way back, and accounts it to that thread:
// unlike the time that passes, it hardly depends on what else is going on.
func (c *crowd) round(s *topology.S4) time.Duration {
	c.t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before, begin := answered(c.t, s, c.family), threadTime(c.t)
	c.sendAll()
	spent := threadTime(c.t) - begin
	harness.Eventually(c.t, "the pings are answered", func() error {
		// See patience; that every client is served is for TestS4Crowd to tell.
		if n := answered(c.t, s, c.family) - before; n < clients*99/100 {
			return fmt.Errorf("%d of %d", n, clients)
		}
		return nil
	})
	if spent < clients*leastTime {
		c.t.Fatalf("%s for %d pings: this kernel accounts what it forwards elsewhere", spent, clients)
	}
	return spent
}

// threadTime is the processor time that the calling thread has used.
func threadTime(t *testing.T) time.Duration {
	t.Helper()
	var now unix.Timespec
	harness.Must(t, unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &now))
	return time.Duration(now.Nano())
}

// alternation holds what something took by turns without replypath and with it: once
// more without, so that each time with it lies between two without. What neighbours
// differ by that are alike is noise.
type alternation struct{ with, without []time.Duration }

// newAlternation measures for the first time, without replypath.
func newAlternation(measure func() time.Duration) *alternation {
	return &alternation{without: []time.Duration{measure()}}
}

// measure adds rounds to the alternation.
func (a *alternation) measure(p *harness.Product, measure func() time.Duration) {
	for range rounds {
		p.Start()
		a.with = append(a.with, measure())
		p.Expect(0, "detach", "--stop")
		a.without = append(a.without, measure())
	}
}

// rounds is how often something is measured with replypath before it is judged.
const rounds = 7

// ratio is how many times as long the median round takes with replypath as those
// before and after it; spread are the least and the most.
func (a *alternation) ratio() (median float64, spread [2]float64) {
	var ratios []float64
	for i, with := range a.with {
		between := math.Sqrt(a.without[i].Seconds() * a.without[i+1].Seconds())
		ratios = append(ratios, with.Seconds()/between)
	}
	slices.Sort(ratios)
	return ratios[len(ratios)/2], [2]float64{ratios[0], ratios[len(ratios)-1]}
}

// noise is how many times as long the longer one takes of two neighbours without
// replypath, in the median.
func (a *alternation) noise() float64 {
	var noise []float64
	for i, before := range a.without[:len(a.with)] {
		after := a.without[i+1]
		noise = append(noise, max(before, after).Seconds()/min(before, after).Seconds())
	}
	slices.Sort(noise)
	return noise[len(noise)/2]
}

// tolerance bounds the ratio of the processor times. It was 1.01 to 1.12 on two shared,
// busy cores, whose rounds differ by more than that among themselves.
const tolerance = 1.3

// TestS4SmallPackets measures the processor time that it takes to forward the pings of
// 30,000 clients, each of which is another flow.
func TestS4SmallPackets(t *testing.T) {
	s, _ := newS4(t)
	p := harness.On(t, s.Box)
	for _, f := range s.Families() {
		c := pingCrowd(t, s, f)
		c.round(s) // enters the connections
		measure := func() time.Duration {
			c.round(s) // the first of every client
			return c.round(s) / clients
		}
		times := newAlternation(measure)
		times.measure(p, measure)
		ratio, spread := times.ratio()
		t.Logf("%s: a ping and its answer take %v, without replypath %v: %.2f times the processor time (%.2f to %.2f), noise %.2f",
			f, times.with, times.without, ratio, spread[0], spread[1], times.noise())
		if ratio > tolerance {
			t.Errorf("%s: forwarding takes %.2f times the processor time with replypath", f, ratio)
		}
	}
}

// patientRounds is how many rounds the throughput is measured in before it counts as
// lower: the median of a few lies off by almost as much as two of them differ.
const patientRounds = 5 * rounds

// leastNoise is what two measurements of one thing differ by on the quietest of shared
// machines.
const leastNoise = 1.05

// TestS4Throughput sends bulk data of some of the 30,000 clients through the box while
// the flows of all are known to it: with replypath it takes as long as without.
func TestS4Throughput(t *testing.T) {
	s, _ := newS4(t)
	p := harness.On(t, s.Box)
	for _, f := range s.Families() {
		crowd, streams := pingCrowd(t, s, f), bulkStreams(t, s, f)
		measure := func() time.Duration {
			crowd.round(s)
			return sendBulk(t, streams, bulkSize)
		}
		times, slower := newAlternation(measure), true
		for slower && len(times.with) < patientRounds {
			times.measure(p, measure)
			ratio, spread := times.ratio()
			slower = ratio > max(times.noise(), leastNoise)
			t.Logf("%s: %d MB in %v, without replypath %v: the median round takes %.2f times as long (%.2f to %.2f), noise %.2f",
				f, len(streams)*bulkSize>>20, times.with, times.without, ratio, spread[0], spread[1], times.noise())
		}
		if slower {
			t.Errorf("%s: forwarding takes longer with replypath, by more than the noise", f)
		}
	}
}

const (
	bulkClients = 32
	bulkSize    = 16 << 20 // bytes of each in a round
	bulkTime    = 60 * time.Second
)

// bulkStreams connects some of the clients to a server in the internet.
func bulkStreams(t *testing.T, s *topology.S4, f topology.Family) []net.Conn {
	t.Helper()
	at := takeBulk(t, s.Internet, s.InternetEth0.Address(f), bulkSize)
	var streams []net.Conn
	for number := range bulkClients {
		from := topology.FromAddress(netip.AddrPortFrom(s.Client(f, number+1), 0))
		conn := harness.Must1[net.Conn](t)(s.Inside.Dial(harness.Within(t, harness.AnswerTime), "tcp", at, from))
		t.Cleanup(func() { conn.Close() })
		streams = append(streams, conn)
	}
	return streams
}

// takeBulk has a host take what it is sent, and confirm every so many bytes by one. It returns the address.
func takeBulk(t *testing.T, host *topology.Host, self netip.Addr, size int64) string {
	t.Helper()
	l := harness.Must1[net.Listener](t)(host.Listen(t.Context(), "tcp", netip.AddrPortFrom(self, 0).String()))
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go confirmBulk(conn, size)
		}
	}()
	return l.Addr().String()
}

func confirmBulk(conn net.Conn, size int64) {
	defer conn.Close()
	for {
		if _, err := io.CopyN(io.Discard, conn, size); err != nil {
			return
		}
		if _, err := conn.Write([]byte{1}); err != nil {
			return // the client notices
		}
	}
}

// sendBulk sends so many bytes in each stream, and returns how long it takes until all is confirmed.
func sendBulk(t *testing.T, streams []net.Conn, size int) time.Duration {
	t.Helper()
	data := make([]byte, size)
	begin := time.Now()
	var all errgroup.Group
	for _, conn := range streams {
		all.Go(func() error {
			if err := conn.SetDeadline(begin.Add(bulkTime)); err != nil {
				return err
			}
			if _, err := conn.Write(data); err != nil {
				return err
			}
			_, err := io.ReadFull(conn, make([]byte, 1))
			return err
		})
	}
	harness.Must(t, all.Wait())
	return time.Since(begin)
}
