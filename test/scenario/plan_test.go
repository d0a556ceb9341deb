// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"replypath/test/await"
	testhost "replypath/test/host"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// ruled is S1 where B lives by a rule for each address of eth1, as people type them.
func ruled(t *testing.T) *topology.S1 {
	t.Helper()
	s := newBeginner(t, topology.StrictSource)
	for _, f := range s.Families() {
		await.Must(t, s.B.AddRoute(topology.Route{Via: s.B.Eth1.Gateway(f), Table: 101}))
		testhost.Shell(t, s.B.Host, "ip "+ipFlag(f)+" rule add from "+s.B.Eth1.Address(f).String()+" lookup 101 priority 100")
	}
	return s
}

// wantRule wants a plan to say something of a rule, and returns it.
func wantRule(t *testing.T, p *product.PlanRule, verdict string, words ...string) {
	t.Helper()
	await.Same(t, p.Rule+": "+p.Reason, verdict, p.Verdict)
	await.Says(t, p.Rule, p.Reason, words...)
}

// planned is a host with rules, whose eth1 a client asks.
type planned struct {
	*topology.S1
	p   *product.Product
	all []*traffic.Conversation
}

// plan makes a plan where no daemon runs, which changes nothing of the host and the pins.
func (s planned) plan(t *testing.T, when string) *product.Plan {
	t.Helper()
	host, pins := testhost.TakeSnapshot(t, s.B.Host, "eth0", "eth1"), testhost.Pins(t)
	made := s.planNotNeeded(t)
	for what, diff := range map[string]string{
		"host": host.Diff(testhost.TakeSnapshot(t, s.B.Host, "eth0", "eth1")),
		"pins": cmp.Diff(pins, testhost.Pins(t)),
	} {
		if diff != "" {
			t.Errorf("%s: %s (-before +after):\n%s", when, what, diff)
		}
	}
	return made
}

// planNotNeeded wants the rules not to be needed.
func (s planned) planNotNeeded(t *testing.T) *product.Plan {
	t.Helper()
	made := s.p.Plan(0)
	for _, f := range traffic.Families {
		rule := made.Of("rule", "from "+s.B.Eth1.Address(f).String())
		wantRule(t, rule, "not-needed", "replypath sends the replies")
		await.Same(t, "what puts it back", fmt.Sprintf("ip rule add pref 100 from %s lookup 101", s.B.Eth1.Address(f)), strings.Replace(product.OrEmpty(rule.Restore), "ip -6", "ip", 1))
		wantRule(t, made.Of("table", f.String()+" table 101"), "needed", "learns the gateway of eth1 from it")
	}
	return made
}

// askAll asks in every conversation, and wants the answers by eth1.
func (s planned) askAll(t *testing.T) {
	t.Helper()
	wires := wire.Tap(t, s.B)
	for _, c := range s.all {
		traffic.Ask(t, c)
		wires.WantEth1(c.String(), c.Answers())
	}
}

// TestPlan has a host live by rules. plan says before the first start, while observed, while enforced and beside a dead
// daemon that the replies need none of them, and without them every conversation goes on. Then the host lives by marks.
func TestPlan(t *testing.T) {
	s := planned{S1: ruled(t)}
	s.all = conversations(t, s.A.Eth1, s.B.Eth1, traffic.Families...)
	s.askAll(t)
	s.p = product.On(t, s.B.Host)
	first := s.plan(t, "before the first start")
	if first.Verdict != "ready" || first.Summary != "ready: replypath try" || first.WatchedSince != nil {
		t.Errorf("before the first start: %q (%s)", first.Verdict, first.Summary)
	}

	d := s.p.Start("--observe")
	s.askAll(t)
	observed := s.planNotNeeded(t)
	for _, c := range s.all {
		rows := observed.Moves(c)
		if len(rows) != 1 || rows[0].FromInterface != "eth0" || rows[0].ToInterface != "eth1" || rows[0].Flows < 1 {
			t.Errorf("%s: rows %+v", c, rows)
			continue
		}
		if isTCP := c.Kind == traffic.TCP; isTCP != (rows[0].Packets != nil) || isTCP != (rows[0].Bytes != nil) {
			t.Errorf("%s: %+v", c, rows[0])
		}
	}
	if observed.Verdict != "ready" || observed.Summary != "ready: replypath mode enforce" || len(observed.Originated) != 0 {
		t.Errorf("observed: %q (%s), opened %+v", observed.Verdict, observed.Summary, observed.Originated)
	}
	if len(observed.HostChanges) == 0 || len(observed.HostChanges) != len(s.p.Status().WouldChange) {
		t.Errorf("changes: %+v", observed.HostChanges)
	}
	d.Stop(unix.SIGTERM)

	d = s.p.Start()
	enforced := s.planNotNeeded(t)
	if !strings.HasPrefix(enforced.Summary, "ready: replypath enforces already; ") || len(enforced.HostChanges) != 0 {
		t.Errorf("enforced: %s, changes %+v", enforced.Summary, enforced.HostChanges)
	}
	s.wantNeeded(t)
	d.Kill()
	dead := s.plan(t, "beside a dead daemon")
	for _, c := range s.all {
		for when, made := range map[string]*product.Plan{"after a restart": enforced, "beside a dead daemon": dead} {
			if rows := made.Moves(c); len(rows) != 1 || rows[0].Flows != observed.Moves(c)[0].Flows {
				t.Errorf("%s: %s %+v, observed %+v", c, when, rows, observed.Moves(c))
			}
		}
	}
	testhost.Shell(t, s.B.Host, "ip rule del priority 100; ip -6 rule del priority 100")
	s.askAll(t)

	s.p.Start()
	s.wantMarksNotNeeded(t)
}

