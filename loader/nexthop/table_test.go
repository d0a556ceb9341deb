// SPDX-License-Identifier: Apache-2.0

package nexthop

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/vishvananda/netlink"

	"replypath/loader/config"
	"replypath/loader/discover"
	"replypath/test/await"
)

// followed is a server whose routes are followed.
type followed struct {
	*pair
	t      *testing.T
	events <-chan Event
	table  Table
	reads  int
	looks  int // because of routes

	unmanaged int // index
}

// withEth1 gives the server a second interface, with a network of its own.
const withEth1 = `
link add eth1 type veth peer name far1
addr add 10.3.0.1/24 dev eth1
link set far1 up
link set eth1 up
`

func follow(t *testing.T, before string) *followed {
	t.Helper()
	f := &followed{pair: newPair(t), t: t}
	ip(t, f.server, before)
	f.events = f.watch(t)
	f.inside(func() error { return f.table.ReadIfDue() })
	return f
}

func (f *followed) inside(do func() error) {
	f.t.Helper()
	await.Must(f.t, f.server.Do(do))
}

// change changes routes by ip(8), and has the table take note of all that the kernel tells of it.
func (f *followed) change(batch string) {
	f.t.Helper()
	const end = "rule %s prio 12345 table 54321\n"
	ip(f.t, f.server, strings.TrimSpace(batch)+"\n"+fmt.Sprintf(end, "add")+fmt.Sprintf(end, "del"))
	for rules := 0; rules < 2; {
		awaitEvent(f.t, f.events, batch, func(e Event) bool {
			if e.Kind == KindRule {
				rules++
			} else if f.table.Note(&e, func(index int) bool { return index != f.unmanaged }) && e.Kind == KindRoute {
				f.looks++
			}
			return e.Kind == KindRule
		})
	}
}

// settle reads the routes where they are in doubt, as the loader does.
func (f *followed) settle() {
	f.t.Helper()
	if f.table.must || f.table.may {
		f.reads++
		f.inside(func() error { _, err := f.table.Read(); return err })
	}
}

// find returns what a table says.
func (f *followed) find(table *Table) (routers Routers, networks []discover.OnLink) {
	f.t.Helper()
	f.inside(func() error {
		found, err := discover.ScanServed(f.server.Netlink(), config.Default(), nil, table.Routes())
		if err != nil {
			return err
		}
		networks = found.OnLink
		routers, err = Find(f.server.Netlink(), found.Interfaces, table)
		return err
	})
	return routers, networks
}

// compare wants the table to say what one says that has just been read.
func (f *followed) compare(after string) {
	f.t.Helper()
	var fresh Table
	f.inside(func() error { return fresh.ReadIfDue() })
	want, wantNetworks := f.find(&fresh)
	got, gotNetworks := f.find(&f.table)
	options := cmp.Options{cmpopts.SortSlices(func(a, b Default) bool { return fmt.Sprint(a) < fmt.Sprint(b) }),
		cmpopts.IgnoreFields(Gateway{}, "State", "MAC")} // which neighbour entries say
	await.Same(f.t, "routers after "+after, want, got, options)
	await.Same(f.t, "networks after "+after, wantNetworks, gotNetworks, options)
}

// routesBy are so many routes to networks, as a BGP speaker has them.
func routesBy(command, gateway string, from, to int) string {
	var batch strings.Builder
	for n := from; n < to; n++ {
		fmt.Fprintf(&batch, "route %s 20.%d.%d.0/24 via %s\n", command, n>>8, n&255, gateway)
	}
	return batch.String()
}

// TestTableManyChanges: beside a large table of routes by the gateway that takes everything, or by one of more networks
// than are kept, routes that come, go and are replaced have nobody read anything.
func TestTableManyChanges(t *testing.T) {
	many := 3 * MostNetworks
	for name, before := range map[string]string{
		"beside a default route": "route add default via 10.1.0.1\n",
		"without":                "",
	} {
		t.Run(name, func(t *testing.T) {
			f := follow(t, before+routesBy("add", "10.1.0.1", 0, many))
			for range 5 {
				f.change(routesBy("add", "10.1.0.1", many, many+200))
				f.change(routesBy("replace", "10.1.0.1", many-100, many+100))
				f.change(routesBy("del", "10.1.0.1", many, many+200))
				f.settle()
			}
			if f.reads > 0 || f.looks > 0 {
				t.Errorf("all were read %d times, and the host was looked at %d times", f.reads, f.looks)
			}
			f.compare("all")
		})
	}
}

// TestTableFollows: whatever happens to routes, what is followed is what would be read, but where the table itself says
// that it may not be.
func TestTableFollows(t *testing.T) {
	f := follow(t, withEth1+"rule add prio 40000 table 7\n")
	ip(t, f.server, "-6 rule add prio 40000 table 7")
	random := rand.New(rand.NewPCG(1, 2))
	pick := func(of ...string) string { return of[random.IntN(len(of))] }
	for n := range 300 {
		network := pick("10.50.0.0/16", "10.50.1.0/24", "10.3.0.0/16", "192.0.2.1", "default")
		ways := []string{"via 10.1.0.1", "via 10.1.0.2", "via 10.3.0.9", "dev eth1", "nexthop via 10.1.0.1 nexthop via 10.3.0.9"}
		if random.IntN(3) == 0 {
			network = pick("2001:db8:50::/48", "2001:db8::/32", "default")
			ways = []string{"via 2001:db8:1::1", "via 2001:db8:1::2", "dev eth1"}
		}
		change := fmt.Sprintf("route %s %s %s metric %s table %s", pick("add", "append", "replace", "del", "del"), network,
			ways[random.IntN(len(ways))], pick("10", "20"), pick("main", "main", "7"))
		switch random.IntN(12) {
		case 0:
			change = "link set eth1 " + pick("up", "down")
		case 1:
			change = "addr " + pick("add", "del") + " 10.3.0.2/24 dev eth1"
		case 2:
			change = "route " + pick("add", "del") + " local 10.60.0.0/24 dev lo"
		}
		f.tryChange(change)
		f.settle()
		f.compare(fmt.Sprintf("step %d, %s", n, change))
	}
	if f.reads > 200 {
		t.Errorf("all were read %d times in 300 steps", f.reads)
	}
	t.Logf("all were read %d times in 300 steps", f.reads)
}

