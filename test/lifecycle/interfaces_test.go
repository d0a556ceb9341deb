// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"

	"replypath/test/harness"
	"replypath/test/topology"
)

// late is a third interface of the server, that comes and goes.
type late struct {
	t    *testing.T
	n    *topology.TwoNIC
	name string
	*topology.Interface
	served bool // the sockets outlive the interface
	asked  int  // questions that were answered by it
}

// latePrefixes are those of its network; the router behind it has number 1.
var latePrefixes = map[topology.Family]netip.Prefix{
	topology.IPv4: netip.MustParsePrefix("10.5.0.0/24"),
	topology.IPv6: netip.MustParsePrefix("2001:db8:5::/64"),
}

// newLate prepares an interface between the server and the replication router,
// and the client's way to it.
func newLate(t *testing.T, n *topology.TwoNIC, name string) *late {
	t.Helper()
	for f, prefix := range latePrefixes {
		via := n.Replication.Host
		gateway := harness.Must1[*topology.Interface](t)(via.Interface("core")).Address(f)
		harness.Must(t, n.Core.AddRoute(topology.Route{Destination: prefix, Via: gateway}))
	}
	return &late{t: t, n: n, name: name}
}

// appear plugs the interface in and waits until it can be used.
func (l *late) appear() {
	l.t.Helper()
	l.plug()
	harness.Must(l.t, l.WaitReady(harness.Within(l.t, harness.AnswerTime)))
}

// plug plugs the interface in.
func (l *late) plug() {
	l.t.Helper()
	server := topology.NIC{Host: l.n.Server.Host, Name: l.name}
	router := topology.NIC{Host: l.n.Replication.Host, Name: "late"}
	for _, prefix := range latePrefixes {
		first := prefix.Addr().Next()
		router.Addresses = append(router.Addresses, netip.PrefixFrom(first, prefix.Bits()))
		server.Addresses = append(server.Addresses, netip.PrefixFrom(first.Next(), prefix.Bits()))
	}
	i, _, err := l.n.Connect(server, router)
	harness.Must(l.t, err)
	l.Interface = i
}

// disappear deletes it.
func (l *late) disappear() {
	l.t.Helper()
	link := harness.Must1[netlink.Link](l.t)(l.Link())
	harness.Must(l.t, l.n.Server.Netlink().LinkDel(link))
}

// answers wants replies to leave by the interface, from when it is attached on.
func (l *late) answers(p *harness.Product) {
	l.t.Helper()
	waitAttached(l.t, p, l.name, l.Index)
	for _, f := range l.n.Families() {
		if !l.served {
			harness.Serve(l.t, l.n.Server.Host, l.Address(f))
		}
		for _, kind := range harness.Kinds {
			c := harness.NewConversation(l.t, kind, l.n.ClientEth0, l.Address(f))
			harness.WantBy(l.t, &topology.Server{Host: l.n.Server.Host, Eth0: l.n.Server.Eth0, Eth1: l.Interface}, c, true)
			l.asked++
		}
	}
	l.served = true
}

func waitAttached(t *testing.T, p *harness.Product, name string, index int) {
	t.Helper()
	harness.Eventually(t, name+" is attached", func() error {
		i := p.Status().Interface(name)
		switch {
		case i == nil:
			return errors.New("not in the status")
		case !i.Attached || i.Index != index:
			return fmt.Errorf("index %d, attached %t", i.Index, i.Attached)
		}
		return nil
	})
}

// TestLateInterface names an interface, or a glob, that matches nothing yet: a
// warning, and it takes effect as soon as there is one.
func TestLateInterface(t *testing.T) {
	for _, pattern := range []string{"wan7", "wan*"} {
		t.Run(pattern, func(t *testing.T) {
			n := newServer(t)
			p := harness.On(t, n.Server.Host)
			l := newLate(t, n, "wan7")
			d := p.Start("--interface", "eth0", "--interface", pattern)
			d.WaitLog(1, "level=WARN", pattern)
			if s := p.Status(); len(s.Interfaces) != 1 {
				t.Errorf("%d interfaces, not 1: %+v", len(s.Interfaces), s.Interfaces)
			}
			l.appear()
			l.answers(p)
			if s := p.Status(); len(s.Errors) > 0 {
				t.Errorf("errors in the status: %q", s.Errors)
			}
		})
	}
}

// TestDiscoveredInterface is TestLateInterface without any configuration.
func TestDiscoveredInterface(t *testing.T) {
	n := newServer(t)
	p := harness.On(t, n.Server.Host)
	l := newLate(t, n, "wan7")
	p.Start()
	l.appear()
	l.answers(p)
}

// TestRecreatedInterface deletes an interface and makes it anew. The flows of
// the others never notice, and the counters go on.
func TestRecreatedInterface(t *testing.T) {
	n := newServer(t)
	p := harness.On(t, n.Server.Host)
	l := newLate(t, n, "wan7")
	l.appear()
	d := p.Start()
	r := keepAsking(t, n, harness.TCP, topology.IPv4)
	for range 2 {
		before := p.Metrics()
		l.answers(p)
		gone := l.Index
		l.disappear()
		harness.Eventually(t, "the interface is gone", func() error {
			if i := p.Status().Interface(l.name); i != nil {
				return fmt.Errorf("%+v", *i)
			}
			return nil
		})
		// What is published follows the journal.
		harness.Eventually(t, "all is well without it", func() error {
			_, err := p.Get("/healthz")
			return err
		})
		l.appear()
		if l.Index == gone {
			t.Fatalf("the index %d is the same", gone)
		}
		r.goesOn()
		if went := before.Backwards(p.Metrics()); len(went) > 0 {
			t.Errorf("counters went backwards: %q", went)
		}
	}
	l.answers(p)
	answers := len(r.end())
	// It also comes while nobody watches.
	d.Kill()
	l.disappear()
	l.appear()
	p.Start()
	l.answers(p)
	t.Logf("made anew 3 times, once without a daemon: %d questions answered by it; %d answers of another interface's connection by that one",
		l.asked, answers)
}

// TestAddressAppears gives a managed interface one more address, which replies
// have to leave from by that interface as well.
func TestAddressAppears(t *testing.T) {
	n := newServer(t)
	p := harness.On(t, n.Server.Host)
	p.Start()
	for _, f := range n.Families() {
		address := n.Server.Eth1.Address(f).Next()
		harness.Must(t, n.Server.Eth1.AddAddress(netip.PrefixFrom(address, address.BitLen())))
		harness.Must(t, n.Server.Eth1.WaitReady(harness.Within(t, harness.AnswerTime)))
		harness.Serve(t, n.Server.Host, address)
		waitByEth1(t, n, address)
	}
}

// waitByEth1 returns when replies from an address leave by eth1: the daemon takes
// a moment to learn of a new one.
func waitByEth1(t *testing.T, n *topology.TwoNIC, address netip.Addr) {
	t.Helper()
	harness.Eventually(t, "replies from "+address.String()+" leave by eth1", func() error {
		wires := harness.Tap(t, n.Server)
		c := harness.NewConversation(t, harness.TCP, n.ClientEth0, address)
		harness.Ask(t, c)
		if eth0, eth1 := wires.Left(c.Answers()); len(eth0) > 0 || len(eth1) == 0 {
			return fmt.Errorf("by eth0 left %s", harness.Describe(eth0))
		}
		return nil
	})
}
