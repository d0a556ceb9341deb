// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"errors"
	"fmt"
	"net"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket/layers"
	"github.com/vishvananda/netlink"

	"replypath/test/await"
	testhost "replypath/test/host"
	"replypath/test/product"
	"replypath/test/server"
	"replypath/test/topology"
	"replypath/test/traffic"
	testwire "replypath/test/wire"
)

// newTouchable is a server of which enforcing changes all that it ever changes: both interfaces have a strict rp_filter,
// a wildcard UDP socket wants its source repaired, and eth1 has gateways that stand in no route.
func newTouchable(t *testing.T) (n *topology.TwoNIC, p *product.Product, gateways string) {
	t.Helper()
	n, p = server.NewExact(t)
	for _, name := range []string{"eth0", "eth1"} {
		await.Must(t, n.Server.SetSysctl("net/ipv4/conf/"+name+"/rp_filter", "1"))
	}
	wildcard := await.Must1[net.PacketConn](t)(n.Server.ListenPacket(t.Context(), "udp", ":5301"))
	t.Cleanup(func() { wildcard.Close() })
	for _, f := range n.Families() {
		gateways += fmt.Sprintf("%q, ", n.Server.Eth1.Gateway(f))
	}
	return n, p, "gateways: [" + gateways + "]"
}

// withEth1 is a configuration of both interfaces, with these keys for eth0 and eth1.
func withEth1(t *testing.T, eth0, eth1 string) string {
	t.Helper()
	return product.WriteConfig(t, fmt.Sprintf("interfaces: [{name: eth0, %s}, {name: eth1, %s}]\n", eth0, eth1))
}

// programsOf are the parts of a snapshot that show what is attached to interfaces.
var programsOf = regexp.MustCompile(`^(tcx |bpftool net show|tc filter |tc qdisc )`)

// varying is what differs between two starts: the ids of programs, and index and MAC of the fallback route's device.
var varying = regexp.MustCompile(`(?m)^\d+: replypath0|(replypath_\w+) \d+|(rp_\w+) \d+|link/ether [0-9a-f:]+ brd`)

// hostOf is a snapshot without the programs on interfaces and what differs between two starts.
func hostOf(s testhost.Snapshot) testhost.Snapshot {
	host := make(testhost.Snapshot)
	for what, state := range s {
		if !programsOf.MatchString(what) {
			host[what] = varying.ReplaceAllString(state, "$1$2")
		}
	}
	return host
}

// objects are what a status says of changes of the host.
func objects(changes []product.HostChange) []string {
	var lines []string
	for _, c := range changes {
		if !strings.HasPrefix(c.Object, "qdisc ") { // observing needs those as well
			lines = append(lines, fmt.Sprintf("%s: %s -> %s", c.Object, c.Before, c.After))
		}
	}
	slices.Sort(lines)
	return lines
}

// asksForGateway are frames that ask who has an address of a router.
func asksForGateway(n *topology.TwoNIC) topology.Filter {
	return func(f *topology.Frame) bool {
		if f.Direction != topology.Sent {
			return false
		}
		packet := f.Packet()
		if arp, ok := packet.Layer(layers.LayerTypeARP).(*layers.ARP); ok {
			return net.IP(arp.DstProtAddress).Equal(n.Server.Eth1.Gateway(topology.IPv4).AsSlice())
		}
		solicitation, ok := packet.Layer(layers.LayerTypeICMPv6NeighborSolicitation).(*layers.ICMPv6NeighborSolicitation)
		return ok && solicitation.TargetAddress.Equal(n.Server.Eth1.Gateway(topology.IPv6).AsSlice())
	}
}

func neighboursOfEth1(t *testing.T, n *topology.TwoNIC) string {
	t.Helper()
	return testhost.Shell(t, n.Server.Host, "ip neighbour show dev eth1; ip -6 neighbour show dev eth1 nud all | grep -v ^ff || true")
}

