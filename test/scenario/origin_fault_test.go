// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"context"
	"errors"
	"fmt"
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
	"replypath/test/short"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// eth1Fault is a way in which the interface of the source goes.
type eth1Fault struct {
	name, reason string
	begin, end   func(*testing.T, *topology.S1)
	takesAddress bool // for as long as it lasts: by IPv6 eth1 loses it, and nothing new can begin from it
}

var eth1Faults = []eth1Fault{
	{name: "carrier lost", reason: "link_down", begin: func(t *testing.T, s *topology.S1) {
		await.Must(t, s.B.Eth1.Peer().SetDown())
		awaitNoCarrier(t, s.B.Eth1)
	}, end: func(t *testing.T, s *topology.S1) { setUpAgain(t, s.B.Eth1.Peer()) }},
	{name: "set down", reason: "link_down", takesAddress: true,
		begin: func(t *testing.T, s *topology.S1) { await.Must(t, s.B.Eth1.SetDown()) },
		end:   func(t *testing.T, s *topology.S1) { setUpAgain(t, s.B.Eth1) }},
	{name: "gateway silent", reason: "no_next_hop", begin: func(t *testing.T, s *topology.S1) {
		fallSilent(t, s.B.Eth1)
	}, end: func(t *testing.T, s *topology.S1) {
		speakAgain(t, s.B.Eth1)
		for _, f := range s.Families() { // it asks for B before the daemon asks for it again, which is within 5 s
			_, err := s.Replication.Ping(await.Within(t, await.AnswerTime), topology.Echo{To: s.B.Eth1.Address(f)})
			await.Must(t, err)
		}
	}},
}

// fallSilent has the gateway of an uplink fall silent, and the kernel ask for it, which soon gives up.
func fallSilent(t *testing.T, uplink *topology.Interface) {
	t.Helper()
	gateway := uplink.Peer()
	host.Nft(t, gateway.Host, silenceOf(gateway.Name))
	for _, f := range traffic.Families {
		await.Must(t, uplink.Host.SetSysctl("net/"+f.String()+"/neigh/"+uplink.Name+"/retrans_time_ms", "100"))
		host.Shell(t, uplink.Host, fmt.Sprintf("ip neighbour change %s lladdr %s dev %s nud probe",
			gateway.Address(f), gateway.MAC, uplink.Name))
	}
}

// silenceOf has a router answer, by an interface, no question for its MAC address, and ask none, from which B would
// learn it.
func silenceOf(device string) string {
	return strings.ReplaceAll(`
table arp silence {
	chain input { type filter hook input priority 0; iifname "DEVICE" drop; }
	chain output { type filter hook output priority 0; oifname "DEVICE" drop; }
}
table ip6 silence {
	chain input {
		type filter hook input priority 0
		iifname "DEVICE" icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } drop
	}
	chain output {
		type filter hook output priority 0
		oifname "DEVICE" icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } drop
	}
}
`, "DEVICE", device)
}

// speakAgain has it answer again, and forget whom it knew.
func speakAgain(t *testing.T, uplink *topology.Interface) {
	t.Helper()
	gateway := uplink.Peer()
	host.Nft(t, gateway.Host, "delete table arp silence\ndelete table ip6 silence\n")
	host.Shell(t, gateway.Host, "ip neighbour flush dev "+gateway.Name)
}

// setUpAgain gives back the addresses as well that IPv6 takes off what is down, as a network manager does.
func setUpAgain(t *testing.T, i *topology.Interface) {
	t.Helper()
	await.Must(t, i.SetUp())
	present := await.Must1[*topology.Interface](t)(i.Host.Interface(i.Name))
	for _, address := range i.Addresses {
		if !slices.Contains(present.Addresses, address) {
			await.Must(t, i.AddAddress(address))
		}
	}
	await.Must(t, i.WaitReady(await.Within(t, await.AnswerTime)))
}