// tryChange makes a change that may not be possible.
func (f *followed) tryChange(command string) {
	f.t.Helper()
	family := "-4"
	if strings.Contains(command, "2001:") {
		family = "-6"
	}
	c := f.server.Command(f.t.Context(), "ip", append([]string{family}, strings.Fields(command)...)...)
	_ = c.Run() // a route that is there already, or has gone
	f.change("")
}

// TestTableImplied: routes that go with something else are told of by nobody.
func TestTableImplied(t *testing.T) {
	const before = withEth1 + "addr add 10.3.0.2/24 dev eth1\n"
	for name, test := range map[string]struct{ before, change string }{
		"with their interface":      {"route add 10.50.0.0/16 via 10.3.0.9", "link set eth1 down"},
		"with one that is deleted":  {"route add 10.50.0.0/16 via 10.3.0.9", "link del eth1"},
		"with their source address": {"route add 10.50.0.0/16 via 10.1.0.7 src 10.3.0.2", "addr del 10.3.0.2/24 dev eth1"},
		"with their nexthop object": {"nexthop add id 7 via 10.1.0.7 dev eth0\nroute add 10.50.0.0/16 nhid 7", "nexthop del id 7"},
		"by another nexthop object": {"nexthop add id 7 via 10.1.0.7 dev eth0\nroute add 10.50.0.0/16 nhid 7",
			"nexthop replace id 7 via 10.1.0.8 dev eth0"},
		"with an address of lo": {"addr add 10.70.0.1/32 dev lo\nroute add default via 10.1.0.7 src 10.70.0.1",
			"addr del 10.70.0.1/32 dev lo"},
		"replaced": {"route add 10.50.0.0/16 via 10.1.0.7", "route replace 10.50.0.0/16 via 10.1.0.8"},
		"beside one that has gone": {"route add default via 10.1.0.7\nroute add 10.50.0.0/16 via 10.1.0.7",
			"route del 10.50.0.0/16 via 10.1.0.7\nroute add 10.50.1.0/24 via 10.3.0.9"},
	} {
		t.Run(name, func(t *testing.T) {
			f := follow(t, before+test.before+"\n")
			f.change(test.change)
			f.settle()
			f.compare(test.change)
		})
	}
}

// TestTableOfUnmanaged: what leads by an interface that is not managed matters once it is, or where it is the first that leads
// out of it.
func TestTableOfUnmanaged(t *testing.T) {
	f := follow(t, withEth1)
	f.unmanaged = await.Must1[netlink.Link](t)(f.server.Netlink().LinkByName("eth1")).Attrs().Index
	f.change("route add 10.50.0.0/16 dev eth1\n")
	if f.looks > 0 {
		t.Errorf("the host is looked at %d times", f.looks)
	}
	f.change("route add 10.51.0.0/16 via 10.3.0.9\n")
	if f.looks == 0 {
		t.Error("the host is not looked at for the first route out of an interface")
	}
	f.looks = 0
	f.change("route add 10.52.0.0/16 via 10.3.0.8\n")
	if f.looks > 0 {
		t.Errorf("the host is looked at %d times for the second", f.looks)
	}
	f.compare("routes by an interface that the loader does not know to be managed")
	f.change("route del 10.50.0.0/16 dev eth1\nroute add 10.50.1.0/24 via 10.1.0.7\nroute add 10.51.1.0/24 dev eth1\n")
	f.settle()
	f.compare("one that has gone, within which another leads by a managed interface")
}

// TestReadWaitsForFlush: an event tells of an interface before the kernel has flushed its routes. What is read after it
// names none of them.
func TestReadWaitsForFlush(t *testing.T) {
	const network = "route add %s.%d.0/24 via 10.3.0.9 dev eth1\n"
	var batch strings.Builder
	batch.WriteString(withEth1)
	for n := range 200 << 8 {
		fmt.Fprintf(&batch, network, fmt.Sprintf("20.%d", n>>8), n&255)
	}
	f := follow(t, batch.String())
	eth1 := await.Must1[netlink.Link](t)(f.server.Netlink().LinkByName("eth1")).Attrs().Index
	down := make(chan error)
	go func() { down <- f.server.Command(context.Background(), "ip", "link", "set", "eth1", "down").Run() }()
	isOfEth1 := func(e Event) bool { return e.Kind == KindLink && e.Interface == eth1 && e.NoCarrier }
	awaitEvent(t, f.events, "eth1 goes down", isOfEth1)
	f.inside(func() error { _, err := f.table.Read(); return err })
	await.Must(t, <-down)
	for to := range f.table.known.reaches.by {
		if to.device == eth1 {
			t.Errorf("a gateway of eth1 is known after it has gone down: %+v", to)
		}
	}
}
