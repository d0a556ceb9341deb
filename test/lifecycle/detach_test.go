// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"replypath/test/harness"
	"replypath/test/topology"
)

// TestDetachRestores takes a host that others have set up, works on it, and
// wants everything as it was: what tc, bpftool, ip and nft show, every sysctl,
// and no pin.
func TestDetachRestores(t *testing.T) {
	for _, mechanism := range mechanisms {
		t.Run(mechanism, func(t *testing.T) {
			n := newServer(t)
			occupy(t, n)
			harness.Must(t, n.Server.SetSysctl("net/ipv4/conf/eth1/rp_filter", "1"))
			testRestores(t, n, mechanism)
		})
	}
}

// TestDetachRestoresEmpty is TestDetachRestores on a host that nobody touched.
func TestDetachRestoresEmpty(t *testing.T) {
	for _, mechanism := range mechanisms {
		t.Run(mechanism, func(t *testing.T) {
			n := newServer(t)
			testRestores(t, n, mechanism)
			harness.WantBy(t, n.Server, conversation(t, n, harness.TCP, topology.IPv4), false)
		})
	}
}

func testRestores(t *testing.T, n *topology.TwoNIC, mechanism string) {
	pins := harness.Pins(t)
	before := snapshot(t, n)
	p := harness.On(t, n.Server.Host)
	start(p, mechanism)
	for _, f := range n.Families() {
		for _, kind := range harness.Kinds {
			harness.WantBy(t, n.Server, conversation(t, n, kind, f), true)
		}
	}
	if before.Diff(snapshot(t, n)) == "" {
		t.Error("the snapshot does not show that something is attached")
	}
	result := p.Expect(0, "detach", "--stop")
	if !strings.Contains(result.Stdout, "removed") {
		t.Errorf("detach does not say what it removed: %s", result)
	}
	if diff := before.Diff(snapshot(t, n)); diff != "" {
		t.Errorf("host after detach (-before +after):\n%s", diff)
	}
	if diff := cmp.Diff(pins, harness.Pins(t)); diff != "" {
		t.Errorf("pins after detach (-before +after):\n%s", diff)
	}
	t.Logf("%d outputs of commands, sysctls and lists of programs compared after detach", len(before))
}

func snapshot(t *testing.T, n *topology.TwoNIC) harness.Snapshot {
	t.Helper()
	return harness.TakeSnapshot(t, n.Server.Host, "eth0", "eth1")
}

// occupy sets a host up as other products do: with filters of their own in the
// hooks that replypath uses, a rule, a table, a firewall and a fixed neighbour.
func occupy(t *testing.T, n *topology.TwoNIC) {
	t.Helper()
	for _, command := range []string{
		"tc qdisc add dev eth1 clsact",
		"tc filter add dev eth1 ingress prio 1 protocol ip handle 1: u32 divisor 1",
		"tc filter add dev eth1 egress prio 1 protocol all u32 match u32 0 0 classid 1:1",
		"ip rule add from 192.0.2.0/24 lookup 100",
		"ip route add default via 10.2.0.1 table 100",
		"ip -6 route add default via 2001:db8:2::1 table 100",
		"nft add table inet theirs",
	} {
		args := strings.Fields(command)
		if output, err := n.Server.Command(t.Context(), args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", command, err, output)
		}
	}
	stranger := net.HardwareAddr{2, 0, 0, 0, 0xff, 1}
	harness.Must(t, n.Server.Eth1.AddNeighbour(n.Server.Eth1.Address(topology.IPv4).Next(), stranger))
}

// TestDetachLeavesOthersChanges restores a sysctl only while it holds the value
// that replypath gave it.
func TestDetachLeavesOthersChanges(t *testing.T) {
	const key = "net/ipv4/conf/eth1/rp_filter"
	n := newServer(t)
	harness.Must(t, n.Server.SetSysctl(key, "1"))
	p := harness.On(t, n.Server.Host)
	p.Start().Stop(unix.SIGTERM)
	harness.Must(t, n.Server.SetSysctl(key, "0"))
	p.Detach()
	if got := harness.Must1[string](t)(n.Server.Sysctl(key)); got != "0" {
		t.Errorf("rp_filter is %s, although somebody had set it to 0 meanwhile", got)
	}
}

