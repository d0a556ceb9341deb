// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"replypath/test/harness"
	"replypath/test/topology"
)

// ruled is S1 where B lives by a rule for each address of eth1, as people type them.
func ruled(t *testing.T) *topology.S1 {
	t.Helper()
	s := newBeginner(t, topology.StrictSource)
	for _, f := range s.Families() {
		harness.Must(t, s.B.AddRoute(topology.Route{Via: s.B.Eth1.Gateway(f), Table: 101}))
		harness.Shell(t, s.B.Host, "ip "+ipFlag(f)+" rule add from "+s.B.Eth1.Address(f).String()+" lookup 101 priority 100")
	}
	return s
}

// wantRule wants a plan to say something of a rule, and returns it.
func wantRule(t *testing.T, p *harness.PlanRule, verdict string, words ...string) {
	t.Helper()
	if p.Verdict != verdict {
		t.Errorf("%q is %q, not %s: %s", p.Rule, p.Verdict, verdict, p.Reason)
	}
	for _, w := range words {
		if !strings.Contains(p.Reason, w) {
			t.Errorf("%q: no %q in: %s", p.Rule, w, p.Reason)
		}
	}
}

// openAll begins a conversation of each kind, and asks in it.
func openAll(t *testing.T, families []topology.Family, begin func(harness.Kind, topology.Family) *harness.Conversation) (all []*harness.Conversation) {
	t.Helper()
	for _, f := range families {
		for _, kind := range harness.Kinds {
			c := begin(kind, f)
			t.Cleanup(func() { _ = c.Close() })
			harness.Ask(t, c)
			all = append(all, c)
		}
	}
	return all
}

// TestPlanRules has a host live by rules. plan says before the first start, while observed and while enforced that the
// replies need none of them, and without them every conversation goes on.
func TestPlanRules(t *testing.T) {
	s := ruled(t)
	all := openAll(t, s.Families(), func(kind harness.Kind, f topology.Family) *harness.Conversation {
		return harness.NewConversation(t, kind, s.A.Eth1, s.B.Eth1.Address(f))
	})
	p := harness.On(t, s.B.Host)
	rules := func(made *harness.Plan) {
		t.Helper()
		for _, f := range s.Families() {
			rule := made.Of("rule", "from "+s.B.Eth1.Address(f).String())
			wantRule(t, rule, "not-needed", "replypath sends the replies", "no known file makes it at boot")
		}
		for _, family := range []string{"ipv4", "ipv6"} {
			table := made.Of("table", family+" table 101")
			wantRule(t, table, "needed", "learns the gateway of eth1 from it")
		}
	}
	first := p.Plan(0)
	rules(first)
	if first.Verdict != "ready" || first.Summary != "ready: replypath try" || first.WatchedSince != nil {
		t.Errorf("before the first start: %q (%s)", first.Verdict, first.Summary)
	}

	d := p.Start("--observe")
	for _, c := range all {
		harness.Ask(t, c)
	}
	observed := p.Plan(0)
	rules(observed)
	for _, c := range all {
		rows := observed.Moves(c)
		if len(rows) != 1 || rows[0].FromInterface != "eth0" || rows[0].ToInterface != "eth1" || rows[0].Flows < 1 {
			t.Errorf("%s: rows %+v", c, rows)
			continue
		}
		if isTCP := c.Kind == harness.TCP; isTCP != (rows[0].Packets != nil) || isTCP != (rows[0].Bytes != nil) {
			t.Errorf("%s: %+v", c, rows[0])
		}
	}
	if observed.Verdict != "ready" || observed.Summary != "ready: replypath mode enforce" || len(observed.Originated) != 0 {
		t.Errorf("observed: %q (%s), opened %+v", observed.Verdict, observed.Summary, observed.Originated)
	}
	if len(observed.HostChanges) == 0 || len(observed.HostChanges) != len(p.Status().WouldChange) {
		t.Errorf("changes: %+v", observed.HostChanges)
	}
	d.Stop(unix.SIGTERM)

	p.Start() // goes on with the history
	enforced := p.Plan(0)
	rules(enforced)
	if !strings.HasPrefix(enforced.Summary, "ready: replypath enforces already; ") || len(enforced.HostChanges) != 0 {
		t.Errorf("enforced: %s, changes %+v", enforced.Summary, enforced.HostChanges)
	}
	for _, c := range all {
		if rows := enforced.Moves(c); len(rows) != 1 || rows[0].Flows != observed.Moves(c)[0].Flows {
			t.Errorf("%s: after a restart %+v, before it %+v", c, rows, observed.Moves(c))
		}
	}
	harness.Shell(t, s.B.Host, "ip rule del priority 100; ip -6 rule del priority 100")
	wires := harness.Tap(t, s.B)
	for _, c := range all {
		harness.Ask(t, c)
		wires.WantEth1(c.String()+" without its rule", c.Answers())
	}
	p.Expect(0, "detach", "--stop")
	if gone := p.Run("plan", "-o", "json"); strings.Contains(gone.Stdout, `"first_seen"`) {
		// What is open now is known of its sockets alone.
		if made := p.Plan(0); made.WatchedSince != nil {
			t.Errorf("a history is left: %s", gone)
		}
	}
}

