// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"replypath/test/harness"
	"replypath/test/topology"
)

// followedWithin is how soon an address that comes or goes is known.
const followedWithin = time.Second

// wantSoon wants times within that, and prints them.
func wantSoon(t *testing.T, what string, took ...time.Duration) {
	t.Helper()
	for i := range took {
		if took[i] > harness.Patient(followedWithin) {
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
	const times = 3
	n := newServer(t)
	p := harness.On(t, n.Server.Host)
	p.Start()
	var came, went []time.Duration
	for i := range times {
		keepalived := harness.StartKeepalived(t, n.Server.Host, virtualConfig())
		for f, address := range virtual {
			there := harness.AwaitAddress(t, n.Server.Eth1, address.Addr(), true)
			came = append(came, p.AwaitOwn(address.Addr(), true, there))
			harness.Must(t, n.Server.Eth1.WaitReady(harness.Within(t, harness.AnswerTime)))
			if i == 0 { // the sockets outlive it
				harness.Serve(t, n.Server.Host, address.Addr())
			}
			for _, kind := range harness.Kinds {
				harness.WantBy(t, n.Server, harness.NewConversation(t, kind, n.ClientEth0, address.Addr()), true)
			}
			if len(p.Flows("--peer", n.ClientEth0.Address(f).String())) == 0 {
				t.Errorf("no flow to %s", address)
			}
		}
		keepalived.Signal(unix.SIGTERM)
		for _, address := range virtual {
			gone := harness.AwaitAddress(t, n.Server.Eth1, address.Addr(), false)
			went = append(went, p.AwaitOwn(address.Addr(), false, gone))
		}
		keepalived.WaitEnd()
	}
	wantSoon(t, "a virtual address that comes", came...)
	wantSoon(t, "a virtual address that goes", went...)
}

// TestHotPlug plugs in an interface with addresses, as a cloud does, and takes it
// out again: within a second it is attached and its addresses are known.
func TestHotPlug(t *testing.T) {
	const times = 3
	n := newServer(t)
	p := harness.On(t, n.Server.Host)
	p.Start()
	l := newLate(t, n, "wan7")
	var took []time.Duration
	for range times {
		l.plug()
		began := time.Now()
		waitAttached(t, p, l.name, l.Index)
		took = append(took, time.Since(began))
		for _, address := range l.addresses() {
			took = append(took, p.AwaitOwn(address, true, began))
		}
		harness.Must(t, l.WaitReady(harness.Within(t, harness.AnswerTime)))
		l.answers(p)
		own := l.addresses()
		l.disappear()
		gone := time.Now()
		for _, address := range own {
			took = append(took, p.AwaitOwn(address, false, gone))
		}
		harness.Eventually(t, "it is not managed any more", func() error {
			if p.Status().Interface(l.name) != nil {
				return errors.New("it is")
			}
			return nil
		})
	}
	wantSoon(t, "an interface that is plugged in and out", took...)
}

// TestAddressOfADeadDaemon gives eth1 addresses that nobody is there to learn of: what they are
// asked is answered by eth1 from the first packet on, and the next daemon knows them.
func TestAddressOfADeadDaemon(t *testing.T) {
	n := newServer(t)
	p := harness.On(t, n.Server.Host)
	d := p.Start()
	d.Kill()
	for _, f := range n.Families() {
		address := n.Server.Eth1.Address(f)
		for _, kind := range harness.Kinds { // one for each, whose first packet it is
			address = address.Next()
			harness.Must(t, n.Server.Eth1.AddAddress(netip.PrefixFrom(address, address.BitLen())))
			harness.Must(t, n.Server.Eth1.WaitReady(harness.Within(t, harness.AnswerTime)))
			harness.Serve(t, n.Server.Host, address)
			harness.WantBy(t, n.Server, harness.NewConversation(t, kind, n.ClientEth0, address), true)
		}
	}
	p.Start()
	if notOwn := p.Metrics().Sum("replypath_ignored_packets_total", "reason=not_own"); notOwn != 0 {
		t.Errorf("%v packets are counted as not_own", notOwn)
	}
	for _, f := range n.Families() {
		address := n.Server.Eth1.Address(f)
		for range harness.Kinds {
			address = address.Next()
			p.AwaitOwn(address, true, time.Now())
			for _, kind := range harness.Kinds {
				harness.WantBy(t, n.Server, harness.NewConversation(t, kind, n.ClientEth0, address), true)
			}
		}
	}
}

// TestAddressComesWhileAsked has a client repeat its SYN to an address that is not there yet, until
// keepalived takes it over: the first SYN after that is answered, by eth1. The daemon is stopped, so that
// it hears of nothing, or dead.
func TestAddressComesWhileAsked(t *testing.T) {
	const port = 8007
	for name, end := range map[string]func(*testing.T, *harness.Daemon){
		"stopped": func(t *testing.T, d *harness.Daemon) {
			d.Signal(unix.SIGSTOP)
			t.Cleanup(func() { d.Signal(unix.SIGCONT) })
		},
		"killed": func(_ *testing.T, d *harness.Daemon) { d.Kill() },
	} {
		t.Run(name, func(t *testing.T) {
			n := newServer(t)
			for _, address := range virtual { // whose packets come here already
				harness.Must(t, n.Server.Eth1.Peer().AddNeighbour(address.Addr(), n.Server.Eth1.MAC))
			}
			harness.ServeAt(t, n.Server.Host, netip.AddrPortFrom(netip.IPv6Unspecified(), port))
			end(t, harness.On(t, n.Server.Host).Start())
			wires := harness.Tap(t, n.Server)
			var asked []*harness.Conversation
			answered := make(chan error)
			for _, address := range virtual {
				c := harness.NewConversation(t, harness.TCP, n.ClientEth0, address.Addr())
				c.Self = netip.AddrPortFrom(address.Addr(), port)
				go func() { answered <- c.Connect(harness.Within(t, harness.AnswerTime)) }()
				_, err := wires.Eth1.Wait(harness.Within(t, harness.AnswerTime), c.Questions())
				harness.Must(t, err)
				asked = append(asked, c)
			}
			harness.StartKeepalived(t, n.Server.Host, virtualConfig())
			came := make(map[netip.Addr]time.Time)
			for _, address := range virtual {
				came[address.Addr()] = harness.AwaitAddress(t, n.Server.Eth1, address.Addr(), true)
			}
			for range asked {
				harness.Must(t, <-answered)
			}
			for _, c := range asked {
				first := wires.WantEth1(c.String(), topology.All(c.Answers(), topology.Flags(topology.SYN, topology.SYN)))[0]
				late := wires.Eth1.Frames(topology.All(c.Questions(), topology.Flags(topology.SYN|topology.ACK, topology.SYN),
					func(f *topology.Frame) bool { return f.Time.After(came[c.Self.Addr()]) && f.Time.Before(first.Time) }))
				if len(late) > 1 {
					t.Errorf("%s: of the SYNs since the address came only the last was answered: %s", c, harness.Describe(late))
				}
			}
		})
	}
}
