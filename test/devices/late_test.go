// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// TestProgramsRefusedLate: what a device without an Ethernet header needs is loaded once the first one comes. A daemon
// that cannot load it says so of that device, goes on to serve all others, and tries again.
func TestProgramsRefusedLate(t *testing.T) {
	n := traffic.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.StrictSource})
	p := product.On(t, n.Server.Host)
	p.StateDir = "" // to gather the history takes files now and then
	d := p.Start()
	lift := limitFiles(t, d)
	tun := addTun(t, n, "tun1", n.Replication, replicationTunnel)
	await.Eventually(t, "the status names tun1", func() error {
		if errs := p.Status().Errors; !slices.ContainsFunc(errs, isRefused) {
			return fmt.Errorf("it has %q", errs)
		}
		return nil
	})
	if i := p.Status().Interface("tun1"); i == nil || i.Attached {
		t.Errorf("tun1: %+v", i)
	}
	for _, f := range n.Families() {
		wire.WantByEth1(t, n.Server, traffic.NewConversation(t, traffic.TCP, n.ClientEth0, n.Server.Eth1.Address(f)))
		wire.WantLost(t, n.Server, traffic.NewConversation(t, traffic.TCP, n.ClientEth0, tun.Address(f)))
	}
	lift()
	host.Shell(t, n.Server.Host, "ip address add 10.99.0.1/32 dev tun1") // an event, so that nobody waits for the slow timer
	await.Eventually(t, "tun1 is served", func() error {
		if s := p.Status(); !s.Interface("tun1").Attached || slices.ContainsFunc(s.Errors, isRefused) {
			return fmt.Errorf("%+v, errors %q", s.Interface("tun1"), s.Errors)
		}
		return nil
	})
	byTun := &topology.Server{Host: n.Server.Host, Eth0: n.Server.Eth0, Eth1: tun}
	for _, f := range n.Families() {
		wire.WantByEth1(t, byTun, traffic.NewConversation(t, traffic.TCP, n.ClientEth0, tun.Address(f)))
	}
}

func isRefused(message string) bool {
	return strings.HasPrefix(message, "interface tun1: load programs: ")
}

// spareFiles is how many files a daemon may open beside what it has open: enough for all that it reads, and too few for
// another set of the maps.
const spareFiles = 20

// limitFiles keeps a daemon from opening more than a few files, and returns what lifts that.
func limitFiles(t *testing.T, d *product.Daemon) (lift func()) {
	t.Helper()
	limit, free := uint64(0), 0
	for ; free < spareFiles; limit++ { // the limit is that of their numbers
		if _, err := os.Lstat(fmt.Sprintf("/proc/%d/fd/%d", d.PID(), limit)); err != nil {
			free++
		}
	}
	var before unix.Rlimit
	await.Must(t, unix.Prlimit(d.PID(), unix.RLIMIT_NOFILE, nil, &before))
	await.Must(t, unix.Prlimit(d.PID(), unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: limit, Max: before.Max}, nil))
	return func() { await.Must(t, unix.Prlimit(d.PID(), unix.RLIMIT_NOFILE, &before, nil)) }
}
