// SPDX-License-Identifier: Apache-2.0

package managers

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"replypath/loader/discover"
	"replypath/test/harness"
	"replypath/test/topology"
)

// TestBoundTaken has each network daemon restarted and eth1 configured anew, and somebody flush the routes, on a host
// whose eth1 has default routes of ours for sockets that are bound to it: what is taken is back within a second.
func TestBoundTaken(t *testing.T) {
	for name, start := range networkDaemons {
		t.Run(name, func(t *testing.T) {
			n, _ := newServer(t)
			testBoundTaken(t, n, start(t, n))
		})
	}
}

func testBoundTaken(t *testing.T, n *topology.TwoNIC, daemon networkDaemon) {
	eth1 := n.Server.Eth1
	p := harness.On(t, n.Server.Host)
	d := p.Start("--config", harness.WriteConfig(t, fmt.Sprintf("interfaces: [{name: eth0}, {name: eth1, gateways: [%q, %q]}]\n",
		eth1.Gateway(topology.IPv4), eth1.Gateway(topology.IPv6))))
	awaitBound := func(when string) {
		harness.Eventually(t, "both routes are there "+when, func() error {
			found, err := boundRoutes(eth1)
			if err == nil && found != len(n.Families()) {
				return fmt.Errorf("%d are", found)
			}
			return err
		})
	}
	awaitBound("at the start")
	countMade := func() int { return len(d.Log.Lines("sockets that are bound to the interface have a default route")) }
	for _, theft := range []struct {
		name  string
		steal func()
		taken bool // for sure
	}{
		{"it is restarted", daemon.restart, false},
		{"it configures eth1 anew", func() { daemon.reconfigure("eth1") }, false},
		{"the routes are flushed", func() {
			harness.Shell(t, n.Server.Host, "ip route flush proto 114 dev eth1; ip -6 route flush proto 114 dev eth1")
		}, true},
	} {
		made := countMade()
		gaps := watchBound(t.Context(), eth1, len(n.Families()))
		theft.steal()
		longest := gaps()
		awaitBound("after " + theft.name)
		made = countMade() - made
		t.Logf("%s: routes of ours were made anew %d times, and one was missing for %s at most", theft.name, made, longest.Round(time.Millisecond))
		if longest > harness.Patient(backWithin) {
			t.Error("that is too long")
		}
		if theft.taken && made == 0 {
			t.Error("nobody would have noticed that they were gone")
		}
	}
}

// boundRoutes counts our default routes by an interface.
func boundRoutes(i *topology.Interface) (int, error) {
	filter := &netlink.Route{LinkIndex: i.Index, Protocol: discover.OwnProtocol}
	routes, err := i.Host.Netlink().RouteListFiltered(netlink.FAMILY_ALL, filter, netlink.RT_FILTER_OIF|netlink.RT_FILTER_PROTOCOL)
	return len(routes), err
}

// watchBound looks at the routes all the time until the function is called that it returns, and for a while after that: nobody
// says when a network daemon is done. The function returns for how long one was missing at most.
func watchBound(ctx context.Context, i *topology.Interface, want int) func() time.Duration {
	stop, done := make(chan struct{}), make(chan time.Duration, 1)
	go func(stop <-chan struct{}) {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		var longest time.Duration
		var since, end time.Time
		for end.IsZero() || time.Now().Before(end) {
			found, err := boundRoutes(i)
			if !since.IsZero() {
				longest = max(longest, time.Since(since))
			}
			switch {
			case err == nil && found == want:
				since = time.Time{}
			case since.IsZero():
				since = time.Now()
			}
			select {
			case <-ctx.Done():
				return
			case <-stop:
				stop, end = nil, time.Now().Add(2*backWithin)
			case <-tick.C:
			}
		}
		done <- longest
	}(stop)
	return func() time.Duration {
		close(stop)
		return <-done
	}
}
