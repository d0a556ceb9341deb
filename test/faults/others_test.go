// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket/layers"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/product"
	"replypath/test/short"
	"replypath/test/topology"
	"replypath/test/traffic"
	testwire "replypath/test/wire"
)

// secondDefault gives eth1 a default route behind eth0's.
var secondDefault = topology.TwoNICOptions{Policy: topology.AnySource, Eth1Metric: 5000}

// TestSecondDefault compares the kernel's choice for what the host starts, before, during and after each fault, with
// and without replypath: a second default route keeps its meaning, and nothing is done that gives it another. Nobody
// asks meanwhile: replies have the kernel find out about eth0's router, which nobody has it do without replypath.
func TestSecondDefault(t *testing.T) {
	t.Parallel()
	each(t, faults, func(t *testing.T, fault fault, f topology.Family) {
		t.Parallel()
		alone := newBed(t, f, secondDefault)
		beside := newBed(t, f, secondDefault)
		beside.start()
		wire := testwire.Capture(t, beside.net.Server.Eth1.Peer())
		for _, step := range []func(*bed){func(*bed) {}, fault.begin, fault.end} {
			step(alone)
			step(beside)
			beside.Eventually("the kernel chooses as without replypath", func() error {
				want, got := alone.choice(), beside.choice()
				if want != got {
					return fmt.Errorf("it chooses %q, not %q", got, want)
				}
				return nil
			})
			t.Logf("%s: what the host starts goes by %q", fault.name, beside.choice())
			if beside.choice() == "eth1" {
				beside.wantLeak(wire)
			}
		}
		// While eth0's is gone, eth1's is the only one.
		beside.Eventually("nothing is changed beside a second default route", func() error {
			for _, change := range beside.product.Status().HostChanges {
				if strings.HasPrefix(change.Object, "sysctl net."+f.String()) {
					return fmt.Errorf("%+v", change)
				}
			}
			return nil
		})
	})
}

// TestSecondDefaultClients: clients of eth1 notice nothing of a fault, where eth1 has such a route.
func TestSecondDefaultClients(t *testing.T) {
	t.Parallel()
	each(t, faults, func(t *testing.T, fault fault, f topology.Family) {
		t.Parallel()
		b := newBed(t, f, secondDefault)
		b.start()
		open := b.conversation(traffic.TCP)
		b.ask(open)
		fault.begin(b)
		b.askFresh(fault.name)
		b.askForSomeTime(fault.name+": a connection that was silent", open)
		fault.end(b)
		b.askForSomeTime("after it", open)
	})
}

// covers are routes by eth1 to eth0's network, or to one around it, for each family; none leads to the client.
var covers = []struct {
	name string
	by   [2]cover
}{
	{"a wider network", [2]cover{{route: "10.0.0.0/14"}, {route: "2001:db8::/46"}}},
	{"the same network", [2]cover{{route: "10.1.0.0/24 metric 5000"}, {route: "2001:db8:1::/64 metric 5000"}}},
	{"around what is behind eth0's gateway", [2]cover{
		{route: "10.16.0.0/12", lies: "10.20.0.0/16", to: netip.MustParseAddr("10.20.0.1")},
		{route: "2001:db8:f000::/36", lies: "2001:db8:f00f::/48", to: netip.MustParseAddr("2001:db8:f00f::1")},
	}},
}

// cover is a route by eth1, and one by eth0's gateway that lies within it, "" for that to eth0's own network; to is somebody
// there, not valid for the gateway.
type cover struct {
	route, lies string
	to          netip.Addr
}

// TestCovered compares the kernel's choice for what the host sends to a network of eth0's, before and while eth0 has no
// carrier, with and without replypath, where eth1 has a route to that network as well: by nothing that we do does it
// leave by eth1. Replies that need the default route go on, also when the route by eth1 goes and comes meanwhile.
func TestCovered(t *testing.T) {
	t.Parallel()
	quick := short.Run(t)
	for n, cover := range covers {
		for k, f := range traffic.Families {
			if !quick || n != 1 && k == n/2 {
				t.Run(cover.name+"/"+f.String(), func(t *testing.T) { testCovered(t, f, cover.by[k]) })
			}
		}
	}
}

