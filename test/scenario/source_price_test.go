// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	repair "replypath/loader/source"
	"replypath/test/harness"
	"replypath/test/topology"
)

// Datagrams are timed in bursts of so many.
const (
	bursts = 8
	sends  = 5_000
)

// BenchmarkUnconnectedSend measures what the source repair costs a socket on B
// that sends without being connected: when nothing is attached, when it is for
// another network namespace, for this one but not for this peer, and when it sets
// the source. Every round sends in each of these states and is compared with
// itself; rounds in which others have programs on the cgroup do not count.
//
//	go test ./test/scenario -run - -bench UnconnectedSend -benchtime 31x
func BenchmarkUnconnectedSend(b *testing.B) {
	for _, f := range []topology.Family{topology.IPv4, topology.IPv6} {
		b.Run(f.String(), func(b *testing.B) {
			p := newPrice(b, f)
			states := []string{"none", "other", "miss", "hit"}
			times := make(map[string][]float64)
			for len(times["none"]) < b.N {
				if round, alone := p.round(); alone {
					for _, state := range states {
						times[state] = append(times[state], round[state])
					}
				}
			}
			b.ReportMetric(0, "ns/op")
			for _, state := range states {
				var more []float64
				for i, ns := range times[state] {
					more = append(more, 100*(ns/times["none"][i]-1))
				}
				b.ReportMetric(median(times[state]), "ns-"+state)
				if state != "none" {
					b.ReportMetric(median(more), "percent-"+state)
				}
			}
		})
	}
}

func median(list []float64) float64 {
	list = slices.Sorted(slices.Values(list))
	return list[len(list)/2]
}

// price is what is measured with: replypath on B and, for the other namespace, on
// A, and a socket on B that sends to its neighbour, which asked, and to one of
// its ports that did not.
type price struct {
	b            testing.TB
	here, there  *switched
	socket       int
	asked, other unix.Sockaddr
	cgroup       *os.File
}

// switched is a running replypath whose source repair is switched by its
// configuration.
type switched struct {
	t    testing.TB
	d    *harness.Daemon
	path string
	on   bool
}

func newSwitched(t testing.TB, host *topology.Host) *switched {
	s := &switched{t: t, path: filepath.Join(t.TempDir(), "replypath.yaml")}
	s.write()
	s.d = harness.On(t, host).Start("--config", s.path)
	return s
}

func (s *switched) write() {
	harness.Must(s.t, os.WriteFile(s.path, fmt.Appendf(nil, "repair_udp_source: %v\nmetrics: {listen: \"\"}\n", s.on), 0o644))
}

func (s *switched) turn(on bool) {
	if s.on == on {
		return
	}
	s.on = on
	s.write()
	s.d.Reload()
}

func newPrice(b *testing.B, f topology.Family) *price {
	s := harness.NewS1(b, topology.S1Options{})
	p := &price{b: b, here: newSwitched(b, s.B.Host), there: newSwitched(b, s.A.Host)}
	path := harness.Must1[string](b)(repair.Cgroup())
	p.cgroup = harness.Must1[*os.File](b)(os.Open(path))
	b.Cleanup(func() { p.cgroup.Close() })
	harness.Must(b, s.B.Do(func() (err error) {
		p.socket, err = unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		return unix.Bind(p.socket, &unix.SockaddrInet6{Port: daemonPort})
	}))
	b.Cleanup(func() { unix.Close(p.socket) })
	p.here.turn(true)
	// The router drops what it does not read.
	asker, idle := newAsker(b, s.B.Eth0.Peer(), f), newAsker(b, s.B.Eth0.Peer(), f)
	asker.send(s.B.Eth0.Address(f))
	p.asked, p.other = address6(asker.at), address6(idle.at)
	_, _, err := unix.Recvfrom(p.socket, make([]byte, 100), 0)
	harness.Must(b, err)
	return p
}

func address6(at netip.AddrPort) unix.Sockaddr {
	return &unix.SockaddrInet6{Addr: at.Addr().As16(), Port: int(at.Port())}
}

// round measures a send in every state, in ns, and tells whether nobody else had
// programs on the cgroup.
func (p *price) round() (round map[string]float64, alone bool) {
	round = make(map[string]float64)
	alone = true
	for _, state := range []struct {
		name        string
		here, there bool
		to          unix.Sockaddr
	}{
		{"none", false, false, p.other}, {"other", false, true, p.other}, {"miss", true, false, p.other}, {"hit", true, false, p.asked},
	} {
		p.here.turn(state.here)
		p.there.turn(state.there)
		own := 0
		for _, on := range []bool{state.here, state.there} {
			if on {
				own++
			}
		}
		before := p.attached()
		round[state.name] = p.time(state.to)
		alone = alone && before == own && p.attached() == own
	}
	return round, alone
}

func (p *price) attached() int {
	found, err := link.QueryPrograms(link.QueryOptions{
		Target: int(p.cgroup.Fd()), Attach: ebpf.AttachCGroupUDP4Sendmsg,
	})
	harness.Must(p.b, err)
	return len(found.Programs)
}

// time returns the processor time of a send, in ns: the least of several bursts,
// as whatever else the machine does only adds to it.
func (p *price) time(to unix.Sockaddr) float64 {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	datagram := make([]byte, 64)
	least := math.Inf(1)
	for range bursts {
		begun := p.clock()
		for range sends {
			harness.Must(p.b, unix.Sendto(p.socket, datagram, 0, to))
		}
		least = min(least, float64(p.clock()-begun)/sends)
	}
	return least
}

func (p *price) clock() int64 {
	var now unix.Timespec
	harness.Must(p.b, unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &now))
	return now.Nano()
}