// wantNeeded has replies kept by a rule from what else the routing tables have, whatever that is: then it is needed.
func (s planned) wantNeeded(t *testing.T) {
	t.Helper()
	a, from := s.A.Eth1.Address(topology.IPv4), "from "+s.B.Eth1.Address(topology.IPv4).String()
	testhost.Shell(t, s.B.Host, `ip link add docker9 type veth peer name docker9p
		ip link set docker9 up; ip link set docker9p up; ip addr add 172.31.9.1/24 dev docker9`)
	for _, test := range []struct{ add, del, verdict, reason string }{
		{"ip route add unreachable 10.0.0.0/8", "ip route del unreachable 10.0.0.0/8", "needed", "unreachable 10.0.0.0/8 refuses replies"},
		{"ip route add blackhole " + a.String() + "/32", "ip route del blackhole " + a.String() + "/32", "needed", "refuses replies"},
		{"ip route add " + a.String() + "/32 dev docker9", "ip route del " + a.String() + "/32", "needed",
			"would go by docker9, where replypath sees nothing"},
		{"ip route add default via 172.31.9.2 dev docker9 table 200; ip rule add pref 200 not fwmark 51820 lookup 200",
			"ip rule del pref 200; ip route flush table 200", "not-needed", "replypath sends the replies"}, // which it catches
	} {
		testhost.Shell(t, s.B.Host, test.add)
		wantRule(t, s.p.Plan(0).Of("rule", from), test.verdict, test.reason)
		testhost.Shell(t, s.B.Host, test.del)
	}
	testhost.Shell(t, s.B.Host, "ip link del docker9")
	pinger := await.Must1[*topology.Pinger](t)(s.B.NewPinger(t.Context(), topology.Echo{To: a, From: s.B.Eth1.Address(topology.IPv4)}))
	wantRule(t, s.p.Plan(0).Of("rule", from), "needed", "may send first")
	await.Must(t, pinger.Close())
	s.askAll(t)
}

// planMarks leads answers back by eth1 with the mark of the connection.
const planMarks = `
for family in -4 -6; do ip $family rule add priority 100 fwmark 0x1 lookup 101; done
nft add table inet marks
nft add chain inet marks in '{ type filter hook prerouting priority -150; }'
nft add chain inet marks out '{ type route hook output priority -150; }'
nft add rule inet marks in iifname eth1 ct mark set 0x1
nft add rule inet marks out ct mark 0x1 meta mark set ct mark
`

// TestPlanWatch: a rule that only a job needs which has ended is needed for who watched, until he interrupts, and not for who
// looks at one moment.
func TestPlanWatch(t *testing.T) {
	s := ruled(t)
	p, _ := product.StartOn(t, s.B.Host)
	rule := "from " + s.B.Eth1.Address(topology.IPv4).String()
	job := fromEth1(t, s, traffic.UDP, topology.IPv4)
	traffic.Ask(t, job)
	watch := p.Command(t.Context(), "plan", "--watch", "1h", "-o", "json")
	var seen bytes.Buffer
	watch.Stdout = &seen
	said := bufio.NewScanner(await.Must1[io.ReadCloser](t)(watch.StderrPipe()))
	await.Must(t, watch.Start())
	if !said.Scan() || !strings.Contains(said.Text(), "watching for 1h0m0s") { // once it has looked
		t.Fatalf("it said %q, %v", said.Text(), said.Err())
	}
	job.Close()
	wantRule(t, p.Plan(0).Of("rule", rule), "not-needed", "opened nothing from", "now")
	await.Must(t, watch.Process.Signal(unix.SIGINT))
	await.Must(t, watch.Wait())
	var watched product.Plan
	await.Must(t, json.Unmarshal(seen.Bytes(), &watched))
	wantRule(t, watched.Of("rule", rule), "needed", "this host opened 1 connection from")
	if watched.WatchedSince == nil || len(watched.Originated) != 1 {
		t.Errorf("watched since %v: %+v", watched.WatchedSince, watched.Originated)
	}
}