// TestPlanKeeps: a rule is needed that keeps replies from what else the routing tables have, whatever that is.
func TestPlanKeeps(t *testing.T) {
	s := ruled(t)
	p := harness.On(t, s.B.Host)
	p.Start()
	all := openAll(t, s.Families(), func(kind harness.Kind, f topology.Family) *harness.Conversation {
		return harness.NewConversation(t, kind, s.A.Eth1, s.B.Eth1.Address(f))
	})
	from := "from " + s.B.Eth1.Address(topology.IPv4).String()
	wantRule(t, p.Plan(0).Of("rule", from), "not-needed")
	a := s.A.Eth1.Address(topology.IPv4)
	harness.Shell(t, s.B.Host, "ip link add docker9 type veth peer name docker9p; ip link set docker9 up; ip link set docker9p up; ip addr add 172.31.9.1/24 dev docker9")
	for _, test := range []struct{ add, del, reason string }{
		{"ip route add unreachable 10.0.0.0/8", "ip route del unreachable 10.0.0.0/8", "unreachable 10.0.0.0/8 refuses replies"},
		{"ip route add blackhole " + a.String() + "/32", "ip route del blackhole " + a.String() + "/32", "refuses replies"},
		{"ip route add " + a.String() + "/32 via 172.31.9.2 dev docker9", "ip route del " + a.String() + "/32", "would go by docker9, where replypath sees nothing"},
		{"ip route add default via 172.31.9.2 dev docker9 table 200; ip rule add pref 200 not fwmark 51820 lookup 200",
			"ip rule del pref 200; ip route flush table 200", "leads replies by docker9, which is not managed"},
	} {
		harness.Shell(t, s.B.Host, test.add)
		wantRule(t, p.Plan(0).Of("rule", from), "needed", test.reason)
		harness.Shell(t, s.B.Host, test.del)
	}
	pinger := harness.Must1[*topology.Pinger](t)(s.B.NewPinger(t.Context(), topology.Echo{To: a, From: s.B.Eth1.Address(topology.IPv4)}))
	wantRule(t, p.Plan(0).Of("rule", from), "needed", "may send first")
	pinger.Close()
	for _, c := range all {
		harness.Ask(t, c)
	}
}

