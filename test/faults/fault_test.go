// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"fmt"
	"net/netip"
	"slices"
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

// fault is a way in which the production NIC, or what is behind it, goes.
type fault struct {
	name string
	// begin makes it happen and returns when the host has noticed.
	begin func(*bed)
	// end mends it, as whoever did it would.
	end func(*bed)
	// holds: the gateway's neighbour entry is held, no route has gone. Only a daemon can do that.
	holds bool
}

var faults = []fault{
	{name: "carrier lost", begin: (*bed).cutCable, end: (*bed).plugCable, holds: true},
	{name: "link down", begin: (*bed).setDown, end: (*bed).setUp},
	{name: "eth0 deleted", begin: (*bed).deleteEth0, end: (*bed).replaceEth0},
	{name: "default route removed", begin: (*bed).removeDefault, end: (*bed).addDefault},
	{name: "gateway silent", begin: (*bed).silenceGateway, end: (*bed).wakeGateway, holds: true},
}

// gone are the faults that have an end before the gateway answers.
func gone() []fault { return faults[:4] }

// routeless are those that take the default route away.
func routeless() []fault { return faults[1:4] }

// anySource is a network whose routers check no source.
var anySource = topology.TwoNICOptions{Policy: topology.AnySource}

// bed is a two-NIC server with a client, in one family.
type bed struct {
	testing.TB
	net    *topology.TwoNIC
	family topology.Family
	// product is replypath on the server, nil where it does not run.
	product *product.Product
	// unattended is true where its daemon has been killed, or will be before a fault.
	unattended bool
	// routes are the server's before any fault.
	routes string
	// asked are the conversations that clients have, or may have, begun.
	asked []*traffic.Conversation
}

// newBed builds one whose kernel soon notices a silent neighbour of eth0.
func newBed(t testing.TB, f topology.Family, options topology.TwoNICOptions) *bed {
	t.Helper()
	b := newPatientBed(t, f, options)
	b.quicken("neigh/eth0")
	return b
}

// newPatientBed builds one with the kernel's own neighbour timers.
func newPatientBed(t testing.TB, f topology.Family, options topology.TwoNICOptions) *bed {
	t.Helper()
	b := &bed{TB: t, family: f, net: traffic.NewTwoNIC(t, options)}
	b.routes = b.showRoutes()
	traffic.Serve(t, b.net.Client, b.clientAddress())
	return b
}

// inBoth are beds of both families on one server, the second with what the first one has.
func (b *bed) inBoth() []*bed {
	b.Helper()
	other := *b
	other.family = topology.IPv6
	traffic.Serve(b, b.net.Client, other.clientAddress())
	return []*bed{b, &other}
}

// quicken has the kernel notice a silent neighbour within a second instead of a minute, and ask again sooner where a
// question was lost: a router whose end of the cable comes up answers a little later. What it does is the same.
func (b *bed) quicken(table string) {
	b.Helper()
	patience := int(await.AnswerTime / (10 * time.Second)) // 1, but on slow machines
	// Any shorter, and a daemon that waits for a processor comes too late for what the kernel holds back meanwhile.
	for leaf, value := range map[string]int{
		"base_reachable_time_ms": 300 * patience, "delay_first_probe_time": 0, "retrans_time_ms": 100 * patience,
	} {
		await.Must(b, b.net.Server.SetSysctl("net/"+b.family.String()+"/"+table+"/"+leaf, strconv.Itoa(value)))
	}
}

// splitTables has the kernel split IPv4's tables local and main, as it does for the first rule of a network namespace. Meanwhile it
// drops what comes in: it has taken the own addresses out of main before it looks anywhere else (fib_unmerge() in
// net/ipv4/fib_frontend.c, fib4_rule_configure() in fib_rules.c). No fault is to meet that.
func (b *bed) splitTables() {
	b.Helper()
	host.Shell(b, b.net.Server.Host, "ip -4 rule add pref 1 lookup main && ip -4 rule del pref 1")
}

func (b *bed) clientAddress() netip.Addr { return b.net.ClientEth0.Address(b.family) }

func (b *bed) conversation(kind traffic.Kind) *traffic.Conversation {
	b.Helper()
	c := traffic.NewConversation(b, kind, b.net.ClientEth0, b.net.Server.Eth1.Address(b.family))
	b.asked = append(b.asked, c)
	return c
}

// fresh are conversations that have not begun, one of each kind.
func (b *bed) fresh() (all []*traffic.Conversation) {
	b.Helper()
	for _, kind := range traffic.Kinds {
		all = append(all, b.conversation(kind))
	}
	return all
}

// ip runs iproute2 on the server for this family.
func (b *bed) ip(args ...string) string {
	b.Helper()
	family := map[topology.Family]string{topology.IPv4: "-4", topology.IPv6: "-6"}[b.family]
	return host.Shell(b, b.net.Server.Host, strings.Join(append([]string{"ip", family}, args...), " "))
}

// showRoutes are the server's routes but for the product's, in any order.
func (b *bed) showRoutes() string {
	b.Helper()
	var kept []string
	for line := range strings.Lines(b.ip("route")) {
		if !strings.Contains(line, "proto 114") {
			kept = append(kept, line)
		}
	}
	slices.Sort(kept)
	return strings.Join(kept, "")
}

// awaitCarrier returns when the server knows about the state of eth0.
func (b *bed) awaitCarrier(want bool) {
	b.Helper()
	await.Eventually(b, fmt.Sprintf("eth0 has carrier: %t", want), func() error {
		link, err := b.net.Server.Eth0.Link()
		if err == nil && (link.Attrs().OperState == netlink.OperUp) != want {
			err = fmt.Errorf("its state is %s", link.Attrs().OperState)
		}
		return err
	})
}

