// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/product"
	"replypath/test/server"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// late is a third interface of the server, that comes and goes.
type late struct {
	t    *testing.T
	n    *topology.TwoNIC
	name string
	*topology.Interface
	served bool // the sockets outlive the interface
}

// latePrefixes are those of its network; the router behind it has number 1.
var latePrefixes = map[topology.Family]netip.Prefix{
	topology.IPv4: netip.MustParsePrefix("10.5.0.0/24"),
	topology.IPv6: netip.MustParsePrefix("2001:db8:5::/64"),
}

// newLate prepares an interface between the server and the replication router, and the client's way to it.
func newLate(t *testing.T, n *topology.TwoNIC, name string) *late {
	t.Helper()
	for f, prefix := range latePrefixes {
		via := n.Replication.Host
		gateway := await.Must1[*topology.Interface](t)(via.Interface("core")).Address(f)
		await.Must(t, n.Core.AddRoute(topology.Route{Destination: prefix, Via: gateway}))
	}
	return &late{t: t, n: n, name: name}
}

// appear plugs the interface in and waits until it can be used.
func (l *late) appear() {
	l.t.Helper()
	l.plug()
	await.Must(l.t, l.WaitReady(await.Within(l.t, await.AnswerTime)))
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
	await.Must(l.t, err)
	l.Interface = i
}

// disappear deletes it.
func (l *late) disappear() {
	l.t.Helper()
	link := await.Must1[netlink.Link](l.t)(l.Link())
	await.Must(l.t, l.n.Server.Netlink().LinkDel(link))
}

// addresses are those of the interface, also once it is gone.
func (l *late) addresses() map[topology.Family]netip.Addr {
	return map[topology.Family]netip.Addr{topology.IPv4: l.Address(topology.IPv4), topology.IPv6: l.Address(topology.IPv6)}
}

// answers wants replies to leave by the interface, from when it is attached on.
func (l *late) answers(p *product.Product) {
	l.t.Helper()
	waitAttached(l.t, p, l.name, l.Index)
	for _, f := range l.n.Families() {
		if !l.served {
			traffic.Serve(l.t, l.n.Server.Host, l.Address(f))
		}
		for _, kind := range traffic.Kinds {
			c := traffic.NewConversation(l.t, kind, l.n.ClientEth0, l.Address(f))
			wire.WantBy(l.t, &topology.Server{Host: l.n.Server.Host, Eth0: l.n.Server.Eth0, Eth1: l.Interface}, c, true)
		}
	}
	l.served = true
}

