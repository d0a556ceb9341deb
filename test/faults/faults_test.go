// SPDX-License-Identifier: Apache-2.0

// Package faults takes the production NIC of a server away, in every way that it
// goes, and wants the replication NIC not to notice.
package faults

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/product"
	_ "replypath/test/product/inprocess"
	"replypath/test/short"
	"replypath/test/topology"
	"replypath/test/traffic"
	testwire "replypath/test/wire"
)

func TestMain(m *testing.M) { product.Main(m) }

// Times grow with the patience that slow machines need.
var (
	// oneRetransmission is 500 ms: more than the first retransmission of a segment
	// takes (RFC 6298 with Linux's 200 ms, and the round trip), less than the second.
	oneRetransmission = await.AnswerTime / 20
	// promptly, 500 ms, is how soon what is new has to be answered, and what the host
	// starts has to fail, on a busy machine. A SYN is sent again after a second.
	promptly = await.AnswerTime / 20
	// inVain, 300 ms, is how long nothing must come.
	inVain = await.AnswerTime * 3 / 100
)

// each runs a subtest for each of the faults, which take turns with the families; one for both families in a run for long.
// A quick run takes every third fault: it has all of them in TestFaults.
func each(t *testing.T, faults []fault, run func(*testing.T, fault, topology.Family)) {
	t.Helper()
	quick, all := short.Run(t), short.Long(t, "the other family of each fault")
	eachOf(t, faults, func(n, k int) bool { return (all || n%2 == k) && (!quick || n%3 == 0) }, run)
}

// eachOf runs a subtest for those faults and families that are run, by their numbers.
func eachOf(t *testing.T, faults []fault, isRun func(n, k int) bool, run func(*testing.T, fault, topology.Family)) {
	t.Helper()
	for n, fault := range faults {
		for k, f := range traffic.Families {
			if isRun(n, k) {
				t.Run(fault.name+"/"+f.String(), func(t *testing.T) { run(t, fault, f) })
			}
		}
	}
}

// eachFamily runs a subtest for either family.
func eachFamily(t *testing.T, run func(*testing.T, topology.Family)) {
	t.Helper()
	for _, f := range traffic.Families {
		t.Run(f.String(), func(t *testing.T) { run(t, f) })
	}
}

// TestFaults has each of them happen under open connections. Taken away after it, replypath leaves the host as
// the same fault leaves one without it.
func TestFaults(t *testing.T) {
	quick := short.Run(t)
	testFaults(t, func(n, k int) bool { return !quick || n%2 == k })
}

// TestFaultsByClsact has them happen where the kernel has no TCX, or as if.
func TestFaultsByClsact(t *testing.T) {
	all := short.Long(t, "the other family of each fault")
	testFaults(t, func(n, k int) bool { return all || n%2 != k }, mechanisms["clsact"]...)
}

func testFaults(t *testing.T, isRun func(n, k int) bool, args ...string) {
	eachOf(t, faults, isRun, func(t *testing.T, fault fault, f topology.Family) {
		b := newBed(t, f, anySource)
		b.start(args...)
		b.bridgeShown(fault)
		b.product.Expect(0, "detach", "--stop")
		with, alone := b.withoutIndices(), afterAlone(t, fault, f).withoutIndices()
		await.Same(t, "the host is not what it is without replypath", alone, with)
	})
}

// ifindex is how ip tells interfaces' numbers.
var ifindex = regexp.MustCompile(`(?m)^\d+: |@if\d+`)

// withoutIndices is the snapshot of the server but for the interfaces' numbers: an eth0 that is made anew has another one
// where there has been a replypath0.
func (b *bed) withoutIndices() host.Snapshot {
	b.Helper()
	s := host.TakeSnapshot(b, b.net.Server.Host, "eth0", "eth1")
	for command, said := range s {
		if strings.HasPrefix(command, "ip ") {
			s[command] = ifindex.ReplaceAllString(said, "")
		}
	}
	return s
}

