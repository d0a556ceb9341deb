// SPDX-License-Identifier: Apache-2.0

package nexthop

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"replypath/test/harness"
)

// families names the router's address and one that nobody has yet.
var families = []struct{ name, router, free string }{
	{"ipv4", "10.1.0.1", "10.1.0.9"},
	{"ipv6", "2001:db8:1::1", "2001:db8:1::9"},
}

// hasten makes the kernel give up on a neighbour after a fraction of a second.
func (p *pair) hasten(t *testing.T) {
	t.Helper()
	for _, family := range []string{"ipv4", "ipv6"} {
		directory := "net/" + family + "/neigh/eth0/"
		sysctl(t, p.server, directory+"retrans_time_ms=50", directory+"delay_first_probe_time=0")
	}
}

// routeVia makes an address the server's gateway and returns it.
func (p *pair) routeVia(t *testing.T, gateway string) Gateway {
	t.Helper()
	ip(t, p.server, "route add default via "+gateway)
	return p.gateway(t)
}

// gateway returns the only gateway of the server.
func (p *pair) gateway(t *testing.T) Gateway {
	t.Helper()
	gateways := p.gateways(t)
	if len(gateways) != 1 {
		t.Fatalf("%d gateways: %+v", len(gateways), gateways)
	}
	return gateways[0]
}

func (p *pair) resolve(t *testing.T, g Gateway) {
	t.Helper()
	harness.Must(t, Resolve(p.server.Netlink(), g))
}

// checkResolved expects both the event and the table to show the gateway reachable at a MAC address.
func (p *pair) checkResolved(t *testing.T, events <-chan Event, g Gateway, mac net.HardwareAddr) {
	t.Helper()
	for _, now := range []Gateway{awaitState(t, events, g.Address, StateReachable), p.gateway(t)} {
		if now.State != StateReachable || !slices.Equal(now.MAC, mac) {
			t.Errorf("gateway is %s at %s, want reachable at %s", now.State, now.MAC, mac)
		}
	}
}

func TestResolveMissing(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			p := newPair(t)
			g := p.routeVia(t, f.router)
			if g.State != StateNone {
				t.Fatalf("the gateway is %s before", g.State)
			}
			events := p.watch(t)
			p.resolve(t, g)
			p.checkResolved(t, events, g, p.r0.MAC)
		})
	}
}

func TestResolveStale(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			p := newPair(t)
			p.hasten(t)
			ip(t, p.server, "neigh add "+f.router+" dev eth0 lladdr "+p.r0.MAC.String()+" nud stale")
			g := p.routeVia(t, f.router)
			if g.State != StateStale {
				t.Fatalf("the gateway is %s before", g.State)
			}
			events := p.watch(t)
			p.resolve(t, g)
			p.checkResolved(t, events, g, p.r0.MAC)
		})
	}
}

// The event of a gateway that goes stale is the occasion to resolve it again.
func TestGatewayGoesStale(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			p := newPair(t)
			p.hasten(t)
			sysctl(t, p.server, "net/"+f.name+"/neigh/eth0/base_reachable_time_ms=100")
			g := p.routeVia(t, f.router)
			events := p.watch(t)
			p.resolve(t, g)
			for range 2 {
				awaitState(t, events, g.Address, StateReachable)
				stale := awaitState(t, events, g.Address, StateStale)
				if !slices.Equal(stale.MAC, p.r0.MAC) {
					t.Errorf("stale at %s, want %s", stale.MAC, p.r0.MAC)
				}
				p.resolve(t, stale)
			}
		})
	}
}

// While a stale entry is being checked, it stays usable.
func TestResolveStaleKeepsTheMAC(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			p := newPair(t)
			ip(t, p.server, "neigh add "+f.free+" dev eth0 lladdr 02:00:00:00:09:09 nud stale")
			p.resolve(t, p.routeVia(t, f.free))
			g := p.gateway(t)
			if g.State != StateDelay || g.MAC.String() != "02:00:00:00:09:09" {
				t.Errorf("gateway is %s at %s, want delay at the old MAC address", g.State, g.MAC)
			}
		})
	}
}

func TestResolveFailed(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			p := newPair(t)
			p.hasten(t)
			g := p.routeVia(t, f.free)
			events := p.watch(t)
			p.resolve(t, g)
			failed := awaitState(t, events, g.Address, StateFailed)
			if failed.Requested {
				t.Errorf("%s: nobody has asked for the failure", g.Address)
			}
			if failed.MAC != nil {
				t.Errorf("a failed gateway has MAC address %s", failed.MAC)
			}

			bits := g.Address.BitLen()
			harness.Must(t, p.r0.AddAddress(netip.PrefixFrom(g.Address, bits)))
			p.resolve(t, p.gateway(t))
			p.checkResolved(t, events, g, p.r0.MAC)
		})
	}
}

// A router was replaced by one with another MAC address, and nobody said so.
func TestResolveReplacedRouter(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			p := newPair(t)
			p.hasten(t)
			ip(t, p.server, "neigh add "+f.router+" dev eth0 lladdr 02:00:00:00:09:09 nud stale")
			g := p.routeVia(t, f.router)
			events := p.watch(t)
			p.resolve(t, g)
			awaitState(t, events, g.Address, StateFailed)
			p.resolve(t, p.gateway(t))
			p.checkResolved(t, events, g, p.r0.MAC)
		})
	}
}

func TestResolveLeavesPermanentEntriesAlone(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			p := newPair(t)
			ip(t, p.server, "neigh add "+f.router+" dev eth0 lladdr 02:00:00:00:09:09 nud permanent")
			p.resolve(t, p.routeVia(t, f.router))
			if g := p.gateway(t); g.State != StatePermanent {
				t.Errorf("gateway has become %s", g.State)
			}
		})
	}
}

func TestResolveOnAnInterfaceThatHasGone(t *testing.T) {
	p := newPair(t)
	err := Resolve(p.server.Netlink(), Gateway{Interface: 4711, Address: address("10.1.0.1"), State: StateNone})
	if !errors.Is(err, unix.ENODEV) {
		t.Errorf("error %v, want ENODEV", err)
	}
}

// The interface will be up again, and an event says so.
func TestResolveOnAnInterfaceThatIsDown(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			p := newPair(t)
			g := p.routeVia(t, f.router)
			harness.Must(t, p.eth0.SetDown())
			p.resolve(t, g)
		})
	}
}

// TestNewerMACStays: what the kernel has learnt meanwhile is not overridden with what was known before; where it knows
// nothing, it is.
func TestNewerMACStays(t *testing.T) {
	older, newer := net.HardwareAddr{2, 0, 0, 0, 0, 1}, net.HardwareAddr{2, 0, 0, 0, 0, 2}
	for name, enter := range map[string]func(*netlink.Handle, Gateway, net.HardwareAddr) error{
		"probe": Probe, "put back": PutBack,
	} {
		for _, f := range families {
			t.Run(name+"/"+f.name, func(t *testing.T) {
				p := newPair(t)
				g := p.routeVia(t, f.free)
				for _, step := range []struct {
					prepare string
					want    net.HardwareAddr
				}{
					{"neigh flush dev eth0", older},
					{"neigh replace " + f.free + " dev eth0 nud reachable lladdr " + newer.String(), newer},
				} {
					ip(t, p.server, step.prepare)
					harness.Must(t, enter(p.server.Netlink(), g, older))
					if now := p.gateway(t); !slices.Equal(now.MAC, step.want) {
						t.Errorf("after %s it is at %s, want %s", step.prepare, now.MAC, step.want)
					}
				}
			})
		}
	}
}
