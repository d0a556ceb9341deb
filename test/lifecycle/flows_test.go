// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/product"
	"replypath/test/server"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// TestFlowFilters lists and forgets flows by each of the filters, without a daemon.
func TestFlowFilters(t *testing.T) {
	n, p := server.NewExact(t)
	p.Start().Kill()
	traffic.Serve(t, n.Server.Host, n.Server.Eth0.Address(topology.IPv4))
	for _, c := range conversations(t, n) {
		traffic.Ask(t, c)
	}
	traffic.Ask(t, traffic.NewConversation(t, traffic.UDP, n.ClientEth0, n.Server.Eth0.Address(topology.IPv4)))
	for filter, want := range map[string]int{
		"":                                7,
		"--peer 10.9.0.0/24":              4,
		"--peer 2001:db8:9::100":          3,
		"--interface eth0":                1,
		"--interface eth1 --protocol udp": 2,
		"--protocol icmpv6":               1,
		"--asymmetric":                    6,
		"--limit 5":                       5,
	} {
		await.Same(t, "flows "+filter, want, len(p.Flows(strings.Fields(filter)...)))
	}
	for _, command := range [][]string{{"flows"}, {"flows", "--follow"}, {"flows", "flush"}} {
		await.Says(t, command[0], p.Expect(1, append(command, "--interface", "eth9")...).Stderr, "unknown interface eth9: replypath manages eth0, eth1")
	}
	p.Expect(0, "flows", "flush", "--protocol", "icmpv6")
	p.Expect(0, "flows", "flush", "--interface", "eth0")
	await.Same(t, "flows after a flush", 5, len(p.Flows()))
	p.Expect(0, "flows", "flush")
	await.Same(t, "after a flush", "[]\n", p.Expect(0, "flows", "-o", "json").Stdout)
}

// TestFlushUnderTraffic forgets flows that are in use: each is known again with
// its next question, and stays where it belongs.
func TestFlushUnderTraffic(t *testing.T) {
	n, p := server.NewExact(t)
	p.Start()
	all := conversations(t, n)
	var talks []*traffic.Talk
	for _, c := range all {
		traffic.Ask(t, c)
		talks = append(talks, c.Keep(t))
	}
	for range 5 {
		p.Expect(0, "flows", "flush")
	}
	for i, c := range all {
		await.Eventually(t, c.String()+" is known again", func() error {
			for _, flow := range p.Flows("--protocol", c.Protocol()) {
				if flow.PeerPort == c.Peer.Port() {
					return nil
				}
			}
			return fmt.Errorf("flows %v", p.Flows())
		})
		talks[i].Stop()
		wire.WantBy(t, n.Server, c, true)
	}
}

// TestFollow tells which flows begin, move and end, and goes on where the daemon starts anew with tables of another size.
// One moves that comes from another MAC, as behind a router that takes another's place.
func TestFollow(t *testing.T) {
	n, p := server.NewExact(t)
	const follow = "interfaces: [{name: eth*, next_hop: last-hop}]\nfollow: latest\n"
	d := p.Start("--config", product.WriteConfig(t, follow))
	command := p.Command(await.Within(t, 2*await.AnswerTime), "flows", "--follow", "--limit", "4", "-o", "json")
	events := bufio.NewScanner(await.Must1[io.ReadCloser](t)(command.StdoutPipe()))
	await.Must(t, command.Start())
	want := func(want string, c *traffic.Conversation) {
		t.Helper()
		var event struct {
			Event    string
			PeerPort uint16 `json:"peer_port"`
		}
		if !events.Scan() {
			t.Fatalf("no event %s: %v", want, events.Err())
		}
		await.Must(t, json.Unmarshal(events.Bytes(), &event))
		if event.Event != want || event.PeerPort != c.Peer.Port() {
			t.Errorf("got %s, want %s of %s", events.Text(), want, c)
		}
	}
	before, after := conversation(t, n, traffic.UDP, topology.IPv4), conversation(t, n, traffic.UDP, topology.IPv4)
	traffic.Ask(t, before)
	want("new", before)
	await.Must(t, n.Server.Eth1.Peer().SetMAC(net.HardwareAddr{2, 0, 0, 0, 0xfe, 1}))
	traffic.Ask(t, before)
	want("moved", before)
	p.Expect(0, "flows", "flush")
	want("ended", before)
	d.Stop(unix.SIGTERM)
	p.Start("--config", product.WriteConfig(t, follow+product.SmallTables))
	traffic.Ask(t, after)
	want("new", after)
	await.Must(t, command.Wait())
}

