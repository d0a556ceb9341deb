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

	"replypath/test/await"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
)

// detachPinned does what `bpftool link detach pinned` does.
func detachPinned(pin string) error {
	l, err := link.LoadPinnedLink(pin, nil)
	if err != nil {
		return err
	}
	return errors.Join(l.Detach(), l.Close())
}

// TestSourceTaken has others take the programs of the source repair off the control group, three times, while a
// daemon that binds to no address is asked by both families: within a second it answers from the address that was
// asked again. It is logged and counted. All but the first time the programs are those of an earlier process.
func TestSourceTaken(t *testing.T) {
	s := traffic.NewS1(t, topology.S1Options{})
	listening{network: "udp", address: "::"}.serve(t, s.B.Host)
	p := product.On(t, s.B.Host)
	product.Quiet(t)
	for _, theft := range []struct {
		name  string
		steal func(pin string) error
		hooks []string
	}{
		{"both links are detached", detachPinned, []string{"sendmsg4", "sendmsg6"}},
		{"both links of an earlier process are detached", detachPinned, []string{"sendmsg4", "sendmsg6"}},
		{"the link for ipv4 is detached", detachPinned, []string{"sendmsg4"}},
		{"the link for ipv6 is detached", detachPinned, []string{"sendmsg6"}},
		{"the pins of both links are deleted", os.Remove, []string{"sendmsg4", "sendmsg6"}},
	} {
		t.Run(theft.name, func(t *testing.T) {
			const backWithin = time.Second
			repairs := func() float64 { return p.Metrics().Sum("replypath_host_repairs_total", "object=program") }
			d := p.Start() // one process puts back a few at once
			wantRepaired(t, s)
			before := repairs()
			for taken := 1; taken <= 3; taken++ {
				began := time.Now()
				for _, hook := range theft.hooks {
					await.Must(t, theft.steal(filepath.Join(p.PinDir, "links", hook)))
				}
				d.WaitLog(taken, "level=WARN", "programs had been taken off, attached again", "cgroup=")
				took := time.Since(began).Round(time.Millisecond)
				if t.Logf("back after %s", took); took > await.Patient(backWithin) {
					t.Errorf("back after %s", took)
				}
				wantRepaired(t, s)
				if more := repairs() - before; more != float64(taken) {
					t.Errorf("%v repairs are counted of %d", more, taken)
				}
			}
			d.Stop(unix.SIGTERM)
		})
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