// TestStrongHostFaultOfEth1 has eth1 fail while B talks from its address: what cannot be moved goes as routed,
// counted with the reason, until eth1 is back. What eth0 carries goes on.
func TestStrongHostFaultOfEth1(t *testing.T) {
	s := newBeginner(t, topology.StrictSource)
	traffic.ServeNICs(t, s.A.Eth0)
	p, _ := product.StartOn(t, s.B.Host, "--config", product.WriteConfig(t, strongHost(s)))
	awaitResolved(t, p)
	sampledBegun(t, s, "strong", func(t *testing.T, c *traffic.Conversation) { wantBegun(t, s, c) })
	for _, fault := range eth1Faults {
		if short.Run(t) && fault.takesAddress {
			continue // TestStrongHostAddressBack has that
		}
		t.Run(fault.name, func(t *testing.T) { fault.test(t, s, p.In(t)) })
	}
}

func (fault *eth1Fault) test(t *testing.T, s *topology.S1, p *product.Product) {
	open, undisturbed := openFromEth1(t, s, s.Families()...), keepEth0(t, s)
	routed := func() float64 {
		return p.Metrics().Sum("replypath_originated_routed_packets_total", "reason="+fault.reason)
	}
	before := routed()
	fault.begin(t, s)
	if !fault.takesAddress {
		for n := range s.Families() {
			fault.await(t, s, open[n*len(traffic.Kinds)])
		}
		sampledBegun(t, s, "begun meanwhile", func(t *testing.T, c *traffic.Conversation) { fault.wantRouted(t, s, p.In(t), c) })
	}
	fault.wantOpenRouted(t, s, p, open)
	fault.end(t, s)
	for _, f := range s.Families() {
		awaitAnswer(t, fromEth1(t, s, traffic.Ping, f))
	}
	wires := wire.Tap(t, s.B)
	for _, c := range open {
		traffic.Ask(t, c)
		wires.WantEth1(c.String()+", which is older", c.Questions())
	}
	sampledBegun(t, s, "afterwards", func(t *testing.T, c *traffic.Conversation) { wantBegun(t, s, c) })
	t.Logf("%v packets went as routed, counted as %s", routed()-before, fault.reason)
	undisturbed()
}

// await returns when a question goes as routed.
func (fault *eth1Fault) await(t *testing.T, s *topology.S1, c *traffic.Conversation) {
	t.Helper()
	await.Eventually(t, c.String()+" goes as routed", func() error { return askByEth0(t, s, c) })
}

// wantOpenRouted wants what is open to go as routed: last of all, as TCP tries again the later, the
// longer it has had no answer.
func (fault *eth1Fault) wantOpenRouted(t *testing.T, s *topology.S1, p *product.Product, open []*traffic.Conversation) {
	t.Helper()
	for n, f := range s.Families() {
		of := open[n*len(traffic.Kinds):][:len(traffic.Kinds)]
		if fault.takesAddress && f == topology.IPv6 {
			p.AwaitOwn(s.B.Eth1.Address(f), false, time.Now())
			wantGone(t, s, p, of)
			continue
		}
		fault.await(t, s, of[0])
		for _, c := range of {
			fault.wantRouted(t, s, p, c)
		}
	}
}

// wantRouted wants a question to leave by eth0, where a strict router drops it, and to be counted with the reason and
// no other.
func (fault *eth1Fault) wantRouted(t *testing.T, s *topology.S1, p *product.Product, c *traffic.Conversation) {
	t.Helper()
	family := topology.FamilyOf(c.Self.Addr()).String()
	labels := []string{"from_interface=eth0", "to_interface=eth1", "family=" + family, "protocol=" + c.Protocol()}
	count := func() (outcome, reason, all float64) {
		m := p.Metrics()
		return m.Sum("replypath_originated_packets_total", append(labels, "outcome=routed")...),
			m.Sum("replypath_originated_routed_packets_total", append(labels, "reason="+fault.reason)...),
			m.Sum("replypath_originated_routed_packets_total", labels...)
	}
	outcomeBefore, reasonBefore, allBefore := count()
	wantBegunLost(t, s, c)
	outcome, reason, all := count()
	outcome, reason, all = outcome-outcomeBefore, reason-reasonBefore, all-allBefore
	if reason == 0 || reason != all || outcome != all {
		t.Errorf("%s: %v packets are routed, %v of them with a reason, %v with %s", c, outcome, all, reason, fault.reason)
	}
}

