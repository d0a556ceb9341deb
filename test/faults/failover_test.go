// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"replypath/test/await"
	"replypath/test/short"
	"replypath/test/topology"
	"replypath/test/traffic"
	testwire "replypath/test/wire"
)

// backups are a second router's addresses on eth0's network.
var backups = map[topology.Family]netip.Prefix{
	topology.IPv4: netip.MustParsePrefix("10.1.0.2/24"),
	topology.IPv6: netip.MustParsePrefix("2001:db8:1::2/64"),
}

// openings is how many connections the host opens. Half of them go by each of two next hops.
const openings = 20

// askedAgain is long enough for the daemon to ask for a silent gateway again.
const askedAgain = 7 * time.Second

// TestRouterFailover silences one of two routers on eth0. The kernel goes over to the other one for what the host
// starts, with replypath as without: the neighbour entry of the silent one is not held.
func TestRouterFailover(t *testing.T) {
	t.Parallel()
	quick := short.Run(t)
	for n, second := range []struct {
		name, preference string
		family           topology.Family
	}{
		{"ipv4", "", topology.IPv4},
		{"ipv6", "pref medium", topology.IPv6},
		{"ipv6 of low preference", "pref low", topology.IPv6},
	} {
		for k, name := range []string{"with replypath", "without replypath"} {
			if quick && k != n%2 {
				continue
			}
			t.Run(second.name+"/"+name, func(t *testing.T) {
				t.Parallel()
				b := newBed(t, second.family, anySource)
				backup := b.addBackup(second.preference)
				if name == "with replypath" {
					b.start()
				}
				toFirst, _ := b.openAll(backup, b.mustReach)
				if toFirst == 0 {
					t.Error("nothing goes by the router that is to be silenced")
				}
				b.silenceGateway()
				if b.product != nil {
					b.Eventually("replypath knows of the silence", func() error {
						if state := b.gatewayState(); state != "failed" {
							return errors.New(state)
						}
						return nil
					})
				}
				toFirst, toBackup := 0, 0
				forgotten := b.watchDeletion()
				// The silent router is asked again meanwhile, whether it is back.
				pace := time.NewTicker(await.AnswerTime / 100)
				defer pace.Stop()
				for until := time.Now().Add(askedAgain); time.Now().Before(until); <-pace.C {
					first, second := b.openAll(backup, func() { b.reachUnless(forgotten) })
					toFirst, toBackup = toFirst+first, toBackup+second
				}
				t.Logf("%d connections within %s, %d to the backup, %d to the silent router", toFirst+toBackup, askedAgain, toBackup, toFirst)
				if toFirst > 0 {
					t.Errorf("%d connections went to the silent router", toFirst)
				}
				if b.product != nil {
					b.ask(b.conversation(traffic.TCP))
					if b.isHeld() {
						t.Error("the silent router is held")
					}
				}
			})
		}
	}
}

// TestRoutersOfOneCable cuts the cable by which two routers are reached: neither answers, and replies by eth1 go on.
func TestRoutersOfOneCable(t *testing.T) {
	t.Parallel()
	eachFamily(t, func(t *testing.T, f topology.Family) {
		t.Parallel()
		b := newBed(t, f, anySource)
		preference := ""
		if f == topology.IPv6 {
			preference = "pref medium"
		}
		backup := b.addBackup(preference)
		b.start()
		b.openAll(backup, b.mustReach) // both are known
		open := b.conversation(traffic.TCP)
		b.ask(open)
		wire := testwire.Capture(t, b.net.Server.Eth1.Peer())
		b.cutCable()
		b.askFresh("without a carrier")
		b.askForSomeTime("without a carrier: a connection that was silent", open)
		b.wantHostReaches(false, traffic.TCP)
		b.wantNoLeak("without a carrier", wire)
		b.plugCable()
		b.Eventually("the host reaches the client as before", func() error { return b.reach(traffic.TCP) })
		b.askForSomeTime("after it", open)
	})
}

// networkBack is longer than the daemon takes to ask a silent router again, 5 s, and the answer.
var networkBack = await.Patient(6 * time.Second)