// TestObserveIsPassive observes on a host where enforcing changes all that it ever does: nothing differs but programs
// and pins, no gateway is asked, also not when a carrier comes back, and the status says what enforcing would change.
func TestObserveIsPassive(t *testing.T) {
	n, p, gateways := newTouchable(t)
	testhost.Shell(t, n.Server.Host, "ip neighbour flush dev eth1; ip -6 neighbour flush dev eth1")
	before, neighbours := snapshot(t, n), neighboursOfEth1(t, n)
	wire := testwire.Capture(t, n.Server.Eth1)
	p.Start("--observe", "--config", withEth1(t, "mode: enforce", gateways))
	testhost.Settle(t, n.Production, n.Server.Eth0) // it has had time to hear and answer
	if asked := wire.Count(asksForGateway(n)); asked > 0 {
		t.Errorf("gateways of eth1 were asked for, %d times", asked)
	}
	await.Same(t, "neighbours of eth1", neighbours, neighboursOfEth1(t, n))
	await.Same(t, "the host while it is observed", hostOf(before), hostOf(snapshot(t, n)))
	s := p.Status()
	if changed := objects(s.HostChanges); len(changed) > 0 {
		t.Errorf("changed on the host: %q", changed)
	}
	would := objects(s.WouldChange)
	for _, want := range []string{
		"sysctl net.ipv4.conf.eth0.rp_filter: 1 -> 2", "sysctl net.ipv4.conf.eth1.rp_filter: 1 -> 2", "device replypath0: none",
		"ipv4 default route by eth1", "udp send programs on cgroup",
	} {
		if !slices.ContainsFunc(would, func(got string) bool { return strings.HasPrefix(got, want) }) {
			t.Errorf("would_change lacks %q: %q", want, would)
		}
	}
	for _, i := range s.Interfaces {
		await.Same(t, "mode of "+i.Name, "observe", i.Mode)
	}
	await.Says(t, "the table", p.Expect(0, "status").Stdout, "ENFORCING WOULD CHANGE")
	p.Expect(0, "detach", "--stop")
	await.Same(t, "the host after detach", before, snapshot(t, n))
	t.Logf("0 differences, 0 questions for gateways, %d changes that enforcing would make", len(would))
}

// switchTime is how soon the host has to be as after a start in the mode that was switched to.
const switchTime = time.Second

// startedIn is what a host is like after a start.
type startedIn struct {
	host           testhost.Snapshot
	changed, would []string
	routes         int // of replypath's
	device         bool
}

func inspect(t *testing.T, n *topology.TwoNIC, p *product.Product) startedIn {
	t.Helper()
	s := p.Status()
	return startedIn{
		host: hostOf(snapshot(t, n)), changed: objects(s.HostChanges), would: objects(s.WouldChange),
		routes: ownRoutes(t, n), device: hasOwnDevice(n),
	}
}

// ownRoutes counts the routes of replypath's protocol number: those by eth1 are the last that a switch adds.
func ownRoutes(t *testing.T, n *topology.TwoNIC) int {
	t.Helper()
	routes, err := n.Server.Netlink().RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Protocol: 114}, netlink.RT_FILTER_PROTOCOL)
	await.Must(t, err)
	return len(routes)
}

func hasOwnDevice(n *topology.TwoNIC) bool {
	_, err := n.Server.Netlink().LinkByName("replypath0")
	return err == nil
}

// wantSwitch switches, and wants the host to be like after a start, in time.
func (s *startedIn) wantSwitch(t *testing.T, n *topology.TwoNIC, p *product.Product, mode string) {
	t.Helper()
	quiet := product.Quiet(t)
	await.Same(t, "what it says with a daemon", "", p.Expect(0, "mode", mode).Stderr)
	begun := time.Now()
	await.Eventually(t, "the host follows the mode", func() error {
		if routes := ownRoutes(t, n); routes != s.routes || hasOwnDevice(n) != s.device {
			return fmt.Errorf("%d routes rather than %d, device %v", routes, s.routes, hasOwnDevice(n))
		}
		return nil
	})
	took := time.Since(begun)
	quiet()
	t.Logf("mode %s: within %s", mode, took.Round(time.Millisecond))
	if took > await.Patient(switchTime) {
		t.Errorf("mode %s: it took %s", mode, took)
	}
	s.want(t, n, p, mode)
}