// keepEth0 has B talk from eth0's address until the function is called, which wants every question answered, by eth0.
func keepEth0(t *testing.T, s *topology.S1) func() {
	t.Helper()
	wires := wire.Tap(t, s.B)
	var all []*traffic.Conversation
	var talks []*traffic.Talk
	for _, f := range s.Families() {
		c := traffic.NewConversation(t, traffic.TCP, s.B.Eth0, s.A.Eth0.Address(f))
		all, talks = append(all, c), append(talks, c.Keep(t))
	}
	return func() {
		t.Helper()
		answers := 0
		for n, talk := range talks {
			answers += talk.Stop()
			wires.WantEth0(all[n].String()+", of eth0", all[n].Questions())
		}
		t.Logf("%d answers to what B asked from eth0 meanwhile, none missing", answers)
	}
}

// passing are addresses of eth1 that come and go, on its network and on another.
var passing = map[topology.Family][]netip.Prefix{
	topology.IPv4: {netip.MustParsePrefix("10.4.0.20/24"), netip.MustParsePrefix("10.44.0.1/24")},
	topology.IPv6: {netip.MustParsePrefix("2001:db8:4::20/64"), netip.MustParsePrefix("2001:db8:44::1/64")},
}

// openFromEth1 are conversations that B has begun from eth1's address, one of each kind.
func openFromEth1(t *testing.T, s *topology.S1, families ...topology.Family) []*traffic.Conversation {
	t.Helper()
	all := conversations(t, s.B.Eth1, s.A.Eth1, families...)
	for _, c := range all {
		traffic.Ask(t, c)
	}
	return all
}

// TestStrongHostAddressBack has B talk from eth1's address while others of eth1's come and go, and then that one
// itself. Without it B begins nothing from there: IPv4 sends nothing, by IPv6 what is open goes as routed, uncounted.
// An address that goes to the other interface takes its way with it.
func TestStrongHostAddressBack(t *testing.T) {
	s := newBeginner(t, topology.StrictSource)
	sampledBegun(t, s, "without replypath", func(t *testing.T, c *traffic.Conversation) { wantBegunLost(t, s, c) })
	p, _ := product.StartOn(t, s.B.Host, "--config", product.WriteConfig(t, strongHost(s)))
	awaitResolved(t, p)
	t.Run("others come and go", func(t *testing.T) { othersComeAndGo(t, s, p.In(t)) })
	for _, f := range s.Families() {
		t.Run("gone/"+f.String(), func(t *testing.T) { goneAndBack(t, s, p.In(t), f) })
	}
	sampledBegun(t, s, "back", func(t *testing.T, c *traffic.Conversation) {
		before := p.Metrics() // what was asked until the gateway had answered again may have gone as routed
		wantBegun(t, s, c)
		wantOriginatedSince(t, before, p, c, "moved")
	})
	t.Run("moves", func(t *testing.T) { addressMoves(t, s) })
}

// othersComeAndGo wants what is open to keep its way meanwhile.
func othersComeAndGo(t *testing.T, s *topology.S1, p *product.Product) {
	wires, open := wire.Tap(t, s.B), openFromEth1(t, s, s.Families()...)
	var talks []*traffic.Talk
	for _, c := range open {
		talks = append(talks, c.KeepThrough(t))
	}
	for _, f := range s.Families() {
		for _, other := range passing[f] {
			await.Must(t, s.B.Eth1.AddAddress(other))
			p.AwaitOwn(other.Addr(), true, time.Now())
			await.Must(t, s.B.Eth1.RemoveAddress(other))
			p.AwaitOwn(other.Addr(), false, time.Now())
		}
	}
	answers := 0
	for n, talk := range talks {
		answers += talk.Stop()
		wires.WantEth1(open[n].String(), open[n].Questions())
	}
	t.Logf("%d answers to %d conversations while %d addresses came and went", answers, len(open), 2*len(passing[topology.IPv4]))
}