// TestRouterOfANetwork silences the router of a network by IPv6, on a host without a default route, until the kernel has given it
// up: once it answers again the host reaches that network as soon as the daemon has asked for it.
func TestRouterOfANetwork(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"without replypath", "with replypath"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBed(t, topology.IPv6, anySource)
			b.removeDefault()
			b.ip("route add", netip.PrefixFrom(b.clientAddress(), 48).Masked().String(), "via", b.defaultRoute().Via.String())
			if name != "without replypath" {
				b.start()
			}
			await.Must(t, b.reach(traffic.TCP))
			b.silenceGateway()
			if b.reachWithin(inVain, traffic.TCP) == nil {
				t.Error("the silent router forwards")
			}
			b.wakeGateway()
			began := time.Now()
			b.Eventually("the host reaches the network", func() error { return b.reachWithin(inVain, traffic.TCP) })
			took := time.Since(began)
			t.Logf("the host reaches the network %s after its router has come back", took.Round(10*time.Millisecond))
			if took >= networkBack {
				t.Error("that is too late")
			}
		})
	}
}

// addBackup makes the second router, and the default route by both: one with two next hops, or for IPv6, whose next hops
// the kernel does not look at the neighbours of, a second one behind the first, of that preference.
func (b *bed) addBackup(preference string) *topology.Interface {
	b.Helper()
	backup := b.addRouter()
	via := backups[b.family].Addr().String()
	if b.family == topology.IPv6 {
		b.ip("route add default via "+via+" dev eth0 metric 2048", preference)
		return backup
	}
	// By port, and by who of them is there.
	for _, leaf := range []string{"fib_multipath_hash_policy", "fib_multipath_use_neigh"} {
		await.Must(b, b.net.Server.SetSysctl("net/ipv4/"+leaf, "1"))
	}
	b.ip("route replace default nexthop via " + b.defaultRoute().Via.String() + " dev eth0 nexthop via " + via + " dev eth0")
	return backup
}

// addRouter makes a second router on eth0's network, which is the first one's machine by another
// MAC. No route leads by it yet.
func (b *bed) addRouter() *topology.Interface {
	b.Helper()
	first := b.net.Server.Eth0.Peer()
	backup := await.Must1[*topology.Interface](b)(first.AddMacvlan("backup", backups[b.family]))
	// Each of them answers for its own addresses, and knows the host while it is silent.
	for _, i := range []*topology.Interface{first, backup} {
		await.Must(b, i.Host.SetSysctl("net/ipv4/conf/"+i.Name+"/arp_ignore", "1"))
	}
	await.Must(b, first.AddNeighbour(b.net.Server.Eth0.Address(b.family), b.net.Server.Eth0.MAC))
	return backup
}

// openAll has the host open connections, and returns how many of them went to either router.
func (b *bed) openAll(backup *topology.Interface, open func()) (toFirst, toBackup int) {
	b.Helper()
	wire := testwire.Capture(b, b.net.Server.Eth0.Peer())
	for range openings {
		open()
	}
	opened := topology.All(topology.Going(topology.Received), topology.To(b.clientAddress()), topology.Flags(topology.SYN, topology.SYN))
	toBackup = wire.Count(topology.All(opened, topology.ToMAC(backup.MAC)))
	return wire.Count(opened) - toBackup, toBackup
}

// mustReach has the host open a connection, which has to work.
func (b *bed) mustReach() {
	b.Helper()
	await.Must(b, b.reach(traffic.TCP))
}

// reachUnless is mustReach, but for a connection that begins when the kernel has collected the entry of the silent router,
// which forgotten tells. It does so while all network namespaces together have more than gc_thresh1 entries, 128
// (neigh_periodic_work). It then believes in the router, and asks for it in vain (rt6_check_neigh, fib_good_nh).
func (b *bed) reachUnless(forgotten <-chan struct{}) {
	b.Helper()
	err := b.reach(traffic.TCP)
	if !errors.Is(err, unix.EHOSTUNREACH) {
		await.Must(b, err)
		return
	}
	select {
	case <-forgotten:
		b.Log("the kernel had forgotten that the router is silent, and asked for it again")
	case <-await.Within(b, await.AnswerTime).Done():
		b.Errorf("%v, and the kernel has not forgotten that the router is silent", err)
	}
}

// watchDeletion tells from now on each time that the kernel drops the entry of eth0's gateway.
func (b *bed) watchDeletion() <-chan struct{} {
	b.Helper()
	gateway, namespace, done := b.net.Server.Eth0.Peer().Address(b.family), b.net.Server.Namespace(), make(chan struct{})
	updates, deleted := make(chan netlink.NeighUpdate, 1024), make(chan struct{}, 1024)
	await.Must(b, netlink.NeighSubscribeWithOptions(updates, done, netlink.NeighSubscribeOptions{Namespace: &namespace}))
	b.Cleanup(func() { close(done) })
	go func() {
		for u := range updates {
			if u.Type == unix.RTM_DELNEIGH && u.IP.Equal(gateway.AsSlice()) {
				deleted <- struct{}{}
			}
		}
	}()
	return deleted
}
