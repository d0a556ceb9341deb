// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/product"
	"replypath/test/short"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// eth0Fault is a way in which the production NIC goes, or what is behind it.
type eth0Fault struct {
	name       string
	begin, end func(*testing.T, *topology.S1, *product.Product)
	noRoute    bool // the kernel has no route but the fallback route
}

var eth0Faults = []eth0Fault{
	{name: "carrier lost", begin: func(t *testing.T, s *topology.S1, _ *product.Product) {
		await.Must(t, s.B.Eth0.Peer().SetDown())
		awaitNoCarrier(t, s.B.Eth0)
	}, end: func(t *testing.T, s *topology.S1, p *product.Product) {
		setUpAgain(t, s.B.Eth0.Peer())
		awaitGateways(t, p, "eth0", "held", false) // until then what is opened by it is refused
	}},
	{name: "set down", noRoute: true, begin: func(t *testing.T, s *topology.S1, _ *product.Product) {
		await.Must(t, s.B.Eth0.SetDown())
	}, end: func(t *testing.T, s *topology.S1, _ *product.Product) {
		setUpAgain(t, s.B.Eth0)
		addDefaults(t, s)
	}},
	{name: "default route removed", noRoute: true, begin: removeDefaults,
		end: func(t *testing.T, s *topology.S1, _ *product.Product) { addDefaults(t, s) }},
	{name: "gateway silent", begin: func(t *testing.T, s *topology.S1, p *product.Product) {
		fallSilent(t, s.B.Eth0)
		awaitGateways(t, p, "eth0", "held", true)
	}, end: func(t *testing.T, s *topology.S1, p *product.Product) {
		speakAgain(t, s.B.Eth0)
		awaitGateways(t, p, "eth0", "held", false)
	}},
}

func removeDefaults(t *testing.T, s *topology.S1, _ *product.Product) {
	t.Helper()
	for _, f := range s.Families() {
		await.Must(t, s.B.RemoveRoute(topology.Route{Via: s.B.Eth0.Gateway(f)}))
	}
}

func addDefaults(t *testing.T, s *topology.S1) {
	t.Helper()
	await.Must(t, s.B.AddDefault(s.B.Eth0.Gateway(topology.IPv4), s.B.Eth0.Gateway(topology.IPv6)))
}

// awaitNoCarrier returns when the host knows that the cable is dead.
func awaitNoCarrier(t *testing.T, i *topology.Interface) {
	t.Helper()
	await.Eventually(t, i.Name+" has lost its carrier", func() error {
		link, err := i.Link()
		if err == nil && link.Attrs().OperState == netlink.OperUp {
			err = errors.New("it is up")
		}
		return err
	})
}

// awaitGateways returns when all gateways of an interface have a state, or none has.
func awaitGateways(t *testing.T, p *product.Product, of, state string, want bool) {
	t.Helper()
	await.Eventually(t, fmt.Sprintf("the gateways of %s are %s: %t", of, state, want), func() error {
		for _, i := range p.Status().Interfaces {
			for _, g := range i.Gateways {
				if i.Name == of && (g.State == state) != want {
					return fmt.Errorf("%s is %s", g.Address, g.State)
				}
			}
		}
		return nil
	})
}

// translated is S1 where B forwards for three addresses behind it: one is translated to eth1's address, one to others of
// eth1's, and one to that of eth0 for as long as it leaves there. Other masks are in test/faults.
type translated struct {
	*poolNetwork
	single, pool, masked *topology.Interface
}

