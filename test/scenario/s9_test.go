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
	for _, nic := range []*topology.Interface{s.Instance.Eth0, s.Instance.Eth1} {
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
// address. Then the instance boots.
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
	p := product.On(t, s.Instance.Host)
	d := p.Start()
	s.wantEth1(t, traffic.Families, "with replypath", eth1.wantAnswers)
	balanced.each(t, ipv4, "a load balancer", eth1.wantAnswers)
	asking{client: s.ClientEth0, of: s.Instance.Eth0.Address}.answered(t, "eth0", eth0)
	s.page.Run(s.Instance.Host, "ARP")
	s.byEth0(t)
	asking{client: s.Other.Eth0, of: s.Instance.Eth1.Address}.answered(t, "another instance", eth1)
	s.reboot(t, p, d)
	s.wantEth1(t, traffic.Families, "after a reboot", eth1.wantAnswers)
}

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
	nics := []*topology.Interface{s.Instance.Eth0, s.Instance.Eth1}
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
	await.Eventually(t, "eth1 is served", func() error {
		if n := p.Metrics().Sum("replypath_interface_attached", "interface=eth1"); n != 2 {
			return fmt.Errorf("%v programs are attached there", n)
		}
		return nil
	})
	for _, f := range s.Families() {
		// Until then the kernel asks for the gateway's MAC, and for a second after each failure.
		await.Eventually(t, "eth0 answers", func() error {
			c := traffic.NewConversation(t, traffic.UDP, s.ClientEth0, s.Instance.Eth0.Address(f))
			return c.Ask(await.Within(t, time.Second))
		})
	}
}

// s9Agents are what the agents of clouds install, typed in for two subnets.
var s9Agents = map[string]struct {
	script string
	// answered are the families whose questions to eth1 it has answered without replypath.
	answered []topology.Family
	table    string // that has its default route by eth1
	owner    string // of its rules
}{
	// amazonlinux/amazon-ec2-net-utils, lib/lib.sh: the recipe's rules.
	"ec2-net-utils": {"", traffic.Families, "10001", "amazon-ec2-net-utils"},
	// NetworkManager, src/nm-cloud-setup/main.c, _nmc_mangle_connection.
	"nm-cloud-setup": {`
for priority in 30200 30400; do
	for address in 10.0.1.10 10.0.1.11; do ip rule add priority $priority from $address lookup $priority; done
	for address in 10.0.2.20 10.0.2.21; do ip rule add priority $((priority + 1)) from $address lookup $((priority + 1)); done
done
ip rule add priority 30350 lookup main suppress_prefixlength 0
ip route add 10.0.1.0/24 dev eth0 metric 10 table 30200
ip route add 10.0.2.0/24 dev eth1 metric 10 table 30201
ip route add default via 10.0.1.1 dev eth0 metric 10 table 30400
ip route add default via 10.0.2.1 dev eth1 metric 10 table 30401
`, ipv4, "30401", "nm-cloud-setup"},
	// canonical/cloud-init, cloudinit/sources/DataSourceEc2.py, _configure_policy_routing: by IPv6 no default route.
	"cloud-init": {`
for address in 10.0.2.20 10.0.2.21; do ip rule add from $address lookup 101 protocol static; done
ip route add 10.0.2.0/24 dev eth1 table 101
ip route add default via 10.0.2.1 dev eth1 table 101
ip route add default via 10.0.2.1 dev eth1 metric 200
for address in 2001:db8:2::20 2001:db8:2::21; do ip -6 rule add from $address lookup 101 protocol static; done
ip -6 route add 2001:db8:2::/64 dev eth1 table 101
`, ipv4, "101", ""},
	// Azure has no agent for this: MicrosoftDocs/SupportArticles-docs, multiple virtual network interfaces.
	"Azure's page": {`
ip rule add from 10.0.1.10 lookup 200; ip rule add to 10.0.1.10 lookup 200
ip route add 10.0.1.0/24 dev eth0 table 200; ip route add default via 10.0.1.1 dev eth0 table 200
for address in 10.0.2.20 10.0.2.21; do ip rule add from $address lookup 201; ip rule add to $address lookup 201; done
ip route add 10.0.2.0/24 dev eth1 table 201; ip route add default via 10.0.2.1 dev eth1 table 201
`, ipv4, "201", ""},
}

// TestS9Agents runs replypath beside what agents install, and in its place. Beside it, both families are answered
// right, whatever the agent does, and plan and doctor say whose the rules are, where only one agent makes such.
func TestS9Agents(t *testing.T) {
	for agent := range s9Agents {
		t.Run(agent, func(t *testing.T) { testS9Agent(t, 2, agent) })
	}
	t.Run("ec2-net-utils in one subnet", func(t *testing.T) { testS9Agent(t, 1, "ec2-net-utils") })
}

func testS9Agent(t *testing.T, subnets int, name string) {
	s, agent := newS9(t, subnets), s9Agents[name]
	script := agent.script
	if script == "" {
		script = s.page.Text("With ip rule", "sh")
	}
	host.Shell(t, s.Instance.Host, s.fit.Replace(script))
	eth0, eth1 := exitBy(s.Instance, s.Instance.Eth0), exitBy(s.Instance, s.Instance.Eth1)
	s.wantEth1(t, agent.answered, "the agent alone", eth1.wantAnswers)
	if len(agent.answered) == 1 {
		s.wantEth1(t, traffic.Families[1:], "the agent alone", eth0.wantLost)
	}
	p := product.On(t, s.Instance.Host)
	p.Start()
	s.wantEth1(t, traffic.Families, "beside it", eth1.wantAnswers)
	for _, a := range s.Instance.Eth1.Addresses {
		if a.Addr().Is4() {
			s.wantOwned(t, p, a.Addr().String()+" lookup "+agent.table, agent.owner)
		}
	}
	removeRules(t, s.Instance.Host)
	s.wantEth1(t, traffic.Families, "in its place", eth1.wantAnswers)
}

// wantOwned wants plan and doctor to say of a rule for an address whose it is, and that replies do not need it.
func (s s9) wantOwned(t *testing.T, p *product.Product, rest, owner string) {
	t.Helper()
	rule := p.Plan(0).Of("rule", "from "+rest)
	wantRule(t, rule, "not-needed", "replypath sends the replies")
	if product.OrEmpty(rule.Owner) != owner {
		t.Errorf("plan: %s is said to be of %q, not %q", rule.Rule, product.OrEmpty(rule.Owner), owner)
	}
	found := p.Examine().Of("needless-rules", "eth1").With("note", "from "+rest)
	if len(found) == 0 {
		t.Errorf("doctor does not say that the rule from %s is needless: %+v", rest, p.Examine().Of("needless-rules", ""))
	}
	for _, f := range found {
		if product.OrEmpty(f.Owner) != owner || f.Fix != nil {
			t.Errorf("doctor, of a rule of %q: %+v", owner, f)
		}
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
