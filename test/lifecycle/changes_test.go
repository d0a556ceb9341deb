// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"errors"
	"fmt"
	"testing"

	"github.com/vishvananda/netlink"

	"replypath/test/harness"
	"replypath/test/topology"
)

// TestRename renames a managed interface under running conversations of every kind.
func TestRename(t *testing.T) {
	n := newServer(t)
	p := harness.On(t, n.Server.Host)
	p.Start()
	all := keepAskingAll(t, n)
	link := harness.Must1[netlink.Link](t)(n.Server.Eth1.Link())
	harness.Must(t, n.Server.Netlink().LinkSetName(link, "lan1"))
	waitAttached(t, p, "lan1", n.Server.Eth1.Index)
	goOn(all)
	right, wrong := endAll(all)
	if i := p.Status().Interface("eth1"); i != nil {
		t.Errorf("the old name is still there: %+v", *i)
	}
	wantInterface(t, p, "lan1", all)
	harness.Must1[string](t)(p.Get("/healthz"))
	t.Logf("%d conversations by ping, TCP and UDP, IPv4 and IPv6, go on under a rename: %d answers by the interface, %d by eth0",
		len(all), right, wrong)
}

// TestRenameWithoutDaemon renames it after the daemon was killed: the conversations go on by it, and what the next start
// shows, also of what was counted before, has the new name.
func TestRenameWithoutDaemon(t *testing.T) {
	for _, mechanism := range mechanisms {
		t.Run(mechanism, func(t *testing.T) { testRenameWithoutDaemon(t, mechanism) })
	}
}

func testRenameWithoutDaemon(t *testing.T, mechanism string) {
	n := newServer(t)
	p := harness.On(t, n.Server.Host)
	d := start(p, mechanism)
	if mechanism != mechanisms[1] {
		harness.NeedTCX(t)
	}
	all := keepAskingAll(t, n)
	d.Kill()
	link := harness.Must1[netlink.Link](t)(n.Server.Eth1.Link())
	harness.Must(t, n.Server.Netlink().LinkSetName(link, "lan1"))
	goOn(all)
	start(p, mechanism)
	waitAttached(t, p, "lan1", n.Server.Eth1.Index)
	goOn(all)
	right, wrong := endAll(all)
	if i := p.Status().Interface("eth1"); i != nil {
		t.Errorf("the old name is still there: %+v", *i)
	}
	wantInterface(t, p, "lan1", all)
	harness.Must1[string](t)(p.Get("/healthz"))
	var counted float64
	for _, r := range all {
		answers, metrics := r.settled(p)
		const metric = "replypath_corrected_packets_total"
		flow := []string{"family=" + topology.FamilyOf(r.c.Self.Addr()).String(), "protocol=" + r.c.Protocol()}
		now, old := metrics.Sum(metric, append(flow, "to_interface=lan1")...), metrics.Sum(metric, append(flow, "to_interface=eth1")...)
		if now != float64(len(answers)) || old != 0 {
			t.Errorf("%s: %v packets are counted by the new name and %v by the old one, %d left", r.c, now, old, len(answers))
		}
		counted += now
	}
	t.Logf("%d conversations go on under a rename without a daemon: %d answers by the interface, %d by eth0, %v counted by the new name",
		len(all), right, wrong, counted)
}

// TestRouteMoves moves the default route to eth1 and back under conversations
// with both interfaces: each stays where it came in.
func TestRouteMoves(t *testing.T) {
	n := newServer(t)
	p := harness.On(t, n.Server.Host)
	p.Start()
	for _, f := range n.Families() {
		harness.Serve(t, n.Server.Host, n.Server.Eth0.Address(f))
		byEth0 := harness.NewConversation(t, harness.TCP, n.ClientEth0, n.Server.Eth0.Address(f))
		byEth1 := conversation(t, n, harness.TCP, f)
		harness.WantBy(t, n.Server, byEth0, false)
		harness.WantBy(t, n.Server, byEth1, true)
		before := topology.Route{Via: n.Server.Eth0.Gateway(f)}
		after := topology.Route{Via: n.Server.Eth1.Gateway(f)}
		harness.Must(t, n.Server.RemoveRoute(before))
		harness.Must(t, n.Server.AddRoute(after))
		harness.Must(t, n.Server.Eth1.Resolve(harness.Within(t, harness.AnswerTime), after.Via))
		harness.WantBy(t, n.Server, byEth1, true)
		// eth0's gateway stands in no routing table any more.
		harness.WantBy(t, n.Server, byEth0, false)
		harness.WantBy(t, n.Server, harness.NewConversation(t, harness.UDP, n.ClientEth0, n.Server.Eth0.Address(f)), false)
		harness.Must(t, n.Server.RemoveRoute(after))
		harness.Must(t, n.Server.AddRoute(before))
		harness.WantBy(t, n.Server, byEth0, false)
		harness.WantBy(t, n.Server, byEth1, true)
	}
}