func (b *bed) cutCable() {
	b.Helper()
	await.Must(b, b.net.Server.Eth0.Peer().SetDown())
	b.awaitCarrier(false)
}

func (b *bed) plugCable() {
	b.Helper()
	router := b.net.Server.Eth0.Peer()
	await.Must(b, router.SetUp())
	b.giveBack(router) // IPv6 takes the addresses off what is down
	b.awaitCarrier(true)
}

func (b *bed) setDown() {
	b.Helper()
	await.Must(b, b.net.Server.Eth0.SetDown())
}

func (b *bed) setUp() {
	b.Helper()
	await.Must(b, b.net.Server.Eth0.SetUp())
	b.giveBack(b.net.Server.Eth0)
	b.addDefaultOnceReady()
}

// giveBack adds the addresses that an interface has lost, as a network manager does.
func (b *bed) giveBack(i *topology.Interface) {
	b.Helper()
	present := await.Must1[*topology.Interface](b)(i.Host.Interface(i.Name))
	for _, address := range i.Addresses {
		if !strings.Contains(fmt.Sprint(present.Addresses), address.String()) {
			await.Must(b, i.AddAddress(address))
		}
	}
}

func (b *bed) deleteEth0() {
	b.Helper()
	await.Must(b, b.net.Server.Netlink().LinkDel(await.Must1[netlink.Link](b)(b.net.Server.Eth0.Link())))
}

// replaceEth0 makes an interface of the same name, as a driver does that is loaded again.
func (b *bed) replaceEth0() {
	b.Helper()
	old := b.net.Server.Eth0
	router := old.Peer()
	eth0, _, err := b.net.Connect(
		topology.NIC{Host: b.net.Server.Host, Name: old.Name, MAC: old.MAC, Addresses: old.Addresses},
		topology.NIC{Host: router.Host, Name: router.Name, MAC: router.MAC, Addresses: router.Addresses})
	await.Must(b, err)
	b.net.Server.Eth0 = eth0
	b.addDefaultOnceReady()
}

func (b *bed) defaultRoute() topology.Route {
	return topology.Route{Via: b.net.Server.Eth0.Peer().Address(b.family)}
}

func (b *bed) removeDefault() {
	b.Helper()
	await.Must(b, b.net.Server.RemoveRoute(b.defaultRoute()))
}

// addDefaultOnceReady adds the route when there is carrier, as network managers do, and a router that answers.
func (b *bed) addDefaultOnceReady() {
	b.Helper()
	b.awaitCarrier(true)
	for _, i := range []*topology.Interface{b.net.Server.Eth0, b.net.Server.Eth0.Peer()} {
		await.Must(b, i.WaitReady(await.Within(b, await.AnswerTime)))
	}
	b.addDefault()
}

func (b *bed) addDefault() {
	b.Helper()
	await.Must(b, b.net.Server.AddRoute(b.defaultRoute()))
}

// silence drops ARP and neighbour discovery that comes in at the router, and what it asks itself, from which the
// server would learn its MAC.
const silence = `
add table arp silence
add chain arp silence input { type filter hook input priority 0; }
add rule arp silence input iifname "server" drop
add chain arp silence output { type filter hook output priority 0; }
add rule arp silence output oifname "server" drop
add table ip6 silence
add chain ip6 silence input { type filter hook input priority 0; }
add rule ip6 silence input iifname "server" icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } drop
add chain ip6 silence output { type filter hook output priority 0; }
add rule ip6 silence output oifname "server" icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } drop
`

// silenceGateway has the gateway answer no question for its MAC address, and the
// kernel ask for it. It returns when the kernel has given up, or holds it for us.
func (b *bed) silenceGateway() {
	b.Helper()
	gateway := b.net.Server.Eth0.Peer()
	host.Nft(b, b.net.Production.Host, silence)
	b.ip("neighbour", "change", gateway.Address(b.family).String(),
		"lladdr", gateway.MAC.String(), "dev", "eth0", "nud", "probe")
	await.Eventually(b, "the silence is noticed", func() error {
		state := b.neighbour()
		if strings.Contains(state, "FAILED") || b.isHeld() {
			return nil
		}
		return fmt.Errorf("%s", state)
	})
}

// neighbour is the kernel's entry of eth0's gateway.
func (b *bed) neighbour() string {
	b.Helper()
	return b.ip("neighbour", "show", b.net.Server.Eth0.Peer().Address(b.family).String(), "dev", "eth0")
}

// isHeld tells whether the product says that it holds the gateway.
func (b *bed) isHeld() bool {
	b.Helper()
	return b.product != nil && b.gatewayState() == "held"
}

// awaitHeld returns when the product says that it holds the gateway, which the kernel may have given up just before.
func (b *bed) awaitHeld() {
	b.Helper()
	b.Eventually("the gateway is held", func() error {
		if !b.isHeld() {
			return fmt.Errorf("it is %q", b.gatewayState())
		}
		return nil
	})
}

// gatewayState is eth0's gateway's in the status.
func (b *bed) gatewayState() string {
	b.Helper()
	if g := b.gateway(b.net.Server.Eth0.Peer().Address(b.family)); g != nil {
		return g.State
	}
	return ""
}

// gateway is what the status says of one, nil where it does not know it: its interface may be gone.
func (b *bed) gateway(address netip.Addr) *product.Gateway {
	b.Helper()
	for _, i := range b.product.Status().Interfaces {
		for _, g := range i.Gateways {
			if g.Address == address.String() {
				return &g
			}
		}
	}
	return nil
}

func (b *bed) wakeGateway() {
	b.Helper()
	host.Nft(b, b.net.Production.Host, "delete table arp silence\ndelete table ip6 silence\n")
}