// afterAlone is a host without replypath that has been through a fault.
func afterAlone(t *testing.T, fault fault, f topology.Family) *bed {
	t.Helper()
	b := newBed(t, f, anySource)
	fault.begin(b)
	fault.end(b)
	b.eventually(b.conversation(traffic.TCP))
	return b
}

// losesDatagram tells whether one may be lost: where there is no TCX and another eth0 has been made.
// The kernel drops what is sent by that in the moment that it gets its clsact qdisc (net/sched/sch_api.c, qdisc_graft(): it
// deactivates the device), which is no matter of the fault.
func (b *bed) losesDatagram(fault fault) bool {
	return fault.name == "eth0 deleted" && b.product != nil && *b.product.Status().Interfaces[0].Mechanism == "clsact"
}

// waitsForRules tells whether it takes the daemon to lead replies to the fallback route: IPv6 has no table that is asked
// without a rule, and rules stand while there is no default route alone. A datagram of the moment in between is lost.
func (b *bed) waitsForRules(fault fault) bool { return b.family == topology.IPv6 && !fault.holds }

// begin has a fault begin, and returns when replies are built again.
func (b *bed) begin(fault fault) {
	b.Helper()
	fault.begin(b)
	if b.waitsForRules(fault) {
		b.awaitRules(true)
	}
}

// awaitRules returns when rules alone lead replies to the fallback route, or none does.
func (b *bed) awaitRules(want bool) {
	b.Helper()
	b.Eventually(fmt.Sprintf("there are rules for replies: %t", want), func() error {
		rules, routes := b.ip("rule"), host.Shell(b, b.net.Server.Host, "ip -4 route show table all proto 114 | grep 'table default' || true")
		if strings.Contains(rules, "iif lo") != want || want && b.family == topology.IPv4 && routes != "" {
			return errors.New(rules + routes)
		}
		return nil
	})
}

// wantSnapshot wants the server as it was.
func (b *bed) wantSnapshot(before host.Snapshot) {
	b.Helper()
	await.Same(b, "the host is not what it was", before, host.TakeSnapshot(b, b.net.Server.Host, "eth0", "eth1"))
}

// TestFaultsWithoutDaemon has those happen that the kernel bridges alone for IPv4, after the daemon was killed. They take
// turns with the mechanisms, and a quick run has the first.
func TestFaultsWithoutDaemon(t *testing.T) {
	quick, all := short.Run(t), short.Long(t, "the other mechanism of each fault")
	for n, fault := range routeless() {
		for m, mechanism := range []string{"clsact", "usual"} {
			if quick && n%3 != 0 || !all && m != n%2 {
				continue
			}
			t.Run(mechanism+"/"+fault.name, func(t *testing.T) {
				b := newBed(t, topology.IPv4, anySource)
				alone := product.WriteConfig(t, "related: false\n") // what the host begins is to fail
				b.unattended = true
				b.start(append([]string{"--config", alone}, mechanisms[mechanism]...)...).Kill()
				defer product.Quiet(t)()
				b.bridge(fault, func() {}, func() {})
			})
		}
	}
}

// TestIPv6FaultsWithoutDaemon: by IPv6 nothing is answered until a daemon starts.
func TestIPv6FaultsWithoutDaemon(t *testing.T) {
	t.Parallel()
	for _, fault := range gone() {
		t.Run(fault.name, func(t *testing.T) {
			t.Parallel()
			b := newBed(t, topology.IPv6, anySource)
			b.start().Kill()
			fault.begin(b)
			asked := b.fresh()
			answered := b.askAll(asked, inVain)
			if len(answered) > 0 {
				t.Errorf("%s were answered", answered)
			}
			b.product.Start()
			b.askFresh("after the start of a daemon")
			t.Logf("%s: %d of %d answered without a daemon", fault.name, len(answered), len(asked))
		})
	}
}

