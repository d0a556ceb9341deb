// SPDX-License-Identifier: Apache-2.0

// Package soak runs the product for long under load while everything around it changes: connections, interfaces,
// addresses, routes, gateways and the configuration. What leaves by the wrong NIC without an event that explains it is
// a failure, and so is a daemon that grows. `make soak` runs it for half an hour, with the race detector in the daemon;
// without [timeVariable] it is short, to see that it works.
package soak

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"replypath/test/await"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
)

func TestMain(m *testing.M) { product.Main(m) }

const (
	// timeVariable holds how long the test runs, as time.ParseDuration reads it.
	timeVariable = "REPLYPATH_SOAK_TIME"
	// eventEvery is how often something changes, sampleEvery how often the daemon is
	// looked at, progressEvery how often that is told.
	eventEvery    = time.Second
	sampleEvery   = 5 * time.Second
	progressEvery = time.Minute
)

// soak is one run.
type soak struct {
	t      *testing.T
	n      *topology.TwoNIC
	p      *product.Product
	d      *product.Daemon
	config string // the file's path
	rng    *rand.Rand
	load   *traffic.Load
	state
	judge *judge

	repeated atomic.Int64 // questions
	report   report
}

// state is what changes have made so far.
type state struct {
	order         []int               // the next changes
	configuration int                 // index into configurations
	present       []netip.Addr        // addresses that came and have not gone
	late          *topology.Interface // nil while there is none
	hasSecond     bool                // eth1 has a second address
	hasRoute      bool                // eth1 has a second gateway
	otherDefault  bool                // the default routes lead by eth0's other gateway
	// eth1 has default routes too
	hasSecondDefault bool
	macs             int // that gateways had
}

// TestSoak is the whole of it.
func TestSoak(t *testing.T) {
	s := begin(t)
	end := s.report.began.Add(duration(t))
	events, samples, progress := time.NewTicker(eventEvery), time.NewTicker(sampleEvery), time.NewTicker(progressEvery)
	for _, ticker := range []*time.Ticker{events, samples, progress} {
		defer ticker.Stop()
	}
	for time.Now().Before(end) || len(s.report.events) < len(changes) {
		select {
		case <-events.C:
			s.change()
		case <-samples.C:
			s.sample()
		case <-progress.C:
			t.Log(s.progress())
		}
		s.judge.look()
	}
	s.finish()
}

// duration is how long the test runs at least. Each change is made once in any case.
func duration(t *testing.T) time.Duration {
	t.Helper()
	text := cmp.Or(os.Getenv(timeVariable), "0s")
	return await.Must1[time.Duration](t)(time.ParseDuration(text))
}

// begin starts the daemon and the load.
func begin(t *testing.T) *soak {
	t.Helper()
	n := traffic.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.AnySource})
	s := &soak{
		t: t, n: n, p: product.On(t, n.Server.Host), config: product.WriteConfig(t, configurations[0]),
		rng: rand.New(rand.NewPCG(1, 0)),
	}
	s.prepareChanges()
	s.d = s.p.Start("--config", s.config)
	s.p.WaitGrace()
	s.judge = newJudge(t, n)
	s.report = newReport()
	s.startLoad()
	return s
}

// finish ends the load and the daemon, and judges.
func (s *soak) finish() {
	s.t.Helper()
	s.load.End()
	s.report.fail(s.load.Failures()...)
	s.sample()
	s.judge.look()
	s.d.Signal(unix.SIGTERM)
	// 66 after a data race, which the log describes.
	if code := s.d.WaitEnd(); code != 0 {
		s.report.fail(fmt.Sprintf("the daemon ended with %d:\n%s", code, s.d.Log))
	}
	s.t.Log(s.report.conclude(s.load, s.judge, s.repeated.Load()))
	for _, failure := range s.report.failures {
		s.t.Error(failure)
	}
}

// sample looks at the daemon.
func (s *soak) sample() {
	s.t.Helper()
	if len(s.d.Log.Lines("DATA RACE")) > 0 {
		s.t.Fatalf("a data race:\n%s", s.d.Log)
	}
	metrics := s.p.Metrics()
	s.report.samples = append(s.report.samples, sample{
		resident:    s.d.Memory("VmRSS"),
		goroutines:  uint64(metrics.Sum("go_goroutines")),
		descriptors: uint64(len(await.Must1[[]os.DirEntry](s.t)(os.ReadDir(fmt.Sprintf("/proc/%d/fd", s.d.PID()))))),
		flows:       int(metrics.Sum("replypath_flows")),
	})
}

// progress is a line for who watches.
func (s *soak) progress() string {
	last := s.report.samples[len(s.report.samples)-1]
	return fmt.Sprintf("%s: %d connections, %d questions; daemon: %d MiB, %d open files, %d goroutines; %d flows",
		time.Since(s.report.began).Round(time.Second), s.load.Connections(), s.load.Answers(),
		last.resident>>20, last.descriptors, last.goroutines, last.flows)
}