func newTranslated(t *testing.T) *translated {
	t.Helper()
	s := newBeginner(t, topology.StrictSource)
	eth0 := hostBehind(t, s)
	n := &translated{poolNetwork: &poolNetwork{S1: s, inside: eth0}, single: eth0}
	n.pool, n.masked = n.addInside(t, eth0, 1), n.addInside(t, eth0, 2)
	await.Must(t, eth0.WaitReady(await.Within(t, await.AnswerTime)))
	var rules strings.Builder
	for _, f := range s.Families() {
		traffic.Serve(t, s.A.Host, s.A.Eth0.Address(f))
		n.addPool(t, s.B.Eth1, f)
		ip := map[topology.Family]string{topology.IPv4: "ip", topology.IPv6: "ip6"}[f]
		own := s.B.Eth1.Address(f)
		fmt.Fprintf(&rules, "%s saddr %s snat to %s\n", ip, n.single.Address(f), own)
		fmt.Fprintf(&rules, "%s saddr %s oifname eth0 masquerade\n", ip, n.masked.Address(f))
		fmt.Fprintf(&rules, "%s saddr %s snat to %s-%s\n", ip, n.pool.Address(f), nth(own, 1), nth(own, poolAddresses-1))
	}
	host.Nft(t, s.B.Host, fmt.Sprintf(`table inet masks {
	chain outward {
		type nat hook postrouting priority srcnat
		%s
	}
}`, &rules))
	return n
}

// addInside gives the host behind B the address that comes so many after its first, and returns the interface with
// that one alone.
func (n *translated) addInside(t *testing.T, eth0 *topology.Interface, number int) *topology.Interface {
	t.Helper()
	another := *eth0
	another.Addresses = nil
	for _, first := range eth0.Addresses {
		address := netip.PrefixFrom(nth(first.Addr(), number), first.Bits())
		await.Must(t, eth0.AddAddress(address))
		another.Addresses = append(another.Addresses, address)
	}
	return &another
}

// ephemeral is what the ports of conversations lack to be of the kernel's choice, 32768 to 60999.
const ephemeral = 20000

// begin prepares conversations with an address of A's, one by TCP and UDP each in both families.
func (n *translated) begin(t *testing.T, from, to *topology.Interface) (all []*traffic.Conversation) {
	t.Helper()
	for _, f := range n.Families() {
		for _, kind := range []traffic.Kind{traffic.TCP, traffic.UDP} {
			c := traffic.NewConversation(t, kind, from, to.Address(f))
			if from.Host != n.B.Host { // from lower ports whoever is behind B may answer
				c.Peer = netip.AddrPortFrom(c.Peer.Addr(), c.Peer.Port()+ephemeral)
			}
			all = append(all, c)
		}
	}
	return all
}

// open is begin with the first question.
func (n *translated) open(t *testing.T, from, to *topology.Interface) []*traffic.Conversation {
	t.Helper()
	all := n.begin(t, from, to)
	for _, c := range all {
		traffic.Ask(t, c)
	}
	return all
}

// outward matches the questions of a conversation, under whatever address they left.
func outward(c *traffic.Conversation) topology.Filter {
	return topology.All(topology.To(c.Self.Addr()), topology.FromPort(c.Peer.Port()), topology.ToPort(c.Self.Port()))
}

// wantUnder wants the questions to have left by the uplink whose address they have.
func (n *translated) wantUnder(t *testing.T, wires *wire.Wires, uplink *topology.Interface, of []*traffic.Conversation) {
	t.Helper()
	for _, c := range of {
		for _, frame := range wires.Want(uplink == n.B.Eth1, c.String(), outward(c)) {
			if !isOf(uplink, frame.Source) {
				t.Errorf("%s left as %s", c, frame)
			}
		}
	}
}

// TestStrongHostFaultOfEth0 has B forward under addresses of eth1's: routing comes before the translation, so that no
// `ip rule` for the source sends it by eth1. Then eth0 fails: what B began from there goes on by eth1, although the kernel
// has no route to A but the fallback route. What is forwarded waits where there is none, and goes on afterwards.
func TestStrongHostFaultOfEth0(t *testing.T) {
	n := newTranslated(t)
	each := func(name string, want func(t *testing.T, s *topology.S1, c, seen *traffic.Conversation)) {
		sampled(t, n.Families(), name, func(t *testing.T, f topology.Family, kind traffic.Kind) {
			c := traffic.NewConversation(t, kind, n.single, n.A.Eth1.Address(f))
			want(t, n.S1, c, c.Masked(n.B.Eth1.Address(f)))
		})
	}
	each("without replypath", wantLostAs)
	p := product.On(t, n.B.Host)
	eth0 := n.B.Eth0 // that its gateway is named has what is up have a way without a default route
	named := fmt.Sprintf("eth0, gateways: [%s, %q]}", eth0.Gateway(topology.IPv4), eth0.Gateway(topology.IPv6))
	p.Start("--config", product.WriteConfig(t, strings.Replace(strongHost(n.S1), "eth0}", named, 1)))
	awaitResolved(t, p)
	each("strong", wantBegunAs)
	for i, fault := range eth0Faults {
		if short.Run(t) && i%2 == 1 {
			continue // an interface that is down, and a silent gateway, are like the others
		}
		t.Run(fault.name, func(t *testing.T) { fault.test(t, n, p.In(t)) })
	}
}

