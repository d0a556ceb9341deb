// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// s9 is the network with echo servers at all addresses of the instance.
type s9 struct {
	*topology.S9
	page *host.Recipe
	// fit makes what is typed for two subnets fit.
	fit *strings.Replacer
}

// newS9 has the instance's interfaces in one subnet, or in two.
func newS9(t *testing.T, subnets int) s9 {
	t.Helper()
	s := s9{page: host.ReadRecipe(t, "s9-cloud"), fit: strings.NewReplacer()}
	if subnets == 2 {
		s.S9 = traffic.Build(t, topology.NewS9)
	} else {
		s.S9 = traffic.Build(t, topology.NewS9OneSubnet)
		s.fit = strings.NewReplacer("10.0.2.", "10.0.1.", "2001:db8:2:", "2001:db8:1:")
	}
	for _, nic := range s.Instance.NICs() {
		for _, a := range nic.Addresses {
			traffic.Serve(t, s.Instance.Host, a.Addr())
		}
	}
	return s
}

// asked asks for an address, by someone beyond the fabric.
func (s s9) asked(t *testing.T, address netip.Addr, kind traffic.Kind, want want) {
	t.Helper()
	c := traffic.NewConversation(t, kind, s.ClientEth0, address)
	want(t, c, c.Answers())
}

// wantEth1 asks for all of eth1's addresses.
func (s s9) wantEth1(t *testing.T, families []topology.Family, name string, want want) {
	t.Helper()
	sampled(t, families, name, func(t *testing.T, f topology.Family, kind traffic.Kind) {
		for _, a := range s.Instance.Eth1.Addresses {
			if topology.FamilyOf(a.Addr()) == f {
				s.asked(t, a.Addr(), kind, want)
			}
		}
	})
}

// TestS9 asks for all addresses of an instance with two elastic interfaces, from beyond the fabric and from another
// instance. Without replypath those of eth1 are mute: the fabric drops what comes by eth0 with another interface's
// address. Then the instance boots, and has the rules that agents of clouds make.
func TestS9(t *testing.T) {
	for subnets := 1; subnets <= 2; subnets++ {
		t.Run(fmt.Sprintf("%d subnets", subnets), func(t *testing.T) { testS9(t, newS9(t, subnets)) })
	}
}

func testS9(t *testing.T, s s9) {
	// What a load balancer hands on for its own address the GCE guest agent makes local on eth1 by a route, and no
	// address (GoogleCloudPlatform/guest-agent, addLocalRoute). By IPv6 no server could bind to it.
	forwarded := netip.MustParseAddr("10.0.5.5")
	host.Shell(t, s.Instance.Host, "ip route add to local 10.0.5.5/32 scope host dev eth1 proto 66")
	await.Must(t, s.Assign(forwarded, s.Instance.Eth1))
	traffic.Serve(t, s.Instance.Host, forwarded)
	balanced := asking{client: s.ClientEth0, of: func(topology.Family) netip.Addr { return forwarded }}

	eth0, eth1 := exitBy(s.Instance, s.Instance.Eth0), exitBy(s.Instance, s.Instance.Eth1)
	s.wantEth1(t, traffic.Families, "without replypath", eth0.wantLost)
	balanced.each(t, ipv4, "a load balancer without replypath", eth0.wantLost)
	p, d := product.StartOn(t, s.Instance.Host)
	s.wantEth1(t, traffic.Families, "with replypath", eth1.wantAnswers)
	balanced.each(t, ipv4, "a load balancer", eth1.wantAnswers)
	asking{client: s.ClientEth0, of: s.Instance.Eth0.Address}.answered(t, "eth0", eth0)
	s.page.Run(s.Instance.Host, "ARP")
	s.byEth0(t)
	asking{client: s.Other.Eth0, of: s.Instance.Eth1.Address}.answered(t, "another instance", eth1)
	s.reboot(t, p, d)
	s.wantEth1(t, traffic.Families, "after a reboot", eth1.wantAnswers)
	p.Expect(0, "detach", "--stop")
	for whose, script := range map[string]string{"ec2-net-utils": s.page.Text("With ip rule", "sh"), "Azure's page": azureRules} {
		host.Shell(t, s.Instance.Host, s.fit.Replace(script))
		s.wantEth1(t, ipv4, "by the rules of "+whose, eth1.wantAnswers)
		p.Start()
		s.wantEth1(t, traffic.Families, "beside the rules of "+whose, eth1.wantAnswers)
		p.Expect(0, "detach", "--stop")
		removeRules(t, s.Instance.Host)
	}
}

