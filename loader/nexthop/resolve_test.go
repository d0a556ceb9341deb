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

	testawait "replypath/test/await"
)

// families names the router's address and one that nobody has yet.
var families = []struct{ name, router, free string }{
	{"ipv4", "10.1.0.1", "10.1.0.9"},
	{"ipv6", "2001:db8:1::1", "2001:db8:1::9"},
}

// resolving is a pair whose gateway is looked for, the only one of its family.
type resolving struct {
	*pair
	t       *testing.T
	address netip.Addr
	before  Gateway
	events  <-chan Event
}

// inEach asks with a gateway of each family: the router, or an address that nobody has. The kernel gives up on a neighbour
// after a fraction of a second.
func inEach(t *testing.T, free bool, entry string, ask func(r *resolving)) {
	t.Helper()
	p := newPair(t)
	for _, f := range families {
		directory := "net/" + f.name + "/neigh/eth0/"
		sysctl(t, p.server, directory+"retrans_time_ms=50", directory+"delay_first_probe_time=0")
	}
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			gateway := f.router
			if free {
				gateway = f.free
			}
			ip(t, p.server, "neigh flush dev eth0")
			if entry != "" {
				ip(t, p.server, "neigh replace "+gateway+" dev eth0 "+entry)
			}
			ip(t, p.server, "route add default via "+gateway)
			r := &resolving{pair: p, t: t, address: address(gateway), events: p.watch(t)}
			r.before = r.gateway()
			ask(r)
		})
	}
}

// gateway returns the gateway as it is now.
func (r *resolving) gateway() Gateway {
	r.t.Helper()
	all := r.gateways(r.t)
	i := slices.IndexFunc(all, func(g Gateway) bool { return g.Address == r.address })
	if i < 0 {
		r.t.Fatalf("%s is no gateway: %+v", r.address, all)
	}
	return all[i]
}

func (r *resolving) resolve(g Gateway) {
	r.t.Helper()
	testawait.Must(r.t, Resolve(r.server.Netlink(), g))
}

// want wants the gateway to be in a state at a MAC address.
func (r *resolving) want(g Gateway, state string, mac net.HardwareAddr) {
	r.t.Helper()
	if g.State != state || !slices.Equal(g.MAC, mac) {
		r.t.Errorf("%s is %s at %s, want %s at %s", r.address, g.State, g.MAC, state, mac)
	}
}

// wantResolved wants both the event and the table to show the gateway reachable at the router's MAC address.
func (r *resolving) wantResolved() {
	r.t.Helper()
	r.want(awaitState(r.t, r.events, r.address, StateReachable), StateReachable, r.r0.MAC)
	r.want(r.gateway(), StateReachable, r.r0.MAC)
}

// old is the MAC address of nobody.
const old = "lladdr 02:00:00:00:09:09"

var oldMAC = net.HardwareAddr{2, 0, 0, 0, 9, 9}

func TestResolveMissing(t *testing.T) {
	inEach(t, false, "", func(r *resolving) {
		r.want(r.before, StateNone, nil)
		r.resolve(r.before)
		r.wantResolved()
	})
}

// The event of a gateway that goes stale is the occasion to resolve it again.
func TestGatewayGoesStale(t *testing.T) {
	inEach(t, false, "", func(r *resolving) {
		family := families[0].name
		if r.address.Is6() {
			family = families[1].name
		}
		sysctl(r.t, r.server, "net/"+family+"/neigh/eth0/base_reachable_time_ms=100")
		r.resolve(r.before)
		for range 2 {
			awaitState(r.t, r.events, r.address, StateReachable)
			stale := awaitState(r.t, r.events, r.address, StateStale)
			r.want(stale, StateStale, r.r0.MAC)
			r.resolve(stale)
		}
	})
}

// While a stale entry is being checked, it stays usable.
func TestResolveStaleKeepsTheMAC(t *testing.T) {
	inEach(t, true, old+" nud stale", func(r *resolving) {
		sysctl(r.t, r.server, "net/ipv4/neigh/eth0/delay_first_probe_time=5", "net/ipv6/neigh/eth0/delay_first_probe_time=5")
		r.want(r.before, StateStale, oldMAC)
		r.resolve(r.before)
		r.want(r.gateway(), StateDelay, oldMAC)
	})
}

func TestResolveFailed(t *testing.T) {
	inEach(t, true, "", func(r *resolving) {
		r.resolve(r.before)
		failed := awaitState(r.t, r.events, r.address, StateFailed)
		r.want(failed, StateFailed, nil)
		if failed.Requested {
			r.t.Errorf("%s: nobody has asked for the failure", r.address)
		}
		testawait.Must(r.t, r.r0.AddAddress(netip.PrefixFrom(r.address, r.address.BitLen())))
		r.resolve(r.gateway())
		r.wantResolved()
	})
}

func TestResolveStale(t *testing.T) {
	inEach(t, false, "", func(r *resolving) {
		ip(r.t, r.server, "neigh replace "+r.address.String()+" dev eth0 lladdr "+r.r0.MAC.String()+" nud stale")
		g := r.gateway()
		r.want(g, StateStale, r.r0.MAC)
		r.resolve(g)
		r.wantResolved()
	})
}

// A router was replaced by one with another MAC address, and nobody said so.
func TestResolveReplacedRouter(t *testing.T) {
	inEach(t, false, old+" nud stale", func(r *resolving) {
		r.resolve(r.before)
		awaitState(r.t, r.events, r.address, StateFailed)
		r.resolve(r.gateway())
		r.wantResolved()
	})
}

func TestResolveLeavesPermanentEntriesAlone(t *testing.T) {
	inEach(t, false, old+" nud permanent", func(r *resolving) {
		r.resolve(r.before)
		r.want(r.gateway(), StatePermanent, oldMAC)
	})
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
		p := newPair(t)
		ip(t, p.server, "route add default via "+f.router)
		gateways := p.gateways(t)
		testawait.Must(t, p.eth0.SetDown())
		if len(gateways) != 1 {
			t.Fatalf("gateways %+v", gateways)
		}
		testawait.Must(t, Resolve(p.server.Netlink(), gateways[0]))
	}
}

// TestNewerMACStays: what the kernel has learnt meanwhile is not overridden with what was
// known before; where it knows nothing, it is.
func TestNewerMACStays(t *testing.T) {
	newer := net.HardwareAddr{2, 0, 0, 0, 0, 2}
	inEach(t, true, "", func(r *resolving) {
		for name, enter := range map[string]func(*netlink.Handle, Gateway, net.HardwareAddr) error{
			"probe": Probe, "put back": PutBack,
		} {
			for _, step := range []struct {
				prepare string
				want    net.HardwareAddr
			}{
				{"neigh flush dev eth0 nud all", oldMAC},
				{"neigh replace " + r.address.String() + " dev eth0 nud reachable lladdr " + newer.String(), newer},
			} {
				ip(r.t, r.server, step.prepare)
				testawait.Must(r.t, enter(r.server.Netlink(), r.before, oldMAC))
				if now := r.gateway(); !slices.Equal(now.MAC, step.want) {
					r.t.Errorf("%s after %s: it is at %s, want %s", name, step.prepare, now.MAC, step.want)
				}
			}
		}
	})
}