func (fault *eth0Fault) test(t *testing.T, n *translated, p *product.Product) {
	wires := wire.Tap(t, n.B)
	own, silentOwn := n.open(t, n.B.Eth1, n.A.Eth1), n.open(t, n.B.Eth1, n.A.Eth1)
	single, pool := n.open(t, n.single, n.A.Eth1), n.open(t, n.pool, n.A.Eth1)
	masked := n.open(t, n.masked, n.A.Eth0)
	kept, silent, waiting := own, silentOwn, slices.Concat(single, pool, masked)
	if !fault.noRoute {
		kept, silent, waiting = slices.Concat(own, single), slices.Concat(silentOwn, pool), nil
	}
	var talks []*traffic.Talk
	for _, c := range kept {
		if c.Kind == traffic.UDP { // as for pings: see KeepThrough
			talks = append(talks, c.KeepRepeating(t))
		} else {
			talks = append(talks, c.Keep(t))
		}
	}
	fault.begin(t, n.S1, p)
	for _, c := range silent {
		traffic.Ask(t, c)
	}
	var begun []*traffic.Conversation
	if fault.noRoute {
		n.awaitRules(t)
		n.wantWaiting(t, wires, slices.Concat(waiting, n.begin(t, n.single, n.A.Eth1)))
	} else {
		begun = n.open(t, n.single, n.A.Eth1)
	}
	meanwhile := openFromEth1(t, n.S1, n.Families()...)
	fault.end(t, n.S1, p)
	answers, pause := 0, time.Duration(0)
	for _, talk := range talks {
		answers += talk.Stop()
		pause = max(pause, talk.Pause())
	}
	goOn := slices.Concat(single, pool, masked)
	for _, c := range slices.Concat(silent, begun) {
		traffic.Ask(t, c)
	}
	for _, c := range goOn {
		await.Eventually(t, c.String()+" goes on", func() error { return c.Ask(await.Within(t, await.AnswerTime/2)) })
	}
	n.wantUnder(t, wires, n.B.Eth1, slices.Concat(own, silentOwn, single, pool, begun))
	n.wantUnder(t, wires, n.B.Eth0, masked)
	for _, c := range meanwhile {
		wires.WantEth1("what B began meanwhile", c.Questions())
	}
	t.Logf("%d answers to %d conversations, the longest pause %s; %d that were silent and %d that are forwarded go on",
		answers, len(kept), pause.Round(time.Microsecond), len(silent), len(goOn))
}

// awaitRules returns when B leads by rules alone what has no other route. Until then it forwards by table default as well.
func (n *translated) awaitRules(t *testing.T) {
	t.Helper()
	await.Eventually(t, "rules alone lead to the fallback route", func() error {
		routes := host.Shell(t, n.B.Host, "ip -4 route show table all proto 114")
		if strings.Contains(routes, "table default") {
			return errors.New(routes)
		}
		return nil
	})
}

// wantWaiting wants nothing of what is forwarded to leave while the kernel has no route for it.
func (n *translated) wantWaiting(t *testing.T, wires *wire.Wires, all []*traffic.Conversation) {
	t.Helper()
	for _, c := range all {
		before0, before1 := wires.Left(outward(c))
		if err := c.Ask(await.Within(t, 4*await.SilenceTime)); err == nil {
			t.Errorf("%s was answered", c)
		}
		eth0, eth1 := wires.Left(outward(c))
		if more := len(eth0) + len(eth1) - len(before0) - len(before1); more > 0 {
			t.Errorf("%s: %d frames left", c, more)
		}
	}
}