// TestNeighbourIsPutBack deletes the entry of the gateway, once while it answers and
// once while it is held: replies on eth1 go on, and both are counted.
func TestNeighbourIsPutBack(t *testing.T) {
	eachFamily(t, func(t *testing.T, f topology.Family) {
		b := newBed(t, f, anySource)
		b.start()
		gateway := b.net.Server.Eth0.Peer()
		var backs []string
		deleted := func(what string, times float64) {
			defer product.Quiet(t)()
			entry := &netlink.Neigh{LinkIndex: b.net.Server.Eth0.Index, IP: gateway.Address(f).AsSlice()}
			if b.isHeld() { // not in the moment in which the kernel has given it up and it is held anew, which is no repair
				b.awaitEntry(netlink.NUD_PROBE)
			}
			began := time.Now()
			await.Must(t, b.net.Server.Netlink().NeighDel(entry)) // before that moment, which a program may start too late for
			b.Eventually("the entry is put back", func() error {
				n := b.product.Metrics().Sum("replypath_host_repairs_total", "object=neighbour")
				if state := b.neighbour(); n != times || !strings.Contains(state, gateway.MAC.String()) {
					return fmt.Errorf("%v repairs, %q", n, state)
				}
				return nil
			})
			took := time.Since(began)
			backs = append(backs, fmt.Sprintf("%s after %s", what, took.Round(time.Millisecond)))
			if took > backWithin {
				t.Errorf("%s: back after %s", what, took)
			}
			b.ask(b.conversation(traffic.TCP))
		}
		b.ask(b.conversation(traffic.TCP))
		deleted("while it answers", 1)
		b.silenceGateway()
		b.awaitHeld()
		deleted("while it is held", 2)
		state := b.gatewayState()
		if state != "held" {
			t.Errorf("the gateway is %s", state)
		}
		t.Logf("deleted %d times: back and counted %s, the gateway is %s", len(backs), strings.Join(backs, ", "), state)
	})
}

// TestSilentGatewayWithoutDaemon kills the daemon while it holds a gateway. The kernel gives it up then, as it would without
// replypath: nothing is answered, neither what is new nor what was open. When the gateway answers again, nothing of the
// daemon's is in the way.
func TestSilentGatewayWithoutDaemon(t *testing.T) {
	t.Parallel()
	eachFamily(t, func(t *testing.T, f topology.Family) {
		t.Parallel()
		b := newBed(t, f, anySource)
		d := b.start()
		b.silenceGateway()
		open := []*traffic.Conversation{b.conversation(traffic.TCP), b.conversation(traffic.UDP)}
		for _, c := range open {
			b.ask(c)
		}
		d.Kill()
		b.awaitEntry(netlink.NUD_FAILED)
		if state := b.gatewayState(); state == "held" {
			t.Error("the status says that the gateway is held by nobody")
		}
		all := append(b.fresh(), open...)
		answered := b.askAll(all, promptly)
		if len(answered) > 0 {
			t.Errorf("answered were %s", answered)
		}
		t.Logf("the kernel gives the gateway up, the status says %s, %d of %d open and new ones answered",
			b.gatewayState(), len(answered), len(all))
		b.wakeGateway()
		for _, kind := range traffic.Kinds {
			b.eventually(b.conversation(kind))
		}
		b.Eventually("the host reaches the client as before", func() error { return b.reach(traffic.TCP) })
	})
}

// bridge has a fault begin and end, and wants that nobody notices on eth1, and that
// nothing is there that was not before. It looks on during and after the fault.
func (b *bed) bridge(fault fault, during, after func()) {
	b.Helper()
	var talks []*traffic.Talk
	for _, kind := range []traffic.Kind{traffic.TCP, traffic.UDP} {
		if kind == traffic.UDP && b.losesDatagram(fault) {
			b.Logf("%s: no conversation by %s goes on meanwhile", fault.name, kind)
			continue
		}
		c := b.conversation(kind)
		b.ask(c)
		if kind == traffic.UDP && b.waitsForRules(fault) {
			talks = append(talks, c.KeepRepeating(b))
		} else {
			talks = append(talks, c.KeepThrough(b))
		}
	}
	silent := b.conversation(traffic.TCP) // until the fault has been noticed
	b.ask(silent)
	wire := testwire.Capture(b, b.net.Server.Eth1.Peer())
	b.wantHostReaches(true, traffic.TCP, traffic.UDP)
	b.begin(fault)
	b.askFresh(fault.name)
	during()
	b.askForSomeTime(fault.name+": a connection that was silent", silent)
	b.wantHostReaches(false, traffic.TCP)
	if !fault.holds { // datagrams go on to the gateway: it may be there, for all they know
		b.wantHostReaches(false, traffic.UDP)
	}
	b.sendUnasked()
	b.wantNoLeak("during "+fault.name, wire)
	fault.end(b)
	b.Eventually("the host reaches the client as before", func() error { return b.reach(traffic.TCP) })
	after()
	for _, kind := range traffic.Kinds {
		b.ask(b.conversation(kind))
	}
	b.ask(silent)
	for _, talk := range talks {
		answers := talk.Stop()
		b.Logf("%s: %d answers, the longest pause %s", fault.name, answers, talk.Pause().Round(time.Microsecond))
		if talk.Pause() >= oneRetransmission {
			b.Errorf("an open connection paused for %s", talk.Pause())
		}
	}
	b.wantNoLeak("after "+fault.name, wire)
	b.wantRoutes()
}