// TestPlanReplica has a host open connections from eth1's address by its rule: that is needed until host_model: strong
// takes it over, and then everything goes on without it.
func TestPlanReplica(t *testing.T) {
	s := ruled(t)
	for _, f := range s.Families() {
		c := fromEth1(t, s, harness.TCP, f)
		t.Cleanup(func() { _ = c.Close() })
		harness.Ask(t, c)
		p := harness.On(t, s.B.Host)
		p.Start()
		made := p.Plan(0)
		rule := made.Of("rule", "from "+s.B.Eth1.Address(f).String())
		wantRule(t, rule, "needed", "1 connection open from", "host_model: strong")
		if rule.Connections != 1 || len(rule.Peers) != 1 || !netip.MustParsePrefix(rule.Peers[0]).Contains(s.A.Eth1.Address(f)) {
			t.Errorf("%d connections with %v", rule.Connections, rule.Peers)
		}
		wantOpened(t, made, s.B.Eth1.Address(f))
		p.Expect(0, "detach", "--stop")
		p.Start("--config", harness.WriteConfig(t, strongHost(s)))
		made = p.Plan(0)
		rule = made.Of("rule", "from "+s.B.Eth1.Address(f).String())
		wantRule(t, rule, "not-needed", "by host_model: strong what this host opens")
		table := made.Of("table", f.String()+" table 101")
		wantRule(t, table, "not-needed") // the configuration names the gateway
		harness.Shell(t, s.B.Host, fmt.Sprintf("ip %s rule del priority 100; ip %s route flush table 101", ipFlag(f), ipFlag(f)))
		wires := harness.Tap(t, s.B)
		harness.Ask(t, c)
		wires.WantEth1("what the host opened, without its rule", c.Questions())
		p.Expect(0, "detach", "--stop")
	}
}

// wantOpened wants one row of what the host opened from an address, with both remedies.
func wantOpened(t *testing.T, made *harness.Plan, self netip.Addr) {
	t.Helper()
	i := slices.IndexFunc(made.Originated, func(o harness.PlanRow) bool { return o.Self == self })
	if i < 0 {
		t.Fatalf("opened: %+v", made.Originated)
	}
	o := made.Originated[i]
	if o.PeerPort != harness.EchoPort || o.Flows != 1 || o.FromInterface != "eth0" || o.ToInterface != "eth1" ||
		!strings.Contains(o.Remedy, "host_model: strong of eth1; or a route to "+o.Peer.String()+" via ") {
		t.Errorf("opened: %+v", o)
	}
}

