// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"replypath/test/harness"
	"replypath/test/topology"
)

// backWithin is how soon what others take away is back.
const backWithin = time.Second

// sourceTheft is a way in which others take our programs off the control group.
type sourceTheft struct {
	name  string
	steal func(pin string) error
	hooks []string
}

var sourceThefts = []sourceTheft{
	{"both links are detached", detachPinned, []string{"sendmsg4", "sendmsg6"}},
	{"the link for ipv4 is detached", detachPinned, []string{"sendmsg4"}},
	{"the link for ipv6 is detached", detachPinned, []string{"sendmsg6"}},
	{"the pins of both links are deleted", os.Remove, []string{"sendmsg4", "sendmsg6"}},
}

// detachPinned does what `bpftool link detach pinned` does.
func detachPinned(pin string) error {
	l, err := link.LoadPinnedLink(pin, nil)
	if err != nil {
		return err
	}
	return errors.Join(l.Detach(), l.Close())
}

// TestSourceTaken has others take the programs of the source repair off the control group,
// three times, while a daemon that binds to no address is asked by both families: within a
// second it answers from the address that was asked again. It is logged and counted.
func TestSourceTaken(t *testing.T) {
	for _, theft := range sourceThefts {
		t.Run(theft.name, func(t *testing.T) {
			s, p := newSourceRepair(t)
			theft.repeat(t, s, p, p.Start(), 3)
		})
	}
}

// TestSourceTakenAfterARestart has the programs that an earlier process attached taken from the next one.
func TestSourceTakenAfterARestart(t *testing.T) {
	s, p := newSourceRepair(t)
	d := p.Start()
	wantRepaired(t, s)
	d.Stop(unix.SIGTERM)
	sourceThefts[0].repeat(t, s, p, p.Start(), 2)
}

// newSourceRepair has a daemon of B bind to no address.
func newSourceRepair(t *testing.T) (*topology.S1, *harness.Product) {
	t.Helper()
	s := harness.NewS1(t, topology.S1Options{})
	listening{network: "udp", address: "::"}.serve(t, s.B.Host)
	return s, harness.On(t, s.B.Host)
}

// repeat steals so many times, and wants everything back within a second.
func (theft *sourceTheft) repeat(t *testing.T, s *topology.S1, p *harness.Product, d *harness.Daemon, times int) {
	t.Helper()
	wantRepaired(t, s)
	var took []time.Duration
	for i := range times {
		began := time.Now()
		for _, hook := range theft.hooks {
			harness.Must(t, theft.steal(filepath.Join(p.PinDir, "links", hook)))
		}
		d.WaitLog(i+1, "level=WARN", "programs had been taken off, attached again", "cgroup=")
		took = append(took, time.Since(began).Round(time.Millisecond))
		wantRepaired(t, s)
	}
	t.Logf("%s, %d times: back after %v", theft.name, times, took)
	for _, one := range took {
		if one > harness.Patient(backWithin) {
			t.Errorf("back after %s", one)
		}
	}
	if repairs := p.Metrics().Sum("replypath_host_repairs_total", "object=program"); repairs != float64(times) {
		t.Errorf("%v repairs are counted", repairs)
	}
}

// wantRepaired asks the daemon at B's eth1, and wants answers from there.
func wantRepaired(t *testing.T, s *topology.S1) {
	t.Helper()
	for _, f := range s.Families() {
		eth1 := s.B.Eth1.Address(f)
		newAsker(t, s.A.Eth1, f).wantFrom(eth1, eth1)
	}
}