// wantRoutes wants those of before the fault.
func (b *bed) wantRoutes() {
	b.Helper()
	if routes := b.showRoutes(); routes != b.routes {
		b.Errorf("routes after the fault:\n%s\nbefore:\n%s", routes, b.routes)
	}
}

func since(began time.Time) time.Duration { return time.Since(began).Round(time.Millisecond) }

// askForSomeTime asks for a second, in which the kernel forgets what it knew before a fault,
// and wants each answer at once.
func (b *bed) askForSomeTime(what string, c *traffic.Conversation) {
	b.Helper()
	b.askTimes(what, c, 100)
}

// askPromptly asks, and wants the answer at once.
func (b *bed) askPromptly(what string, c *traffic.Conversation) {
	b.Helper()
	b.askTimes(what, c, 1)
}

func (b *bed) askTimes(what string, c *traffic.Conversation, questions int) {
	b.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	var slowest time.Duration
	for ; questions > 0; questions-- {
		asked := time.Now()
		b.ask(c)
		slowest = max(slowest, time.Since(asked))
		<-tick.C
	}
	b.Logf("%s: answered within %s", what, slowest.Round(time.Microsecond))
	if slowest >= promptly {
		b.Errorf("%s: answered after %s", what, slowest)
	}
}

// askFresh asks by each kind, and wants the answers at once.
func (b *bed) askFresh(when string) {
	b.Helper()
	for _, c := range b.fresh() {
		b.askPromptly(when+": new "+string(c.Kind), c)
	}
}

// bridgeShown is bridge with a daemon, which shows the fault while it lasts, and has changed of the host
// afterwards what it had before.
func (b *bed) bridgeShown(fault fault) {
	b.Helper()
	defer product.Quiet(b)()
	before := b.hostChanges()
	b.bridge(fault, func() { b.wantShown(fault, true) }, func() {
		b.wantShown(fault, false)
		b.awaitChanges(before)
	})
}

// awaitChanges returns when the changes of the host are those of before a fault.
func (b *bed) awaitChanges(before []product.HostChange) {
	b.Helper()
	b.Eventually("the changes of the host are those of before", func() error {
		if now := b.hostChanges(); !slices.Equal(now, before) {
			return fmt.Errorf("%+v, before %+v", now, before)
		}
		return nil
	})
}

// hostChanges are those of the host but for the other family's, whose default route nobody gives back to an
// interface that was deleted.
func (b *bed) hostChanges() []product.HostChange {
	b.Helper()
	others := map[topology.Family][]string{
		topology.IPv4: {"net.ipv6.", "ipv6 ", "neighbour entry of fe80::"},
		topology.IPv6: {"net.ipv4.", "ipv4 ", "neighbour entry of 192.0.0.8"},
	}[b.family]
	changes := slices.DeleteFunc(b.product.Status().HostChanges, func(c product.HostChange) bool {
		return slices.ContainsFunc(others, func(other string) bool { return strings.Contains(c.Object, other) })
	})
	slices.SortFunc(changes, func(x, y product.HostChange) int { return strings.Compare(x.Object, y.Object) })
	return changes
}