// azureRules are of MicrosoftDocs/SupportArticles-docs, multiple virtual network interfaces: Azure has no agent for this.
const azureRules = `
ip rule add from 10.0.1.10 lookup 200; ip rule add to 10.0.1.10 lookup 200
ip route add 10.0.1.0/24 dev eth0 table 200; ip route add default via 10.0.1.1 dev eth0 table 200
for address in 10.0.2.20 10.0.2.21; do ip rule add from $address lookup 201; ip rule add to $address lookup 201; done
ip route add 10.0.2.0/24 dev eth1 table 201; ip route add default via 10.0.2.1 dev eth1 table 201
`

// byEth0 has the other instance ask for eth1's first addresses by its eth0: its own eth1 may be in their subnet.
func (s s9) byEth0(t *testing.T) {
	t.Helper()
	for _, f := range s.Families() {
		asked := s.Instance.Eth1.Address(f)
		await.Must(t, s.Other.AddRoute(topology.Route{
			Destination: netip.PrefixFrom(asked, asked.BitLen()), Via: s.Other.Eth0.Gateway(f), Interface: "eth0",
		}))
	}
}

// reboot leaves no process, nothing pinned, and interfaces without addresses: replypath starts before the agent gives
// them any.
func (s s9) reboot(t *testing.T, p *product.Product, d *product.Daemon) {
	t.Helper()
	d.Kill()
	p.Detach()
	nics := s.Instance.NICs()
	for _, nic := range nics {
		host.Shell(t, s.Instance.Host, "ip link set "+nic.Name+" down; ip addr flush dev "+nic.Name)
	}
	p.Start()
	for _, nic := range nics {
		await.Must(t, nic.SetUp())
		for _, a := range nic.Addresses {
			await.Must(t, nic.AddAddress(a))
		}
	}
	await.Must(t, s.AddDefaults(s.Instance))
	await.Must(t, s.WaitReady(t.Context()))
	await.Becomes(t, "programs at eth1", 2, func() float64 { return p.Metrics().Sum("replypath_interface_attached", "interface=eth1") })
	for _, f := range s.Families() {
		// Until then the kernel asks for the gateway's MAC, and for a second after each failure.
		await.Eventually(t, "eth0 answers", func() error {
			c := traffic.NewConversation(t, traffic.UDP, s.ClientEth0, s.Instance.Eth0.Address(f))
			return c.Ask(await.Within(t, time.Second))
		})
	}
}

// TestS9Floating has an address go from one instance's eth1 to the other's, and back. Each answers by eth1 for as
// long as it has the address. A connection that was open then is reset.
func TestS9Floating(t *testing.T) {
	s := newS9(t, 2)
	here, there := exitBy(s.Instance, s.Instance.Eth1), exitBy(s.Other, s.Other.Eth1)
	floating := asking{client: s.ClientEth0, of: s.Floating}
	s.float(t, nil, here.by)
	for _, f := range s.Families() {
		traffic.Serve(t, s.Instance.Host, s.Floating(f))
	}
	floating.lost(t, "without replypath", exitBy(s.Instance, s.Instance.Eth0))
	first, second := product.On(t, s.Instance.Host), product.On(t, s.Other.Host)
	first.Start()
	second.Start()
	floating.answered(t, "at the first", here)
	var open []*traffic.Conversation
	for _, f := range s.Families() {
		c := traffic.NewConversation(t, traffic.TCP, s.ClientEth0, s.Floating(f))
		traffic.Ask(t, c)
		open = append(open, c)
	}
	s.float(t, here.by, there.by)
	for _, f := range s.Families() {
		second.AwaitOwn(s.Floating(f), true, time.Now())
		traffic.Serve(t, s.Other.Host, s.Floating(f))
	}
	for _, c := range open {
		exits := wire.TapAll(t, there.nics...)
		if err := c.Ask(await.Within(t, await.AnswerTime)); !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("%s, of a connection that stayed behind: %v", c, err)
		}
		there.want(exits, "the reset of "+c.String(), topology.All(c.Answers(), topology.Flags(topology.RST, topology.RST)))
	}
	floating.answered(t, "at the other", there)
	s.float(t, there.by, here.by)
	for _, f := range s.Families() {
		first.AwaitOwn(s.Floating(f), true, time.Now())
	}
	floating.answered(t, "back at the first", here)
}

// float has the floating addresses go from one interface, or from none, to another.
func (s s9) float(t *testing.T, from, to *topology.Interface) {
	t.Helper()
	for _, f := range s.Families() {
		address := netip.PrefixFrom(s.Floating(f), s.Floating(f).BitLen())
		if from != nil {
			await.Must(t, from.RemoveAddress(address))
		}
		await.Must(t, to.AddAddress(address))
		await.Must(t, s.Assign(address.Addr(), to))
		product.AwaitAddress(t, to, address.Addr(), true)
	}
}