// TestStartWhileDown starts while eth1 is down, and again sets it down and up
// while the daemon runs.
func TestStartWhileDown(t *testing.T) {
	n := newServer(t)
	p := harness.On(t, n.Server.Host)
	harness.Must(t, n.Server.Eth1.SetDown())
	p.Start()
	for range 2 {
		waitUp(t, p, false)
		harness.Must(t, n.Server.Eth1.SetUp())
		// The kernel has taken the IPv6 address away with the link.
		harness.Must(t, n.Server.Eth1.AddAddress(n.Server.Eth1.Addresses[1]))
		harness.Must(t, n.Server.Eth1.WaitReady(harness.Within(t, harness.AnswerTime)))
		waitUp(t, p, true)
		for _, f := range n.Families() {
			waitByEth1(t, n, n.Server.Eth1.Address(f))
			for _, kind := range harness.Kinds {
				harness.WantBy(t, n.Server, conversation(t, n, kind, f), true)
			}
		}
		harness.Must(t, n.Server.Eth1.SetDown())
	}
}

// waitUp returns when the status shows whether eth1 is up, and attached in any
// case.
func waitUp(t *testing.T, p *harness.Product, up bool) {
	t.Helper()
	harness.Eventually(t, fmt.Sprintf("eth1 is shown, up %t", up), func() error {
		i := p.Status().Interface("eth1")
		if i == nil {
			return errors.New("not in the status")
		}
		if i.Up != up || !i.Attached {
			return fmt.Errorf("%+v", *i)
		}
		return nil
	})
}

// TestWithoutIPv6 runs on a host that has IPv6 turned off.
func TestWithoutIPv6(t *testing.T) {
	n := harness.NewTwoNIC(t, topology.TwoNICOptions{NoIPv6: true})
	before := snapshot(t, n)
	p := harness.On(t, n.Server.Host)
	d := p.Start()
	for _, kind := range harness.Kinds {
		harness.WantBy(t, n.Server, conversation(t, n, kind, topology.IPv4), true)
	}
	if lines := append(d.Log.Lines("level=WARN"), d.Log.Lines("level=ERROR")...); len(lines) > 0 {
		t.Errorf("complaints in the log: %q", lines)
	}
	p.Expect(0, "detach", "--stop")
	if diff := before.Diff(snapshot(t, n)); diff != "" {
		t.Errorf("host after detach (-before +after):\n%s", diff)
	}
}

// TestProgramsTakenOff has somebody delete what replypath attached by clsact,
// with the whole qdisc, while no daemon runs: the status shows it, and the next
// start mends it.
func TestProgramsTakenOff(t *testing.T) {
	n := newServer(t)
	p := harness.On(t, n.Server.Host)
	d := start(p, "clsact")
	c := conversation(t, n, harness.TCP, topology.IPv4)
	harness.WantBy(t, n.Server, c, true)
	d.Kill()
	output, err := n.Server.Command(t.Context(), "tc", "qdisc", "del", "dev", "eth0", "clsact").CombinedOutput()
	if err != nil {
		t.Fatalf("tc: %v\n%s", err, output)
	}
	if i := p.Status().Interface("eth0"); i == nil || i.Attached {
		t.Errorf("status of eth0 without its programs: %+v", i)
	}
	start(p, "clsact")
	harness.WantBy(t, n.Server, c, true)
	harness.Must1[string](t)(p.Get("/healthz"))
}