const (
	manyFlows = 200_000
	mostBytes = 40 << 20
)

// TestMemory fills the flow table from 200,000 sources, beside a connection that they must not evict, and looks at what
// the daemon and the commands take while everything is read.
func TestMemory(t *testing.T) {
	n, p := server.NewExact(t)
	daemon := p.Start()
	c := conversation(t, n, traffic.TCP, topology.IPv4)
	traffic.Ask(t, c)
	talk := c.Keep(t)
	injector := traffic.NewInjector(t, n.Server.Eth1.Peer())
	d, source := plainDatagram(n, topology.IPv4), netip.MustParseAddr("198.18.0.1") // RFC 2544: for such tests
	d.To = netip.AddrPortFrom(d.To.Addr(), traffic.EchoPort)
	for range manyFlows {
		d.From = netip.AddrPortFrom(source, strangePort)
		injector.Send(d.Layers()...)
		source = source.Next()
	}
	host.Settle(t, n.Replication, n.Server.Eth1)
	talk.Stop()
	wire.WantBy(t, n.Server, c, true)

	// A few find all their places in the table taken.
	const least = manyFlows * 99 / 100
	if count := p.Status().Flows.Count; count < least {
		t.Fatalf("%d flows, not %d", count, least)
	}
	for range 3 {
		if flows := p.Metrics().Sum("replypath_flows"); flows < least {
			t.Fatalf("the metrics show %v flows, not %d", flows, least)
		}
	}
	// plan then looks for what needs the rule among all flows.
	host.Shell(t, n.Server.Host, fmt.Sprintf("ip route add default via %s table 101; ip rule add pref 100 from %s lookup 101",
		n.Server.Eth1.Gateway(topology.IPv4), n.Server.Eth1.Address(topology.IPv4)))
	between := []string{"explain", "--peer", c.Peer.Addr().String(), "--self", c.Self.Addr().String()} // looks through all tables
	for _, args := range [][]string{{"status"}, {"doctor"}, {"plan"}, between, {"flows"}, {"flows", "--sort", "bytes"}, {"flows", "--sort", "corrected", "--limit", "100"}, {"flows", "--asymmetric"}, {"flows", "-o", "json"}} {
		wantLittle(t, p, args)
	}
	// Many are listed as they are read, fewer in order, and by another order the first of them.
	if listed := p.Flows(); len(listed) < least {
		t.Fatalf("%d flows are listed, not %d", len(listed), least)
	}
	if sorted := p.Expect(0, "flows", "--sort", "age", "-o", "json"); !strings.Contains(sorted.Stderr, "these are the first 16384 of ") {
		t.Errorf("it is not said that these are not all: %s", sorted.Stderr)
	}
	if youngest := p.Flows("--sort", "age", "--limit", "40000"); len(youngest) != 16384 || !slices.IsSortedFunc(youngest, youngerFirst) {
		t.Errorf("%d flows are listed by age, from %v", len(youngest), youngest[0])
	}
	listed := p.Flows("--peer", "198.18.0.0/18")
	inOrder := func(a, b product.Flow) int {
		return netip.MustParseAddr(a.Peer).Compare(netip.MustParseAddr(b.Peer))
	}
	if udp := slices.DeleteFunc(listed, func(f product.Flow) bool { return f.Protocol != "udp" }); !slices.IsSortedFunc(udp, inOrder) {
		t.Error("flows are not listed in the order of their peers")
	}
	for _, figure := range []string{"VmRSS", "VmHWM"} {
		size := daemon.Memory(figure)
		t.Logf("%s: %.1f MiB", figure, float64(size)/(1<<20))
		if size > mostBytes {
			t.Errorf("%s is %d bytes, not within %d", figure, size, mostBytes)
		}
	}
}

func youngerFirst(a, b product.Flow) int { return cmp.Compare(a.AgeSeconds, b.AgeSeconds) }

// wantLittle runs a command, and looks at what it takes until it ends.
func wantLittle(t *testing.T, p *product.Product, args []string) {
	t.Helper()
	c := p.Command(t.Context(), args...)
	await.Must(t, c.Start())
	var most uint64
	pace := time.NewTicker(await.Poll)
	defer pace.Stop()
	for ; ; <-pace.C {
		size, err := product.Memory(c.Process.Pid, "VmHWM")
		if err != nil { // it has ended
			break
		}
		most = size
	}
	await.Must(t, c.Wait())
	t.Logf("%q: %.1f MiB", args, float64(most)/(1<<20))
	if most > mostBytes {
		t.Errorf("%q takes %d bytes, not within %d", args, most, mostBytes)
	}
}
