// SPDX-License-Identifier: Apache-2.0

package managers

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"replypath/loader/discover"
	"replypath/loader/fallback"
	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/wire"
)

// TestRoutesTaken has each network daemon restarted and both interfaces configured anew, which may delete routes that it
// did not make, and somebody flush our routes and delete our device. The fallback routes, and the default routes for sockets
// that are bound to eth1, are back within a second: the former logged and counted. The host answers without its default
// route then.
func TestRoutesTaken(t *testing.T) {
	for name, start := range networkDaemons {
		t.Run(name, func(t *testing.T) {
			n, _ := newServer(t)
			testRoutesTaken(t, n, start(t, n))
		})
	}
}

func testRoutesTaken(t *testing.T, n *topology.TwoNIC, daemon *networkDaemon) {
	t.Helper()
	eth1 := n.Server.Eth1
	p := product.On(t, n.Server.Host)
	d := p.Start("--config", product.WriteConfig(t, fmt.Sprintf("interfaces: [{name: eth0}, {name: eth1, gateways: [%q, %q]}]\n",
		eth1.Gateway(topology.IPv4), eth1.Gateway(topology.IPv6))))
	awaitBound := func(when string) {
		await.Eventually(t, "the routes of eth1 are there "+when, func() error {
			found, err := boundRoutes(eth1)
			if err == nil && found != allBound {
				return fmt.Errorf("%d are", found)
			}
			return err
		})
	}
	awaitBound("at the start")
	shell := func(commands string) func() {
		return func() { host.Shell(t, n.Server.Host, commands) }
	}
	countMade := func() int { return len(d.Log.Lines("sockets that are bound to the interface have a default route")) }
	countLogged := func() float64 { return float64(len(d.Log.Lines("level=WARN", "had been deleted"))) }
	countRepairs := func() float64 { return p.Metrics().Sum("replypath_host_repairs_total", "object=route") }
	for _, theft := range []struct {
		name            string
		steal           func()
		goesOn          time.Duration // nobody says when a network daemon is done
		bound, fallback bool          // are taken, for sure
	}{
		{"it is restarted", daemon.restart, 2 * backWithin, false, false},
		{"it configures eth0 anew", func() { daemon.reconfigure("eth0") }, 0, false, false},
		{"it configures eth1 anew", func() { daemon.reconfigure("eth1") }, 2 * backWithin, false, false},
		{"the routes are flushed", shell("ip route flush table all proto 114; ip -6 route flush table all proto 114"), 0, true, true},
		{"the device is deleted", shell("ip link del replypath0"), 0, false, true},
	} {
		made, lines, repairs := countMade(), countLogged(), countRepairs()
		quiet := product.Quiet(t)
		gaps := watchBound(t.Context(), eth1, allBound)
		theft.steal()
		began := time.Now()
		await.Eventually(t, "the fallback routes are there after "+theft.name, func() error {
			routes := host.Shell(t, n.Server.Host, "ip -4 route show table all proto 114; ip -6 route show table all proto 114")
			if strings.Count(routes, "dev replypath0") != 5 {
				return fmt.Errorf("routes %q", routes)
			}
			return nil
		})
		took := time.Since(began)
		awaitBound("after " + theft.name)
		longest := gaps(theft.goesOn)
		quiet()
		// They are counted and logged when they are there.
		var logged, counted float64
		await.Eventually(t, "it is logged and counted", func() error {
			logged, counted = countLogged()-lines, countRepairs()-repairs
			if logged != counted || theft.fallback && logged == 0 {
				return fmt.Errorf("%v repairs are logged, %v counted", logged, counted)
			}
			return nil
		})
		made = countMade() - made
		t.Logf("%s: fallback routes there after %s, %v repairs; routes of eth1 made anew %d times, one was missing for %s at most",
			theft.name, took.Round(time.Millisecond), counted, made, longest.Round(time.Millisecond))
		if max(took, longest) > await.Patient(backWithin) {
			t.Error("that is too late")
		}
		if theft.bound && made == 0 {
			t.Error("nobody would have noticed that routes of eth1 were gone")
		}
	}
	host.Shell(t, n.Server.Host, "ip route del default dev eth0; ip -6 route del default dev eth0")
	eachQuestion(t, n, "without a default route", wire.WantByEth1)
}

// allBound is how many there are: one of IPv4, and of IPv6 one for each kind of destinations.
const allBound = 1 + 3

// boundRoutes counts our routes by an interface.
func boundRoutes(i *topology.Interface) (int, error) {
	filter := &netlink.Route{LinkIndex: i.Index, Protocol: discover.OwnProtocol, Table: fallback.Table}
	routes, err := i.Host.Netlink().RouteListFiltered(netlink.FAMILY_ALL, filter,
		netlink.RT_FILTER_OIF|netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TABLE)
	return len(routes), err
}

// watchBound looks at the routes all the time until the function is called that it returns, and for a while after that.
// The function returns for how long one was missing at most.
func watchBound(ctx context.Context, i *topology.Interface, want int) func(goesOn time.Duration) time.Duration {
	stop, done := make(chan time.Duration), make(chan time.Duration, 1)
	go func() {
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
			case goesOn := <-stop:
				end = time.Now().Add(goesOn)
			case <-tick.C:
			}
		}
		done <- longest
	}()
	return func(goesOn time.Duration) time.Duration {
		stop <- goesOn
		return <-done
	}
}