// TestDetachTwice detaches where there is nothing to detach any more.
func TestDetachTwice(t *testing.T) {
	p := harness.On(t, newServer(t).Server.Host)
	p.Detach()
	p.Start().Kill()
	p.Detach()
	p.Detach()
	p.Expect(3, "status")
	p.Expect(1, "flows", "-o", "json")
}

// TestDetachBesideDaemon refuses while the daemon runs, and names it.
func TestDetachBesideDaemon(t *testing.T) {
	n := newServer(t)
	p := harness.On(t, n.Server.Host)
	d := p.Start()
	result := p.Expect(1, "detach")
	wantOneLine(t, result, fmt.Sprint(d.PID()), "--stop")
	harness.WantBy(t, n.Server, conversation(t, n, harness.TCP, topology.IPv4), true)
	p.Expect(0, "detach", "--stop")
	if code := d.WaitEnd(); code != 0 {
		t.Errorf("detach --stop ended the daemon with exit code %d", code)
	}
	harness.WantBy(t, n.Server, conversation(t, n, harness.TCP, topology.IPv4), false)
}

// TestSecondRun refuses to start twice on the same pins, and names who holds
// them.
func TestSecondRun(t *testing.T) {
	n := newServer(t)
	p := harness.On(t, n.Server.Host)
	d := p.Start()
	r := keepAsking(t, n, harness.TCP, topology.IPv4)
	wantOneLine(t, p.Expect(1, "run"), fmt.Sprint(d.PID()), p.PinDir)
	r.goesOn()
	r.end()
	if s := p.Status(); !s.Daemon.Running || *s.Daemon.PID != d.PID() {
		t.Errorf("the daemon of the status is %+v", s.Daemon)
	}
}

// TestForeignPins refuses to work on the pins of another network namespace,
// whether its daemon still runs or not.
func TestForeignPins(t *testing.T) {
	n := newServer(t)
	p := harness.On(t, n.Server.Host)
	foreign := p.At(n.Client)
	d := p.Start()
	foreign.Expect(1, "run")
	foreign.Expect(1, "detach")
	foreign.Expect(1, "detach", "--stop")
	d.Kill()
	pins := harness.Pins(t)
	for _, command := range []string{"run", "detach"} {
		wantOneLine(t, foreign.Expect(1, command), "another network namespace")
	}
	if after := harness.Pins(t); !slices.Equal(pins, after) {
		t.Errorf("pins changed (-before +after):\n%s", cmp.Diff(pins, after))
	}
	harness.WantBy(t, n.Server, conversation(t, n, harness.TCP, topology.IPv4), true)
}

// TestDetachTypo names where the datapath is, and leaves it.
func TestDetachTypo(t *testing.T) {
	n := newServer(t)
	p := harness.On(t, n.Server.Host)
	p.Start().Kill()
	before := snapshot(t, n)
	typo := p.WithPinDir(p.PinDir + "x")
	wantOneLine(t, typo.Expect(1, "detach"), typo.PinDir+";", "replypath detach --pin-dir "+p.PinDir)
	wantOneLine(t, typo.Expect(1, "detach", "--stop"), "replypath detach --pin-dir "+p.PinDir)
	if diff := before.Diff(snapshot(t, n)); diff != "" {
		t.Errorf("(-before +after):\n%s", diff)
	}
	t.Log("refused twice, naming the other directory: 0 differences to the host of before")
	p.Detach()
	typo.Expect(0, "detach")
}

// wantOneLine wants an error message of one line in lower case that has all of
// the words.
func wantOneLine(t *testing.T, r *harness.Result, words ...string) {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(r.Stderr), "\n")
	message := lines[len(lines)-1]
	if len(lines) != 1 || !strings.HasPrefix(message, "replypath: ") {
		t.Errorf("not one line of error: %s", r)
	}
	for _, word := range words {
		if !strings.Contains(message, word) {
			t.Errorf("the error does not say %q: %s", word, r)
		}
	}
}