func ipFlag(f topology.Family) string {
	if f == topology.IPv6 {
		return "-6"
	}
	return "-4"
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

// TestPlanMarks has a host live by marks of connections that only what arrives by eth1 gets.
func TestPlanMarks(t *testing.T) {
	s := newBeginner(t, topology.StrictSource)
	for _, f := range s.Families() {
		harness.Must(t, s.B.AddRoute(topology.Route{Via: s.B.Eth1.Gateway(f), Table: 101}))
	}
	harness.Shell(t, s.B.Host, planMarks)
	all := openAll(t, s.Families(), func(kind harness.Kind, f topology.Family) *harness.Conversation {
		return harness.NewConversation(t, kind, s.A.Eth1, s.B.Eth1.Address(f))
	})
	p := harness.On(t, s.B.Host)
	p.Start()
	for _, c := range all {
		harness.Ask(t, c)
	}
	made := p.Plan(0)
	rule, chain := made.Of("rule", "fwmark 0x1 lookup 101"), made.Of("mark", "inet marks out")
	wantRule(t, rule, "not-needed", "only what arrives by eth1 gets the mark")
	wantRule(t, chain, "not-needed")

	// Whoever else has the mark needs it.
	harness.Shell(t, s.B.Host, "nft add rule inet marks out udp dport 4242 meta mark set 0x1")
	rule = p.Plan(0).Of("rule", "fwmark 0x1 lookup 101")
	wantRule(t, rule, "needed", "has the mark is not known")

	harness.Shell(t, s.B.Host, "ip rule del priority 100; ip -6 rule del priority 100; nft delete table inet marks")
	wires := harness.Tap(t, s.B)
	for _, c := range all {
		harness.Ask(t, c)
		wires.WantEth1(c.String()+" without marks", c.Answers())
	}
}

// TestPlanNothing is of hosts where there is nothing to do, and where rules are others'.
func TestPlanNothing(t *testing.T) {
	s := harness.NewS1(t, topology.S1Options{Policy: topology.StrictSource})
	p := harness.On(t, s.B.Host)
	if made := p.Plan(0); made.Verdict != "nothing-to-do" || made.Summary != "nothing to do here" {
		t.Errorf("%s: %+v", made.Summary, made)
	}
	harness.Shell(t, s.B.Host, `
ip rule add pref 5210 fwmark 0x80000/0xff0000 table main
ip rule add pref 5270 table 52
ip rule add pref 60 to 192.0.2.0/24 lookup 103
ip rule add pref 61 from `+s.B.Eth1.Address(topology.IPv4).String()+` iif eth1 lookup 104
`)
	made := p.Plan(0)
	for words, want := range map[string][3]string{
		"rule 5210:": {"foreign", "Tailscale"}, "rule 5270:": {"foreign", "Tailscale"},
		"rule 60:": {"needed", "", "replypath does not replace it"}, "rule 61:": {"not-needed", "", "it never matches"},
	} {
		rule := made.Of("rule", words)
		wantRule(t, rule, want[0], want[2])
		if harness.OrEmpty(rule.Owner) != want[1] {
			t.Errorf("%s: of %q", rule.Rule, harness.OrEmpty(rule.Owner))
		}
	}

	// Blocked: a firewall that checks the way back.
	harness.Shell(t, s.B.Host, `
nft add table inet t
nft add chain inet t pre '{ type filter hook prerouting priority 0; }'
nft add rule inet t pre iifname eth1 fib saddr . iif oif missing drop
`)
	if made := p.Plan(3); made.Verdict != "blocked" || len(made.Blockers) != 1 || !strings.HasPrefix(made.Summary, "blocked: reverse-path-rules: ") {
		t.Errorf("%s: %+v", made.Summary, made.Blockers)
	}
}

// TestPlanChangesNothing makes plans without a daemon and beside a dead one: each is of the same rules, and the host, the
// pins and the kept history are afterwards what they were.
func TestPlanChangesNothing(t *testing.T) {
	s := ruled(t)
	all := openAll(t, s.Families(), func(kind harness.Kind, f topology.Family) *harness.Conversation {
		return harness.NewConversation(t, kind, s.A.Eth1, s.B.Eth1.Address(f))
	})
	p := harness.On(t, s.B.Host)
	plan := func(when string) *harness.Plan {
		t.Helper()
		devices, pins, state := harness.TakeSnapshot(t, s.B.Host, "eth0", "eth1"), harness.Pins(t), filesIn(t, p.StateDir)
		made := p.Plan(0)
		if diff := devices.Diff(harness.TakeSnapshot(t, s.B.Host, "eth0", "eth1")); diff != "" {
			t.Errorf("%s: the host is another (-before +after):\n%s", when, diff)
		}
		if diff := cmp.Diff(pins, harness.Pins(t)); diff != "" {
			t.Errorf("%s: the pins are others (-before +after):\n%s", when, diff)
		}
		if diff := cmp.Diff(state, filesIn(t, p.StateDir)); diff != "" {
			t.Errorf("%s: what is kept is something else (-before +after):\n%s", when, diff)
		}
		for _, f := range s.Families() {
			wantRule(t, made.Of("rule", "from "+s.B.Eth1.Address(f).String()), "not-needed", "replypath sends the replies")
		}
		return made
	}
	plan("before the first start")
	d := p.Start()
	for _, c := range all {
		harness.Ask(t, c)
	}
	d.Stop(unix.SIGTERM)
	p.Start().Kill()
	if len(filesIn(t, p.StateDir)) == 0 {
		t.Error("no history is kept")
	}
	dead := plan("beside a dead daemon")
	for _, c := range all {
		if rows := dead.Moves(c); len(rows) != 1 {
			t.Errorf("beside a dead daemon: %s: rows %+v", c, rows)
		}
	}
}

// filesIn has the names below a directory, with when each was written and its content.
func filesIn(t *testing.T, dir string) map[string]string {
	t.Helper()
	found := make(map[string]string)
	harness.Must(t, filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		text, err := os.ReadFile(path)
		found[path] = info.ModTime().String() + "\n" + string(text)
		return err
	}))
	return found
}