// want wants the host to be like after a start, as soon as the status says so.
func (s *startedIn) want(t *testing.T, n *topology.TwoNIC, p *product.Product, mode string) {
	t.Helper()
	await.Becomes(t, "what the status says is changed", s.changed, func() []string { return objects(p.Status().HostChanges) })
	now := inspect(t, n, p)
	await.Same(t, "the host in mode "+mode+", compared with a start in it", s.host, now.host)
	if !slices.Equal(now.changed, s.changed) || !slices.Equal(now.would, s.would) {
		t.Errorf("mode %s: changed\n%q\nwould change\n%q\nafter a start\n%q\n%q", mode, now.changed, now.would, s.changed, s.would)
	}
	for _, i := range p.Status().Interfaces {
		await.Same(t, "mode of "+i.Name, mode, i.Mode)
	}
}

// TestSwitchIsStart switches there and back under a daemon: each time the host is as after a fresh start in that mode,
// what enforcing changes is what observing has said before, and replies survive the loss of the default route.
func TestSwitchIsStart(t *testing.T) {
	n, p, gateways := newTouchable(t)
	config := withEth1(t, "mode: enforce", gateways)
	before := snapshot(t, n)
	var enforced, observed startedIn
	for _, start := range []struct {
		flags []string
		seen  *startedIn
	}{{nil, &enforced}, {[]string{"--observe"}, &observed}} {
		p.Start(append(start.flags, "--config", config)...)
		*start.seen = inspect(t, n, p)
		p.Expect(0, "detach", "--stop")
		await.Same(t, "the host after detach", before, snapshot(t, n))
	}
	if !slices.Equal(observed.would, enforced.changed) || len(enforced.would)+len(observed.changed) > 0 {
		t.Errorf("would change\n%q\nare changed\n%q\nin observe %q, in enforce would %q",
			observed.would, enforced.changed, observed.changed, enforced.would)
	}

	d := p.Start("--observe", "--config", config)
	for turn := 1; turn <= 2; turn++ {
		enforced.wantSwitch(t, n, p, "enforce")
		d.WaitLog(turn, "mode was switched", "mode=enforce")
		wantAnswersWithoutDefault(t, n)
		observed.wantSwitch(t, n, p, "observe")
		d.WaitLog(turn, "mode was switched", "mode=observe")
	}
	enforced.wantSwitch(t, n, p, "enforce")
	p.Expect(0, "detach", "--stop")
	await.Same(t, "the host after detach", before, snapshot(t, n))
}

// wantAnswersWithoutDefault asks by eth1 while the server has no default route.
func wantAnswersWithoutDefault(t *testing.T, n *topology.TwoNIC) {
	t.Helper()
	for _, f := range n.Families() {
		await.Must(t, n.Server.RemoveRoute(topology.Route{Via: n.Server.Eth0.Gateway(f)}))
	}
	wantTCP(t, n, true)
	for _, f := range n.Families() {
		await.Must(t, n.Server.AddRoute(topology.Route{Via: n.Server.Eth0.Gateway(f)}))
	}
}

