// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"io"
	"math"
	"os"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"replypath/test/await"
	"replypath/test/bench/contender"
	"replypath/test/bench/load"
)

// shortly measures every slot of a plan once.
func shortly(t *testing.T, workloads []*load.Workload, contenders []*contender.Contender) {
	t.Helper()
	o := options{rounds: 1, duration: 50 * time.Millisecond}
	p := newPlan(workloads, contenders, o)
	r := newRunner(p, o, newProgress(os.Stderr, p))
	r.warmUp = r.duration // for a flow to be known everywhere
	for _, s := range p.slots {
		t.Run(s.workload.Name+"/"+s.name, func(t *testing.T) {
			value, err := r.measure(t.Context(), s)
			// So short a time may pass with other work of the machine.
			for begun := time.Now(); errors.Is(err, load.ErrIdle) && time.Since(begun) < await.AnswerTime; {
				value, err = r.measure(t.Context(), s)
			}
			await.Must(t, err)
			t.Logf("%.0f %s", value.Value, s.workload.Unit)
		})
	}
}

// TestContenders has each contender's answers leave as it has them leave, which every measurement checks.
func TestContenders(t *testing.T) {
	workloads := await.Must1[[]*load.Workload](t)(load.Named("udp-echo-64", "tcp-rr", "udp-echo-64-ipv6"))
	fit, absent, err := contender.Fit(contender.All())
	await.Must(t, err)
	t.Logf("not here: %v", absent)
	shortly(t, workloads, fit)
}

// TestWorkloads does the work that needs no other programs.
func TestWorkloads(t *testing.T) {
	fit, _ := load.Fit(load.All())
	var own []*load.Workload
	for _, w := range fit {
		if !w.Program && w.Flows < million {
			own = append(own, w)
		}
	}
	shortly(t, own, await.Must1[[]*contender.Contender](t)(contender.Named(contender.Static)))
}

// TestProfile has an answer that is moved pass the programs three times: its question as it comes
// in, and itself at the hook of the route's interface and at that of its flow's.
func TestProfile(t *testing.T) {
	stats := await.Must1[io.Closer](t)(ebpf.EnableStats(unix.BPF_STATS_RUN_TIME))
	defer stats.Close()
	echo := await.Must1[[]*load.Workload](t)(load.Named("udp-echo-64"))
	for _, c := range await.Must1[[]*contender.Contender](t)(contender.Named(contender.Replypath, contender.Floor)) {
		p := await.Must1[profile](t)(profileOf(t.Context(), c, echo[0]))
		t.Logf("%s: %+v", c.Name, p)
		if math.Abs(p.runs-3) > 0.1 {
			t.Errorf("%s: %.2f runs of programs for an echo, want 3", c.Name, p.runs)
		}
		if p.nanoseconds <= 0 || p.share <= 0 || p.share >= 1 {
			t.Errorf("the programs of %s take %+v", c.Name, p)
		}
	}
}