// TestDetachWarns: a rule was removed that plan calls not needed. detach warns of its address, until the command that plan showed
// has put it back, and while another mode than enforce is in force.
func TestDetachWarns(t *testing.T) {
	s := ruled(t)
	p, _ := product.StartOn(t, s.B.Host)
	from := s.B.Eth1.Address(topology.IPv4)
	restore := product.OrEmpty(p.Plan(0).Of("rule", "from "+from.String()).Restore)
	testhost.Shell(t, s.B.Host, "ip rule del pref 100")
	warned := p.Expect(0, "detach", "--stop").Stderr
	await.Says(t, "detach", warned, "replies from addresses of eth1 to peers beyond its networks go elsewhere now", "addresses=["+from.String()+"]")
	if strings.Contains(warned, s.B.Eth1.Address(topology.IPv6).String()) {
		t.Errorf("detach warns of an address that has its rule: %s", warned)
	}
	p.Start("--observe")
	await.Same(t, "what detach warns of where replies went so before", "", p.Expect(0, "detach", "--stop").Stderr)
	testhost.Shell(t, s.B.Host, restore)
	p.Start()
	await.Same(t, "what detach warns of where each rule is there", "", p.Expect(0, "detach", "--stop").Stderr)
}

// wantMarksNotNeeded has the host live by marks of connections that only what arrives by eth1 gets.
func (s planned) wantMarksNotNeeded(t *testing.T) {
	t.Helper()
	testhost.Shell(t, s.B.Host, planMarks)
	s.askAll(t)
	made := s.p.Plan(0)
	wantRule(t, made.Of("rule", "fwmark 0x1 lookup 101"), "not-needed", "only what arrives by eth1 gets the mark")
	wantRule(t, made.Of("mark", "inet marks out"), "not-needed")

	// Whoever else has the mark needs it.
	marked := topology.Setting(func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, 1) })
	for _, open := range []func() (io.Closer, error){
		func() (io.Closer, error) { return s.B.ListenPacket(t.Context(), "udp", "127.0.0.1:0", marked) },
		func() (io.Closer, error) { return s.B.Listen(t.Context(), "tcp", "127.0.0.1:0", marked) },
	} {
		socket := await.Must1[io.Closer](t)(open())
		wantRule(t, s.p.Plan(0).Of("rule", "fwmark 0x1 lookup 101"), "needed", "a socket gives its packets the mark")
		await.Must(t, socket.Close())
	}
	testhost.Shell(t, s.B.Host, "nft add rule inet marks out udp dport 4242 meta mark set 0x1")
	wantRule(t, s.p.Plan(0).Of("rule", "fwmark 0x1 lookup 101"), "needed", "has the mark is not known")

	testhost.Shell(t, s.B.Host, "ip rule del priority 100; ip -6 rule del priority 100; nft delete table inet marks")
	s.askAll(t)
}

// TestPlanReplica has a host open connections from eth1's addresses by its rules: these are needed until their peer comes there
// by itself, to which they are related, or until host_model: strong takes it over. Then everything goes on without them.
func TestPlanReplica(t *testing.T) {
	s := ruled(t)
	opened := make(map[topology.Family]*traffic.Conversation)
	for _, f := range traffic.Families {
		opened[f] = fromEth1(t, s, traffic.TCP, f)
		traffic.Ask(t, opened[f])
	}
	p, d := product.StartOn(t, s.B.Host, "--config", product.WriteConfig(t, "{}\n"))
	made := p.Plan(0)
	for _, f := range traffic.Families {
		rule := made.Of("rule", "from "+s.B.Eth1.Address(f).String())
		wantRule(t, rule, "needed", "1 connection open from", "host_model: strong")
		if rule.Connections != 1 || len(rule.Peers) != 1 || !netip.MustParsePrefix(rule.Peers[0]).Contains(s.A.Eth1.Address(f)) {
			t.Errorf("%d connections with %v", rule.Connections, rule.Peers)
		}
		wantOpened(t, made, s.B.Eth1.Address(f), "host_model: strong of eth1; or a route to ")
	}
	wantRelated(t, s, p, opened)
	d.Reconfigure(strongHost(s))
	made = p.Plan(0)
	for f, c := range opened {
		rule := made.Of("rule", "from "+s.B.Eth1.Address(f).String())
		wantRule(t, rule, "not-needed", "by host_model: strong what this host opens")
		wantRule(t, made.Of("table", f.String()+" table 101"), "not-needed") // the configuration names the gateway
		testhost.Shell(t, s.B.Host, fmt.Sprintf("ip %[1]s rule del priority 100; ip %[1]s route flush table 101", ipFlag(f)))
		wires := wire.Tap(t, s.B)
		traffic.Ask(t, c)
		wires.WantEth1("what the host opened, without its rule", c.Questions())
	}
}

