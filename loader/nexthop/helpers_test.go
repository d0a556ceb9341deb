// SPDX-License-Identifier: Apache-2.0

package nexthop

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	"replypath/loader/config"
	"replypath/loader/discover"
	"replypath/test/await"
	"replypath/test/topology"
	"replypath/test/traffic"
)

// patience is how long a test waits for what the kernel has to do.
const patience = 10 * time.Second

// pair is a server whose eth0 is connected to a router's r0, both with .1.0/24 and :1::/64 addresses.
type pair struct {
	server, router *topology.Host
	eth0, r0       *topology.Interface
}

func newPair(t *testing.T) *pair {
	t.Helper()
	n := traffic.NewNetwork(t)
	host := await.Must1[*topology.Host](t)
	p := &pair{server: host(n.Host("server")), router: host(n.Host("router"))}
	var err error
	p.eth0, p.r0, err = n.Connect(
		topology.NIC{Host: p.server, Name: "eth0", Addresses: []netip.Prefix{
			netip.MustParsePrefix("10.1.0.100/24"), netip.MustParsePrefix("2001:db8:1::100/64"),
		}},
		topology.NIC{Host: p.router, Name: "r0", Addresses: []netip.Prefix{
			netip.MustParsePrefix("10.1.0.1/24"), netip.MustParsePrefix("2001:db8:1::1/64"),
		}},
	)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	await.Must(t, n.WaitReady(ctx))
	return p
}

// ip runs commands of ip(8) on a host, one a line, after "-6 " for IPv6 where nothing in them says so.
func ip(t *testing.T, h *topology.Host, batch string) {
	t.Helper()
	args := []string{"-batch", "-"}
	if rest, found := strings.CutPrefix(batch, "-6 "); found {
		args, batch = append([]string{"-6"}, args...), rest
	}
	c := h.Command(t.Context(), "ip", args...)
	c.Stdin = strings.NewReader(batch)
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("ip: %v\n%s", err, out)
	}
}

// sysctl sets sysctls of a host, given as key=value with slashes.
func sysctl(t *testing.T, h *topology.Host, settings ...string) {
	t.Helper()
	for _, s := range settings {
		key, value, _ := strings.Cut(s, "=")
		await.Must(t, h.SetSysctl(key, value))
	}
}

// manage returns all interfaces of the server that the configuration chooses.
func (p *pair) manage(t *testing.T, interfaces ...config.Interface) []discover.Interface {
	t.Helper()
	cfg := config.Default()
	cfg.Interfaces = interfaces
	var r discover.Result
	await.Must(t, p.server.Do(func() (err error) {
		r, err = discover.Scan(p.server.Netlink(), cfg)
		return err
	}))
	return r.Interfaces
}

// gateways returns the gateways of the server's interfaces.
func (p *pair) gateways(t *testing.T, interfaces ...config.Interface) []Gateway {
	t.Helper()
	return p.find(t, interfaces...).Gateways
}

// find returns what the server's routes say.
func (p *pair) find(t *testing.T, interfaces ...config.Interface) Routers {
	t.Helper()
	var found Routers
	await.Must(t, p.server.Do(func() (err error) {
		var table Table
		if err := table.ReadIfDue(); err != nil {
			return err
		}
		found, err = Find(p.server.Netlink(), p.manage(t, interfaces...), &table)
		return err
	}))
	return found
}

// watch watches the server until the test ends.
func (p *pair) watch(t *testing.T) <-chan Event {
	t.Helper()
	var events <-chan Event
	await.Must(t, p.server.Do(func() (err error) {
		events, err = Watch(t.Context())
		return err
	}))
	return events
}

// awaitEvent returns the first event that is wanted.
func awaitEvent(t *testing.T, events <-chan Event, what string, wanted func(Event) bool) Event {
	t.Helper()
	timeout := time.After(patience)
	for {
		select {
		case e, open := <-events:
			if !open {
				t.Fatalf("the events ended before: %s", what)
			}
			if wanted(e) {
				return e
			}
		case <-timeout:
			t.Fatalf("no event: %s", what)
		}
	}
}

// awaitState returns the event that shows a neighbour in a state.
func awaitState(t *testing.T, events <-chan Event, address netip.Addr, state string) Gateway {
	t.Helper()
	return awaitEvent(t, events, address.String()+" "+state, func(e Event) bool {
		return e.Kind == KindNeighbour && e.Neighbour.Address == address && e.Neighbour.State == state
	}).Neighbour
}

func address(s string) netip.Addr { return netip.MustParseAddr(s) }