// goneAndBack removes eth1's own address, and puts it back.
func goneAndBack(t *testing.T, s *topology.S1, p *product.Product, f topology.Family) {
	all := s.B.Eth1.Addresses
	own := all[slices.IndexFunc(all, func(a netip.Prefix) bool { return topology.FamilyOf(a.Addr()) == f })]
	open := openFromEth1(t, s, f)
	await.Must(t, s.B.Eth1.RemoveAddress(own))
	gone := p.AwaitOwn(own.Addr(), false, time.Now())
	wantGone(t, s, p, open)
	err := fromEth1(t, s, traffic.UDP, f).Connect(await.Within(t, await.AnswerTime))
	if !errors.Is(err, unix.EADDRNOTAVAIL) {
		t.Errorf("B begins from an address that it does not have: %v", err)
	}
	await.Must(t, s.B.Eth1.AddAddress(own))
	back := p.AwaitOwn(own.Addr(), true, time.Now())
	awaitAnswer(t, fromEth1(t, s, traffic.Ping, f)) // the kernel has forgotten the gateway with the last address of eth1
	t.Logf("%s: known as gone after %s, as back after %s", own, gone, back)
	wires := wire.Tap(t, s.B)
	for _, c := range open {
		traffic.Ask(t, c)
		wires.WantEth1(c.String()+", which is older", c.Questions())
	}
}

// addressMoves has an address go from one interface to the other, and back.
func addressMoves(t *testing.T, s *topology.S1) {
	address := netip.MustParsePrefix("10.4.0.7/32")
	for _, at := range []*topology.Interface{s.B.Eth1, s.B.Eth0, s.B.Eth1} {
		await.Must(t, at.AddAddress(address))
		to := netip.AddrPortFrom(s.A.Eth1.Address(topology.IPv4), traffic.EchoPort)
		from := topology.FromAddress(netip.AddrPortFrom(address.Addr(), 0))
		conn := await.Must1[net.Conn](t)(s.B.Dial(t.Context(), "udp", to.String(), from))
		await.Eventually(t, "the way is that of "+at.Name, func() error {
			exits := wire.TapAll(t, at)
			await.Must1[int](t)(conn.Write([]byte("question")))
			ctx, cancel := context.WithTimeout(t.Context(), 4*await.SilenceTime)
			defer cancel()
			_, err := exits.At(at).Wait(ctx, topology.All(topology.From(address.Addr()), topology.Going(topology.Received)))
			return err
		})
		await.Must(t, conn.Close())
		await.Must(t, at.RemoveAddress(address))
	}
}

// wantGone wants what is open to be lost, as the kernel alone would have it, and not to count as originated.
func wantGone(t *testing.T, s *topology.S1, p *product.Product, open []*traffic.Conversation) {
	t.Helper()
	f := topology.FamilyOf(open[0].Self.Addr())
	originated := func() float64 { return p.Metrics().Sum("replypath_originated_packets_total", "family="+f.String()) }
	if f == topology.IPv6 {
		await.Eventually(t, open[0].String()+" is of no address of the host", func() error {
			before := originated()
			err := askByEth0(t, s, open[0])
			if more := originated() - before; err == nil && more > 0 {
				err = fmt.Errorf("%v packets count as originated", more)
			}
			return err
		})
	}
	for _, c := range open {
		before, wires := originated(), wire.Tap(t, s.B)
		if f == topology.IPv6 {
			if err := wire.AskUntilLost(t, c, wires.Eth0, c.Questions()); err == nil {
				t.Errorf("%s was answered", c)
			}
			wires.WantEth0(fmt.Sprintf("%s without its address", c), c.Questions())
		} else {
			err := c.Ask(await.Within(t, 4*await.SilenceTime))
			if eth0, eth1 := wires.Left(c.Questions()); err == nil || len(eth0)+len(eth1) > 0 {
				t.Errorf("%s: %d and %d frames left without its address: %v", c, len(eth0), len(eth1), err)
			}
		}
		if more := originated() - before; more > 0 {
			t.Errorf("%s: %v packets count as originated without its address", c, more)
		}
	}
}

// askByEth0 asks, and returns an error if nothing leaves by eth0.
func askByEth0(t *testing.T, s *topology.S1, c *traffic.Conversation) error {
	t.Helper()
	wires := wire.Tap(t, s.B)
	defer wires.Stop()
	err := c.Ask(await.Within(t, await.SilenceTime))
	if eth0, _ := wires.Left(c.Questions()); len(eth0) == 0 {
		return fmt.Errorf("%s: no frame left by eth0, and the question ended with %w", c, err)
	}
	return nil
}