// TestStrictRPFilterWhileObserving leaves it strict, so that the kernel drops the question, and says in the log, the
// status and by doctor that observing does not see it. Enforcing ends that.
func TestStrictRPFilterWhileObserving(t *testing.T) {
	n, p := server.NewExact(t)
	for _, device := range []string{"eth1", "all"} {
		await.Must(t, n.Server.SetSysctl("net/ipv4/conf/all/rp_filter", "0"))
		await.Must(t, n.Server.SetSysctl(eth1RPFilter, "0"))
		await.Must(t, n.Server.SetSysctl("net/ipv4/conf/"+device+"/rp_filter", "1"))
		own := await.Must1[string](t)(n.Server.Sysctl(eth1RPFilter))
		d := p.Start("--observe")
		wantRPFilter(t, n, own)
		unheard := conversation(t, n, traffic.Ping, topology.IPv4)
		if err := unheard.Ask(await.Within(t, await.SilenceTime)); err == nil {
			t.Fatal("the host answers in spite of its strict rp_filter")
		}
		d.WaitLog(1, "level=WARN", "eth1", "only observes", "rp_filter is strict")
		isSaid := func(line string) bool {
			return strings.Contains(line, "eth1 only observes, and its rp_filter is strict")
		}
		if s := p.Status(); !slices.ContainsFunc(s.Errors, isSaid) {
			t.Errorf("the status has errors %q", s.Errors)
		}
		await.Eventually(t, "the question is without an answer for 3 s", func() error {
			if s := p.Diagnosed(); s.Health.State != "failed" {
				return errors.New(s.Summary)
			}
			return nil
		})
		if said := p.Expect(3, "status").Stdout; isSaid(said) || strings.Count(said, "rp_filter of eth1 is strict") != 2 { // with the first line
			t.Errorf("the status does not tell of one cause: %s", said)
		}
		if said := p.Examine().Of("rp-filter", "eth1").With("error", "strict", "only observes here"); len(said) != 1 {
			t.Errorf("doctor says %+v", p.Examine().Of("rp-filter", "eth1"))
		}
		wantUnseenTold(t, p, unheard)
		p.Expect(0, "mode", "enforce")
		await.Eventually(t, "it is loose", func() error {
			if s := p.Status(); *s.Interface("eth1").RPFilter != 2 || slices.ContainsFunc(s.Errors, isSaid) {
				return fmt.Errorf("rp_filter %d, errors %q", *s.Interface("eth1").RPFilter, s.Errors)
			}
			return nil
		})
		testwire.WantBy(t, n.Server, conversation(t, n, traffic.Ping, topology.IPv4), true)
		p.Expect(0, "detach", "--stop")
		wantRPFilter(t, n, own)
	}
}

// wantUnseenTold wants every command that is asked for replies to say that the question was dropped before there was one.
func wantUnseenTold(t *testing.T, p *product.Product, unheard *traffic.Conversation) {
	t.Helper()
	const dropped = "dropped so in this network namespace"
	if plan := p.Plan(0); plan.Verdict != "ready" || len(plan.Mended) == 0 || !strings.Contains(plan.Mended[0].Found, dropped) {
		t.Errorf("plan says %q, and mends %+v", plan.Verdict, plan.Mended)
	}
	if r := p.Expect(0, "flows", "--asymmetric"); !strings.Contains(r.Stderr, "eth1") || !strings.Contains(r.Stderr, dropped) {
		t.Errorf("%s", r)
	}
	await.Says(t, "explain", p.Explain("--peer", unheard.Peer.Addr().String(), "--self", unheard.Self.Addr().String()).Detail, dropped)
}

// TestMode switches between observing and enforcing under flows of every kind, with a daemon and without. It takes
// effect with the next packet. A mode that there is not, or is nowhere to be set, is refused.
func TestMode(t *testing.T) {
	n, p := server.NewExact(t)
	wantOneLine(t, p.Expect(2, "mode", "monitor"), `"monitor"`, "observe", "enforce")
	await.Says(t, "without anything attached", p.Expect(1, "mode", "observe").Stderr, "replypath run")
	d := p.Start()
	all := conversations(t, n)
	check := func(mode string) {
		t.Helper()
		await.Same(t, "mode of the status", mode, p.Status().Mode)
		for _, c := range all {
			testwire.WantBy(t, n.Server, c, mode == "enforce")
		}
	}
	check("enforce")
	for _, running := range []bool{true, false} {
		if !running {
			d.Kill()
		}
		for _, mode := range []string{"observe", "enforce"} {
			result := p.Expect(0, "mode", mode)
			if got := p.Expect(0, "mode").Stdout; got != mode+"\n" || got != result.Stdout {
				t.Errorf("mode %s: then mode is %q", mode, got)
			}
			check(mode)
		}
	}
}