// reach has the host ask the client's server, by a connected socket.
func (b *bed) reach(kind traffic.Kind) error { return b.reachWithin(await.AnswerTime, kind) }

func (b *bed) reachWithin(d time.Duration, kind traffic.Kind) error {
	ctx := await.Within(b, d)
	conn, err := b.net.Server.Dial(ctx, string(kind), netip.AddrPortFrom(b.clientAddress(), traffic.EchoPort).String())
	if err != nil {
		return err
	}
	defer conn.Close()
	return exchange(conn, d)
}

// connectBy connects a socket of the host's to the client's server.
func (b *bed) connectBy(kind traffic.Kind) net.Conn {
	b.Helper()
	client := netip.AddrPortFrom(b.clientAddress(), traffic.EchoPort)
	conn := await.Must1[net.Conn](b)(b.net.Server.Dial(await.Within(b, await.AnswerTime), string(kind), client.String()))
	b.Cleanup(func() { conn.Close() })
	return conn
}

func exchange(conn net.Conn, within time.Duration) error {
	if err := conn.SetDeadline(time.Now().Add(within)); err != nil {
		return err
	}
	if _, err := conn.Write([]byte("question")); err != nil {
		return err
	}
	_, err := conn.Read(make([]byte, 8))
	return err
}

// wantHostReaches wants that what the host starts works, or fails promptly.
func (b *bed) wantHostReaches(want bool, kinds ...traffic.Kind) {
	b.Helper()
	for _, kind := range kinds {
		began := time.Now()
		err := b.reach(kind)
		took := time.Since(began)
		switch {
		case want && err != nil:
			b.Errorf("the host cannot reach the client by %s: %v", kind, err)
		case !want && err == nil:
			b.Errorf("the host reached the client by %s", kind)
		case !want && took >= promptly:
			b.Errorf("%s failed after %s: %v", kind, took, err)
		case !want:
			b.Logf("what the host starts by %s fails after %s: %v", kind, took.Round(time.Microsecond), err)
		}
	}
}

// wantShown wants the fault in status and metrics, or that it is past.
func (b *bed) wantShown(fault fault, present bool) {
	b.Helper()
	gateway := b.net.Server.Eth0.Peer().Address(b.family).String()
	b.Eventually(fmt.Sprintf("status and metrics show the fault: %t", present), func() error {
		m := b.product.Metrics()
		active := m.Sum("replypath_fallback_active", "family="+b.family.String()) == 1
		reachable := m.Sum("replypath_gateway_reachable", "gateway="+gateway) == 1
		state := b.gatewayState()
		shown := active
		if fault.holds {
			shown = state == "held" && !reachable && active == (fault.name == "carrier lost")
		}
		if shown == present && (present || reachable && state != "held" && !active) {
			b.Logf("%s, over: %t: status and metrics show the gateway %s, reachable: %t, the fallback route active: %t",
				fault.name, !present, state, reachable, active)
			return nil
		}
		return fmt.Errorf("fallback active: %t, gateway reachable: %t, its state: %s", active, reachable, state)
	})
}

// Eventually is harness.Eventually.
func (b *bed) Eventually(what string, missing func() error) {
	b.Helper()
	await.Eventually(b, what, missing)
}

func (b *bed) start(args ...string) *product.Daemon {
	b.Helper()
	if !b.unattended { // else nobody adds rules
		b.splitTables()
	}
	b.product = product.On(b, b.net.Server.Host)
	return b.product.Start(args...)
}

// reload has a daemon read another configuration.
func (b *bed) reload(d *product.Daemon, config, text string) {
	b.Helper()
	await.Must(b, os.WriteFile(config, []byte(text), 0o600))
	d.Reload()
}

func (b *bed) ask(c *traffic.Conversation) {
	b.Helper()
	traffic.Ask(b, c)
}

// eventually asks until there is an answer.
func (b *bed) eventually(c *traffic.Conversation) {
	b.Helper()
	b.Eventually(c.String()+" is answered", func() error {
		return b.conversation(c.Kind).Ask(await.Within(b, inVain))
	})
}