func testCovered(t *testing.T, f topology.Family, cover cover) {
	t.Parallel()
	alone := newBed(t, f, anySource)
	beside := newBed(t, f, anySource)
	beside.start()
	wire := testwire.Capture(t, beside.net.Server.Eth1.Peer())
	for _, b := range []*bed{alone, beside} {
		if cover.lies != "" {
			b.ip("route add", cover.lies, "via", b.net.Server.Eth0.Peer().Address(f).String())
		}
		b.cover("add", cover.route)
	}
	near := cover.to
	if !near.IsValid() {
		near = beside.net.Server.Eth0.Peer().Address(f)
	}
	open := beside.conversation(traffic.TCP)
	beside.ask(open)
	for _, step := range []func(*bed){func(*bed) {}, (*bed).cutCable} {
		step(alone)
		step(beside)
		if want, got := alone.choiceOf(near.String()), beside.choiceOf(near.String()); want != got || want != "eth0" {
			t.Errorf("the kernel sends to eth0's network by %q, and by %q without replypath", got, want)
		}
		beside.sendUnaskedTo(near)
	}
	beside.askFresh("during it")
	beside.askForSomeTime("the route by eth1 is there", open)
	beside.cover("del", cover.route)
	beside.askForSomeTime("it has gone", open)
	beside.cover("add", cover.route)
	beside.askForSomeTime("it is there again", open)
	beside.sendUnaskedTo(near)
	beside.wantNoLeak("with a route by eth1", wire)
	beside.plugCable()
	beside.askForSomeTime("the carrier is back", open)
}

func (b *bed) cover(what, route string) {
	b.Helper()
	b.ip("route", what, route, "via", b.net.Server.Eth1.Peer().Address(b.family).String(), "dev", "eth1")
}

// TestCarrierLostWhileWaiting has an answer by eth1 wait for the MAC of eth0's gateway, as its carrier is gone and the daemon does
// not know yet. The moment is made longer here.
func TestCarrierLostWhileWaiting(t *testing.T) {
	eachFamily(t, func(t *testing.T, f topology.Family) {
		b := newPatientBed(t, f, anySource)
		d := b.start()
		open := b.conversation(traffic.TCP)
		b.ask(open)
		release := product.Quiet(t)
		d.Signal(unix.SIGSTOP)
		b.awaitStopped(d)
		b.cutCable()
		asked := make(chan error, 1)
		go func() { asked <- open.Ask(await.Within(t, await.AnswerTime)) }()
		b.awaitEntry(netlink.NUD_INCOMPLETE) // the answer waits
		b.wantLetGoAtOnce("the carrier was lost", d, asked)
		release()
	})
}

// wantLetGoAtOnce has a daemon go on that was stopped, and wants an answer that waited since a fault to be there soon.
func (b *bed) wantLetGoAtOnce(since string, d *product.Daemon, asked <-chan error) {
	b.Helper()
	began := time.Now()
	d.Signal(unix.SIGCONT)
	await.Must(b, <-asked)
	took := time.Since(began)
	b.Logf("an answer that waited when %s: there %s after the daemon knew", since, took.Round(time.Millisecond))
	if took >= oneRetransmission {
		b.Errorf("it was there after %s", took)
	}
}

// awaitStopped returns when no thread of a daemon runs any more that has been sent SIGSTOP: on a busy machine one may
// still do something meanwhile.
func (b *bed) awaitStopped(d *product.Daemon) {
	b.Helper()
	b.Eventually("the daemon has stopped", func() error {
		for _, path := range await.Must1[[]string](b)(filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", d.PID()))) {
			stat, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			if _, state, _ := strings.Cut(string(stat), ") "); !strings.HasPrefix(state, "T ") {
				return errors.New(string(stat))
			}
		}
		return nil
	})
}

// wantLeak shows that the capture sees what the host starts by eth1, where the kernel
// sends it there by a route of its own.
func (b *bed) wantLeak(wire *topology.Capture) {
	b.Helper()
	// Not to eth0's gateway: to ask it is how the kernel finds that it is back.
	far := []netip.Addr{b.clientAddress(), elsewhere[b.family]}
	b.Eventually("what the host starts is seen on eth1", func() error {
		b.sendUnaskedTo(far...)
		leaked := b.leaks(wire)
		for _, to := range far {
			for _, kind := range []layers.IPProtocol{layers.IPProtocolUDP, pings[b.family].protocol} {
				if !slices.ContainsFunc(leaked, topology.All(topology.To(to), topology.Protocol(kind))) {
					return fmt.Errorf("no %s to %s, only %s", kind, to, testwire.Describe(leaked))
				}
			}
		}
		return nil
	})
}

// choice is the interface that the kernel chooses for what the host starts, "" for none.
func (b *bed) choice() string {
	b.Helper()
	return b.choiceOf(b.clientAddress().String())
}

// choiceOf is that for a packet, as `ip route get` describes it.
func (b *bed) choiceOf(packet ...string) string {
	b.Helper()
	out, _ := b.net.Server.Command(b.Context(), "ip", append([]string{"route", "get"}, packet...)...).CombinedOutput()
	fields := strings.Fields(string(out))
	for i, field := range fields[:max(0, len(fields)-1)] {
		if field == "dev" {
			return fields[i+1]
		}
	}
	return ""
}

