// SPDX-License-Identifier: Apache-2.0

// Package bigtables has the product on hosts with large routing tables that change all the time, as routers
// with BGP have them, and with hundreds of interfaces that come and go, as container hosts have them.
package bigtables

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
)

func TestMain(m *testing.M) { product.Main(m) }

const (
	// figuresVariable, if set, has the figures measured, which takes minutes.
	figuresVariable = "REPLYPATH_BIG_TABLES"
	changesEach     = 50 // a second
	changesFor      = 20 * time.Second
	startsFor       = 5 * time.Second // for so long the daemon is busy with its start

	// What is wanted of all sizes.
	mostBusy   = 0.02 // of one processor
	mostMemory = 40 << 20
	mostReady  = time.Second
	mostBridge = time.Second
)

// TestFigures measures the daemon beside routing tables of three sizes.
func TestFigures(t *testing.T) {
	needFigures(t)
	for _, size := range []struct{ v4, v6 int }{{2_000, 200}, {100_000, 10_000}, {1_000_000, 200_000}} {
		t.Run(strconv.Itoa(size.v4+size.v6), func(t *testing.T) { measure(t, size.v4, size.v6) })
	}
}

const (
	scrapeEvery = 10 * time.Second // twice as often as Prometheus does by default, nearly
	mostScrape  = time.Second
	mostHealthz = 100 * time.Millisecond
	manyFlows   = 200_000
)

// TestScrapes has the daemon be scraped, and asked for its health each second, beside the routes of the Internet, which change, and
// as many flows as its tables have room for.
func TestScrapes(t *testing.T) {
	n := traffic.NewTwoNIC(t, topology.TwoNICOptions{})
	await.Must(t, n.Server.SetSysctl("net/ipv6/route/max_size", "4000000"))
	eth0 := n.Server.Eth0.Peer()
	s := newSpeaker(t, n.Server.Host, n.Server.Eth0, eth0.Address(topology.IPv4), eth0.Address(topology.IPv6))
	s.send("add", topology.IPv4, 0, 1_000_000)
	s.send("add", topology.IPv6, 0, 200_000)
	p := product.On(t, n.Server.Host)
	d := p.Start()
	fill(t, n)
	if flows := p.Metrics().Sum("replypath_flows"); flows < manyFlows*0.99 {
		t.Fatalf("%v flows, not %d", flows, manyFlows)
	}
	times := map[string]time.Duration{}
	get := func(path string) {
		begun := time.Now()
		if _, err := p.Get(path); err != nil {
			t.Error(err)
		}
		times[path] = max(times[path], time.Since(begun))
	}
	ctx, cancel := context.WithCancel(t.Context())
	asked := make(chan struct{})
	go func() {
		defer close(asked)
		for begun := time.Now(); ctx.Err() == nil; {
			get("/healthz")
			if time.Since(begun) > scrapeEvery {
				get("/metrics")
				begun = time.Now()
			}
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
	}()
	busy := busyWhileChanging(t, d, s)
	cancel()
	<-asked
	memory := d.Memory("VmHWM")
	t.Logf("1200000 routes, %d flows: %.1f %% of a processor at %d changes a second and a scrape each %s, at most %d MiB; a scrape %s, /healthz %s at most",
		manyFlows, 100*busy, changesEach, scrapeEvery, memory>>20, times["/metrics"].Round(time.Millisecond), times["/healthz"].Round(time.Millisecond))
	if busy > mostBusy || memory > mostMemory || times["/metrics"] > mostScrape || times["/healthz"] > mostHealthz {
		t.Errorf("wanted: at most %.0f %%, %d MiB, %s, %s", 100*mostBusy, mostMemory>>20, mostScrape, mostHealthz)
	}
}

// fill has datagrams of so many sources come in by eth1 for a port that answers nobody.
func fill(t *testing.T, n *topology.TwoNIC) {
	t.Helper()
	injector := traffic.NewInjector(t, n.Server.Eth1.Peer())
	d := traffic.Datagram{
		FromMAC: n.Server.Eth1.Peer().MAC, ToMAC: n.Server.Eth1.MAC,
		To: netip.AddrPortFrom(n.Server.Eth1.Address(topology.IPv4), traffic.EchoPort),
	}
	source := netip.MustParseAddr("198.18.0.1") // RFC 2544: for such tests
	for range manyFlows {
		d.From = netip.AddrPortFrom(source, 4000)
		injector.Send(d.Layers()...)
		source = source.Next()
	}
	host.Settle(t, n.Replication, n.Server.Eth1)
}

func needFigures(t *testing.T) {
	t.Helper()
	if os.Getenv(figuresVariable) == "" {
		t.Skipf("this takes minutes: set %s, or run make bench-tables", figuresVariable)
	}
}

// measure has a daemon start beside so many routes, watches it while they change, and takes the default routes away.
func measure(t *testing.T, v4, v6 int) {
	n := traffic.NewTwoNIC(t, topology.TwoNICOptions{})
	gateways := []netip.Addr{n.Server.Eth0.Peer().Address(topology.IPv4), n.Server.Eth0.Peer().Address(topology.IPv6)}
	await.Must(t, n.Server.SetSysctl("net/ipv6/route/max_size", "4000000"))
	s := newSpeaker(t, n.Server.Host, n.Server.Eth0, gateways...)
	s.send("add", topology.IPv4, 0, v4)
	s.send("add", topology.IPv6, 0, v6)
	d := product.On(t, n.Server.Host).Start()
	busy := busyWhileChanging(t, d, s)
	conversation := traffic.NewConversation(t, traffic.UDP, n.ClientEth0, n.Server.Eth1.Address(topology.IPv4))
	await.Must(t, conversation.Ask(await.Within(t, await.AnswerTime)))
	for _, gateway := range gateways {
		await.Must(t, n.Server.RemoveRoute(topology.Route{Via: gateway}))
	}
	bridged := timeToAnswer(t, conversation)
	memory := d.Memory("VmHWM")
	t.Logf("%d routes: %.1f %% of a processor at %d changes a second, ready after %.2f s, RSS %d MiB, at most %d MiB, lost default routes bridged after %s",
		v4+v6, 100*busy, changesEach, d.ReadyAfter.Seconds(), d.Memory("VmRSS")>>20, memory>>20, bridged.Round(time.Millisecond))
	if busy > mostBusy || d.ReadyAfter > mostReady || memory > mostMemory || bridged > mostBridge {
		t.Errorf("wanted: at most %.0f %%, %s, %d MiB, %s", 100*mostBusy, mostReady, mostMemory>>20, mostBridge)
	}
}

// busyWhileChanging returns the share of a processor that the daemon takes, once the work of its start is done.
func busyWhileChanging(t *testing.T, d *product.Daemon, s *speaker) float64 {
	t.Helper()
	change := func(length time.Duration) {
		ctx, cancel := context.WithTimeout(t.Context(), length)
		defer cancel()
		changes := s.change(ctx, changesEach)
		if wanted := int(length.Seconds() * changesEach * 0.8); changes < wanted {
			t.Fatalf("%d changes, %d were wanted", changes, wanted)
		}
	}
	change(startsFor)
	begun, before := time.Now(), processorTime(t, d)
	change(changesFor)
	return (processorTime(t, d) - before).Seconds() / time.Since(begun).Seconds()
}

// timeToAnswer is how long it takes until a question is answered. One that is lost is repeated soon.
func timeToAnswer(t *testing.T, c *traffic.Conversation) time.Duration {
	t.Helper()
	begun := time.Now()
	await.Eventually(t, "an answer", func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		return c.Ask(ctx)
	})
	return time.Since(begun)
}