// wantRelated has the peer of what the host opened connect by eth1 as well, and wants neither rules nor host_model: strong for
// it, nor do they make a difference then.
func wantRelated(t *testing.T, s *topology.S1, p *product.Product, opened map[topology.Family]*traffic.Conversation) {
	t.Helper()
	for _, f := range traffic.Families {
		c := traffic.NewConversation(t, traffic.TCP, s.A.Eth1, s.B.Eth1.Address(f))
		defer c.Close()
		traffic.Ask(t, c)
	}
	made := p.Plan(0)
	for f, c := range opened {
		wantRule(t, made.Of("rule", "from "+s.B.Eth1.Address(f).String()), "not-needed", "is related to what its peers began")
		wantOpened(t, made, s.B.Eth1.Address(f), "none: its peer is heard at eth1, and related sends it there")
		rule := fmt.Sprintf("ip %s rule %%s from %s lookup 101 priority 100", ipFlag(f), s.B.Eth1.Address(f))
		testhost.Shell(t, s.B.Host, fmt.Sprintf(rule, "del"))
		wires := wire.Tap(t, s.B)
		traffic.Ask(t, c)
		wires.WantEth1("what is related, without its rule", c.Questions())
		testhost.Shell(t, s.B.Host, fmt.Sprintf(rule, "add"))
	}
}

// wantOpened wants one row of what the host opened from an address, with a remedy.
func wantOpened(t *testing.T, made *product.Plan, self netip.Addr, remedy string) {
	t.Helper()
	i := slices.IndexFunc(made.Originated, func(o product.PlanRow) bool { return o.Self == self && strings.HasPrefix(o.Remedy, remedy) })
	if i < 0 {
		t.Fatalf("opened: %+v", made.Originated)
	}
	o := made.Originated[i]
	isRouted := !strings.Contains(remedy, "route") || strings.Contains(o.Remedy, remedy+o.Peer.String()+" via ")
	if o.PeerPort != traffic.EchoPort || o.Flows != 1 || o.FromInterface != "eth0" || o.ToInterface != "eth1" || !isRouted {
		t.Errorf("opened: %+v", o)
	}
}

func ipFlag(f topology.Family) string {
	if f == topology.IPv6 {
		return "-6"
	}
	return "-4"
}

// TestPlanNothing is of hosts where there is nothing to do, and where rules are others'.
func TestPlanNothing(t *testing.T) {
	s := traffic.NewS1(t, topology.S1Options{Policy: topology.StrictSource})
	p := product.On(t, s.B.Host)
	isTold := func(b product.PlanBlock) bool { return b.Check == "addresses" }
	if made := p.Plan(0); made.Summary != "ready: replypath try" || !slices.ContainsFunc(made.Mended, isTold) {
		t.Errorf("replies of eth1 leave by eth0: %s: %+v", made.Summary, made)
	}
	testhost.Shell(t, s.B.Host, `
ip rule add pref 5210 fwmark 0x80000/0xff0000 table main
ip rule add pref 5270 table 52
ip rule add pref 60 to 192.0.2.0/24 lookup 103 protocol keepalived
ip rule add pref 61 from `+s.B.Eth1.Address(topology.IPv4).String()+` iif eth1 lookup 104
`)
	made := p.Plan(0)
	for words, want := range map[string][3]string{
		"rule 5210:": {"needed", "", "replypath does not replace it"}, "rule 5270:": {"needed", "", "replypath does not replace it"},
		"rule 60:": {"needed", "keepalived", "replypath does not replace it"}, "rule 61:": {"not-needed", "", "it never matches"},
	} {
		rule := made.Of("rule", words)
		wantRule(t, rule, want[0], want[2])
		await.Same(t, "owner of "+rule.Rule, want[1], product.OrEmpty(rule.Owner))
	}

	// Blocked: a firewall that checks the way back.
	testhost.Shell(t, s.B.Host, `
nft add table inet t
nft add chain inet t pre '{ type filter hook prerouting priority 0; }'
nft add rule inet t pre iifname eth1 fib saddr . iif oif missing drop
`)
	if made := p.Plan(3); made.Verdict != "blocked" || len(made.Blockers) != 1 || !strings.HasPrefix(made.Summary, "blocked: reverse-path-rules: ") {
		t.Errorf("%s: %+v", made.Summary, made.Blockers)
	}

	// A has one address left, whose replies leave by its own interface.
	p = product.On(t, s.A.Host)
	testhost.Shell(t, s.A.Host, "ip address flush dev eth1")
	if made := p.Plan(0); made.Verdict != "nothing-to-do" || made.Summary != "nothing to do here" {
		t.Errorf("%s: %+v", made.Summary, made)
	}
}