// backWithin is how soon what others take is back.
var backWithin = await.Patient(time.Second)

// fallbackRoutes is how many there are: IPv4's in two tables, and of IPv6 one for each kind of destinations.
const fallbackRoutes = 2 + 3

func (b *bed) fallbackRoutes() string {
	b.Helper()
	return host.Shell(b, b.net.Server.Host, "for f in -4 -6; do ip $f route show table all proto 114; done | grep 'dev replypath0' || true")
}

// TestFallbackIsPutBack has somebody delete the fallback route and its device.
func TestFallbackIsPutBack(t *testing.T) {
	b := newBed(t, topology.IPv4, anySource)
	b.start()
	for i, command := range []string{
		"ip -4 route del default dev replypath0 table 114114", "ip -4 route del default dev replypath0 table default",
		"ip -6 route del 2000::/3 dev replypath0 table 114114", "ip link set replypath0 down", "ip link del replypath0",
	} {
		release := product.Quiet(t)
		host.Shell(t, b.net.Server.Host, command)
		began := time.Now()
		b.Eventually("it is put back after "+command, func() error {
			if routes := b.fallbackRoutes(); strings.Count(routes, "\n") != fallbackRoutes {
				return errors.New(routes)
			}
			return nil
		})
		took := time.Since(began)
		release()
		t.Logf("%s: back after %s", command, took.Round(time.Millisecond))
		if took > backWithin {
			t.Error("that is too late")
		}
		b.Eventually("the repair is counted", func() error {
			if n := b.product.Metrics().Sum("replypath_host_repairs_total", "object=route"); n < float64(i+1) {
				return fmt.Errorf("%v repairs", n)
			}
			return nil
		})
	}
	b.removeDefault()
	b.ask(b.conversation(traffic.TCP))
}

// mechanisms are the arguments by which the programs are attached: as usual, which is by
// TCX where the kernel has it, and by clsact.
var mechanisms = map[string][]string{"usual": nil, "clsact": {"--mechanism", "clsact"}}

// TestForeignDevice has a device of somebody else's with the name of ours: everything
// else works, the status tells, and detach leaves it alone.
func TestForeignDevice(t *testing.T) {
	b := newBed(t, topology.IPv4, anySource)
	host.Shell(t, b.net.Server.Host, "ip link add replypath0 type veth peer name far")
	b.start()
	b.ask(b.conversation(traffic.TCP))
	if s := b.product.Status(); len(s.Errors) != 1 || !strings.Contains(s.Errors[0], "somebody else") {
		t.Errorf("errors in the status: %q", s.Errors)
	}
	b.product.Expect(0, "detach", "--stop")
	host.Shell(t, b.net.Server.Host, "ip link show replypath0")
}

// TestSecondDefaultWhileWaiting has an answer by eth1 sent in the moment in which the kernel has given eth0's router up and the
// daemon does not know yet: it waits for that router's MAC. The moment is made longer here.
func TestSecondDefaultWhileWaiting(t *testing.T) {
	b := newBed(t, topology.IPv6, secondDefault)
	d := b.start()
	open := b.conversation(traffic.TCP)
	b.ask(open)
	b.cutCable()
	d.WaitLog(1, `msg="interface is down" interface=eth0`) // the kernel has dropped the entry before
	b.ask(b.conversation(traffic.UDP))                     // the daemon has let go what waited for the dropped entry
	d.Signal(unix.SIGSTOP)
	b.awaitStopped(d)
	b.ask(b.conversation(traffic.UDP))
	b.awaitEntry(netlink.NUD_FAILED)
	await.Must(t, b.net.Server.SetSysctl("net/ipv6/neigh/eth0/retrans_time_ms", "1000"))
	release := product.Quiet(t)
	asked := make(chan error, 1)
	go func() { asked <- open.Ask(await.Within(t, await.AnswerTime)) }()
	b.awaitEntry(netlink.NUD_INCOMPLETE)
	b.wantLetGoAtOnce("the router was given up", d, asked)
	release()
	b.askForSomeTime("after it", open)
}

// awaitEntry returns when the kernel's entry of eth0's gateway is in a state, which it may be in for moments only.
func (b *bed) awaitEntry(state int) {
	b.Helper()
	eth0 := b.net.Server.Eth0
	gateway := net.IP(eth0.Peer().Address(b.family).AsSlice())
	b.Eventually(fmt.Sprintf("the entry is in state %#x", state), func() error {
		entries, err := b.net.Server.Netlink().NeighList(eth0.Index, netlink.FAMILY_ALL)
		if slices.ContainsFunc(entries, func(n netlink.Neigh) bool { return n.IP.Equal(gateway) && n.State == state }) {
			return nil
		}
		return errors.Join(err, fmt.Errorf("entries %+v", entries))
	})
}