// processorTime is what the daemon has taken of the processors.
func processorTime(t *testing.T, d *product.Daemon) time.Duration {
	t.Helper()
	text := string(await.Must1[[]byte](t)(os.ReadFile(fmt.Sprintf("/proc/%d/stat", d.PID()))))
	fields := strings.Fields(text[strings.LastIndex(text, ")")+1:])
	var ticks int
	for _, field := range fields[11:13] { // utime and stime
		ticks += await.Must1[int](t)(strconv.Atoi(field))
	}
	return time.Duration(ticks) * time.Second / 100 // USER_HZ
}

const (
	containers   = 500
	comeEach     = 20 // a second, each for one that goes
	mostBusyHost = 0.5
)

// TestContainers has interfaces come and go, as those of containers do.
func TestContainers(t *testing.T) {
	needFigures(t)
	n := traffic.NewTwoNIC(t, topology.TwoNICOptions{})
	host := n.Server.Host
	for c := range containers {
		await.Must(t, start(host, c))
	}
	conversation := traffic.NewConversation(t, traffic.UDP, n.ClientEth0, n.Server.Eth1.Address(topology.IPv4))
	begun := time.Now()
	d := product.On(t, host).Launch()
	answered := timeToAnswer(t, conversation) // no router lets the reply through that leaves by eth0
	d.WaitReady()
	ctx, cancel := context.WithTimeout(t.Context(), changesFor)
	defer cancel()
	settled, before := time.Now(), processorTime(t, d)
	comeAndGo(ctx, t, host)
	busy := (processorTime(t, d) - before).Seconds() / time.Since(settled).Seconds()
	t.Logf("%d interfaces: first corrected reply after %.2f s, ready after %.2f s, %.1f %% of a processor while %d a second come and go",
		containers, answered.Seconds(), settled.Sub(begun).Seconds(), 100*busy, comeEach)
	if answered > mostReady || busy > mostBusyHost {
		t.Errorf("wanted: %s, %.0f %%", mostReady, 100*mostBusyHost)
	}
}

// start makes the interface of a container.
func start(host *topology.Host, container int) error {
	attributes := netlink.NewLinkAttrs()
	attributes.Name, attributes.Flags = fmt.Sprintf("c%d", container), 1 // up
	return host.Netlink().LinkAdd(&netlink.Veth{LinkAttrs: attributes, PeerName: fmt.Sprintf("p%d", container)})
}

// comeAndGo has the oldest container end for each that starts, until ctx ends.
func comeAndGo(ctx context.Context, t *testing.T, host *topology.Host) {
	t.Helper()
	tick := time.NewTicker(time.Second / comeEach)
	defer tick.Stop()
	for c := containers; ; c++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		link := await.Must1[netlink.Link](t)(host.Netlink().LinkByName(fmt.Sprintf("c%d", c-containers)))
		await.Must(t, host.Netlink().LinkDel(link))
		await.Must(t, start(host, c))
	}
}