func waitAttached(t *testing.T, p *product.Product, name string, index int) {
	t.Helper()
	await.Eventually(t, name+" is attached", func() error {
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

// TestMissingName: a configured name that no interface has, or a glob, shows in the log, and the name in metrics, health and
// status, until an interface gets it. What comes is managed, and answers.
func TestMissingName(t *testing.T) {
	n, p := server.NewExact(t)
	d := p.Start("--interface", "eth0", "--interface", "eht1", "--interface", "wan*")
	const warning = "interface eht1 is not there yet: it is managed once it appears; eth1 is there"
	d.WaitLog(1, "level=WARN", warning)
	d.WaitLog(1, "level=WARN", "wan*")
	if s := p.Status(); !slices.Contains(s.Errors, warning) || len(s.Interfaces) != 1 {
		t.Errorf("status has the errors %q and interfaces %+v", s.Errors, s.Interfaces)
	}
	series := func() (zeros, ones float64) {
		for _, m := range p.Metrics()["replypath_interface_attached"].GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetName() == "interface" && l.GetValue() == "eht1" {
					ones += m.GetGauge().GetValue()
					zeros += 1 - m.GetGauge().GetValue()
				}
			}
		}
		return zeros, ones
	}
	if zeros, ones := series(); zeros != 2 || ones != 0 {
		t.Errorf("%v series of eht1 are 0, %v are 1", zeros, ones)
	}
	if _, err := p.Get("/healthz"); err == nil || !strings.Contains(err.Error(), "503") || !strings.Contains(err.Error(), "eht1") {
		t.Errorf("/healthz: %v", err)
	}
	host.Shell(t, n.Server.Host, "ip link set eth1 down && ip link set eth1 name eht1 && ip link set eht1 up")
	await.Eventually(t, "eht1 is attached", func() error {
		if zeros, ones := series(); zeros != 0 || ones != 2 {
			return fmt.Errorf("%v series of eht1 are 0, %v are 1", zeros, ones)
		}
		_, err := p.Get("/healthz")
		return err
	})
	l := newLate(t, n, "wan7")
	l.appear()
	l.answers(p)
	if s := p.Status(); len(s.Errors) > 0 {
		t.Errorf("errors in the status: %q", s.Errors)
	}
}

// followedWithin is how soon an address that comes or goes is known.
const followedWithin = time.Second

// wantSoon wants times within that, and prints them.
func wantSoon(t *testing.T, what string, took ...time.Duration) {
	t.Helper()
	for i := range took {
		if took[i] > await.Patient(followedWithin) {
			t.Errorf("%s took %s", what, took[i])
		}
		took[i] = took[i].Round(time.Millisecond)
	}
	t.Logf("%s: known after %v", what, took)
}

// virtual is a virtual address of the server's eth1.
var virtual = map[topology.Family]netip.Prefix{
	topology.IPv4: netip.MustParsePrefix("10.2.0.200/24"),
	topology.IPv6: netip.MustParsePrefix("2001:db8:2::200/64"),
}

// virtualConfig has keepalived hold it as soon as it hears no other.
func virtualConfig() string {
	text := "global_defs {\n vrrp_version 3\n}\n"
	for f, first := range map[topology.Family]string{topology.IPv4: "", topology.IPv6: "fe80::200/64"} {
		text += fmt.Sprintf(`
vrrp_instance service%d {
	interface eth1
	virtual_router_id 52
	priority 200
	advert_int 0.1
	virtual_ipaddress {
		%s
		%s
	}
}
`, int(f), first, virtual[f])
	}
	return text
}

// TestVirtualAddress has keepalived take over a virtual address and give it up
// again: it is known within a second, and what it is asked is answered by eth1.
func TestVirtualAddress(t *testing.T) {
	n, p := server.NewExact(t)
	p.Start()
	var came, went []time.Duration
	for i := range 2 {
		keepalived := host.StartKeepalived(t, n.Server.Host, virtualConfig())
		for f, address := range virtual {
			there := product.AwaitAddress(t, n.Server.Eth1, address.Addr(), true)
			came = append(came, p.AwaitOwn(address.Addr(), true, there))
			await.Must(t, n.Server.Eth1.WaitReady(await.Within(t, await.AnswerTime)))
			if i == 0 { // the sockets outlive it
				traffic.Serve(t, n.Server.Host, address.Addr())
			}
			for _, kind := range traffic.Kinds {
				wire.WantBy(t, n.Server, traffic.NewConversation(t, kind, n.ClientEth0, address.Addr()), true)
			}
			if len(p.Flows("--peer", n.ClientEth0.Address(f).String())) == 0 {
				t.Errorf("no flow to %s", address)
			}
		}
		keepalived.Signal(unix.SIGTERM)
		for _, address := range virtual {
			gone := product.AwaitAddress(t, n.Server.Eth1, address.Addr(), false)
			went = append(went, p.AwaitOwn(address.Addr(), false, gone))
		}
		keepalived.WaitEnd()
	}
	wantSoon(t, "a virtual address that comes", came...)
	wantSoon(t, "a virtual address that goes", went...)
}

// TestHotPlug plugs in an interface with addresses, as a cloud does, and takes it out again: within a second it is attached
// and its addresses are known. The flows of the others never notice, and the counters go on, also where it comes anew while
// nobody watches.
func TestHotPlug(t *testing.T) {
	defer product.Quiet(t)() // a second is judged
	n, p := server.NewExact(t)
	d := p.Start()
	r := keepAsking(t, n, traffic.TCP, topology.IPv4)
	l := newLate(t, n, "wan7")
	var took []time.Duration
	for range 2 {
		before, last := p.Metrics(), l.Interface
		l.plug()
		began := time.Now()
		waitAttached(t, p, l.name, l.Index)
		took = append(took, time.Since(began))
		for _, address := range l.addresses() {
			took = append(took, p.AwaitOwn(address, true, began))
		}
		await.Must(t, l.WaitReady(await.Within(t, await.AnswerTime)))
		l.answers(p)
		if last != nil && last.Index == l.Index {
			t.Fatalf("the index %d is the same", l.Index)
		}
		own := l.addresses()
		l.disappear()
		gone := time.Now()
		for _, address := range own {
			took = append(took, p.AwaitOwn(address, false, gone))
		}
		await.Eventually(t, l.name+" is gone", func() error {
			if i := p.Status().Interface(l.name); i != nil {
				return fmt.Errorf("%+v", *i)
			}
			_, err := p.Get("/healthz") // what is published follows the journal
			return err
		})
		r.GoesOn()
		if went := before.Backwards(p.Metrics()); len(went) > 0 {
			t.Errorf("counters went backwards: %q", went)
		}
	}
	wantSoon(t, "an interface that is plugged in and out", took...)
	d.Kill()
	l.appear()
	p.Start()
	l.answers(p)
	r.GoesOn()
	r.End()
}

// TestAddressOfADeadDaemon gives eth1 addresses that nobody is there to learn of: what they are asked is answered by
// eth1 from the first packet on, a SYN that was sent before and is repeated as well, and the next daemon knows them.
func TestAddressOfADeadDaemon(t *testing.T) {
	n, p := server.NewExact(t)
	p.Start().Kill()
	wires := wire.Tap(t, n.Server)
	asked := make(map[netip.Addr]*traffic.Conversation)
	for _, f := range n.Families() {
		address := n.Server.Eth1.Address(f)
		for _, kind := range traffic.Kinds { // one for each, whose first packet it is
			address = address.Next()
			c := traffic.NewConversation(t, kind, n.ClientEth0, address)
			connected := make(chan error, 1)
			if kind == traffic.TCP {
				await.Must(t, n.Server.Eth1.Peer().AddNeighbour(address, n.Server.Eth1.MAC)) // it comes here already
				go func() { connected <- c.Connect(await.Within(t, await.AnswerTime)) }()
				_, err := wires.Eth1.Wait(await.Within(t, await.AnswerTime), c.Questions())
				await.Must(t, err)
			} else {
				connected <- nil
			}
			await.Must(t, n.Server.Eth1.AddAddress(netip.PrefixFrom(address, address.BitLen())))
			await.Must(t, n.Server.Eth1.WaitReady(await.Within(t, await.AnswerTime)))
			traffic.Serve(t, n.Server.Host, address)
			await.Must(t, <-connected)
			traffic.Ask(t, c)
			wires.WantEth1(c.String(), c.Answers())
			asked[address] = c
		}
	}
	p.Start()
	if notOwn := p.Metrics().Sum("replypath_ignored_packets_total", "reason=not_own"); notOwn > float64(len(n.Families())) {
		t.Errorf("%v packets are counted as not_own, of %d SYNs", notOwn, len(n.Families()))
	}
	for address, c := range asked {
		p.AwaitOwn(address, true, time.Now())
		wire.WantBy(t, n.Server, c, true)
		wire.WantBy(t, n.Server, traffic.NewConversation(t, traffic.TCP, n.ClientEth0, address), true)
	}
}
