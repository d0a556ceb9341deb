// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/product"
	"replypath/test/short"
	"replypath/test/topology"
	"replypath/test/traffic"
)

// translation is a way to translate a virtual address, which no interface has, to a container.
type translation struct {
	name    string
	virtual map[topology.Family]netip.Addr
	rules   string // with @4 and @6 for the virtual addresses, or a recipe
	program string // that reads them, or the recipe's section
	names   bool   // the address, so that it need not be listed
}

// vipsRecipe is the page that shows the first of them.
const vipsRecipe = "load-balancer-vips"

// translations are what people's load balancers write.
var translations = []translation{
	{"dnat", addresses("10.60.0.7", "2001:db8:60::7"), vipsRecipe, "The translation", true},
	{"kube-proxy", addresses("10.60.0.8", "2001:db8:60::8"), `
		table ip kube-proxy {
			map service-ips { type ipv4_addr . inet_proto . inet_service : verdict; elements = { @4 . tcp . 80 : goto external, @4 . udp . 80 : goto external }; }
			chain endpoint { meta l4proto { tcp, udp } dnat to 10.17.0.100:8080; }
			chain service { numgen random mod 1 vmap { 0 : goto endpoint }; }
			chain external { goto service; }
			chain services { ip daddr . meta l4proto . th dport vmap @service-ips; }
			chain prerouting { type nat hook prerouting priority dstnat; jump services; }
		}
		table ip6 kube-proxy {
			map service-ips { type ipv6_addr . inet_proto . inet_service : verdict; elements = { @6 . tcp . 80 : goto external, @6 . udp . 80 : goto external }; }
			chain external { meta l4proto { tcp, udp } dnat to [2001:db8:17::100]:8080; }
			chain prerouting { type nat hook prerouting priority dstnat; ip6 daddr . meta l4proto . th dport vmap @service-ips; }
		}`, "nft -f -", true},
	{"iptables", addresses("10.60.0.9", "2001:db8:60::9"), `
iptables-nft -t nat -N KUBE-SVC
iptables-nft -t nat -A KUBE-SVC -p tcp -j DNAT --to-destination 10.17.0.100:8080
iptables-nft -t nat -A KUBE-SVC -p udp -j DNAT --to-destination 10.17.0.100:8080
iptables-nft -t nat -A PREROUTING -d @4/32 -p tcp --dport 80 -j KUBE-SVC
iptables-nft -t nat -A PREROUTING -d @4/32 -p udp --dport 80 -j KUBE-SVC
ip6tables-nft -t nat -A PREROUTING -d @6 -p tcp --dport 80 -j DNAT --to-destination [2001:db8:17::100]:8080
ip6tables-nft -t nat -A PREROUTING -d @6 -p udp --dport 80 -j DNAT --to-destination [2001:db8:17::100]:8080`, "sh -e", true},
	{"whatever comes", addresses("10.60.0.10", "2001:db8:60::10"), `table inet whatever { chain prerouting { type nat hook prerouting priority -90
		iifname "eth1" meta l4proto { tcp, udp } th dport 80 dnat ip to 10.17.0.100:8080
		iifname "eth1" meta l4proto { tcp, udp } th dport 80 dnat ip6 to [2001:db8:17::100]:8080
	}; }`, "nft -f -", false},
}

// install has a host translate.
func (v *translation) install(t *testing.T, h *topology.Host) {
	t.Helper()
	if v.rules == vipsRecipe {
		host.ReadRecipe(t, v.rules).Run(h, v.program)
		return
	}
	words := strings.Fields(v.program)
	c := h.Command(t.Context(), words[0], words[1:]...)
	c.Stdin = strings.NewReader(strings.NewReplacer("@4", v.virtual[topology.IPv4].String(), "@6", v.virtual[topology.IPv6].String()).Replace(v.rules))
	if output, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", v.program, err, output)
	}
}

// ask prepares a question to the virtual address.
func (v *translation) ask(t *testing.T, s *topology.S7, f topology.Family, kind traffic.Kind) *traffic.Conversation {
	t.Helper()
	c := traffic.NewConversation(t, kind, s.ClientEth0, v.virtual[f])
	c.Self = netip.AddrPortFrom(c.Self.Addr(), publishedPort)
	return c
}

// newVirtual builds S7, in which the routers bring packets to virtual addresses by eth1.
func newVirtual(t *testing.T) *topology.S7 {
	t.Helper()
	s := traffic.NewS7(t, topology.TwoNICOptions{Policy: topology.StrictSource})
	core := await.Must1[*topology.Interface](t)(s.Replication.Interface("core"))
	for f, network := range map[topology.Family]string{topology.IPv4: "10.60.0.0/24", topology.IPv6: "2001:db8:60::/64"} {
		to := netip.MustParsePrefix(network)
		await.Must(t, s.Core.AddRoute(topology.Route{Destination: to, Via: core.Address(f)}))
		await.Must(t, s.Replication.AddRoute(topology.Route{Destination: to, Via: s.Server.Eth1.Address(f)}))
		traffic.ServeAt(t, s.Container, netip.AddrPortFrom(s.ContainerEth0.Address(f), 8080))
	}
	return s
}

// TestVirtualAddresses has a host that forwards translate addresses that no interface has to a container. By default the
// answers go where they were asked if the rules name the address, as soon as they do; else `addresses` names it, and doctor
// says so.
func TestVirtualAddresses(t *testing.T) {
	s := newVirtual(t)
	each := func(t *testing.T, v *translation, name string, want func(c *traffic.Conversation)) {
		for i, f := range s.Families() {
			kinds := traffic.Kinds[1:] // nobody answers pings
			if short.Run(t) {
				kinds = kinds[i : i+1]
			}
			for _, kind := range kinds {
				t.Run(fmt.Sprintf("%s/%s/%s/%s", name, v.name, f, kind), func(t *testing.T) { want(v.ask(t, s, f, kind)) })
			}
		}
	}
	lost := func(c *traffic.Conversation) { wantLost(t, s.Server, c, s.ClientEth0) }
	answered := func(c *traffic.Conversation) { wantAnswers(t, s.Server, c, true) }
	for n := range translations {
		translations[n].install(t, s.Server.Host)
		each(t, &translations[n], "without replypath", lost)
	}
	host.Shell(t, s.Server.Host, "nft flush ruleset")
	p := product.On(t, s.Server.Host)
	config := product.WriteConfig(t, "scope: local\n")
	d := p.Start("--config", config)
	for n := range translations {
		v := &translations[n]
		v.install(t, s.Server.Host)
		if v.names {
			installed := time.Now()
			wantServed(t, p, v, "firewall", true)
			if took := time.Since(installed); took > await.Patient(time.Second) {
				t.Errorf("%s: the rule counts after %s", v.name, took)
			}
			each(t, v, "named by rules", answered)
			continue
		}
		each(t, v, "named by nobody", lost)
		for f, virtual := range v.virtual {
			if len(p.Examine().Of("translated-address", "").With("warning", virtual.String(), s.ContainerEth0.Address(f).String())) == 0 {
				t.Errorf("doctor does not name %s", virtual)
			}
		}
		reload(t, d, config, host.ReadRecipe(t, vipsRecipe).Text("With replypath", "yaml"))
		wantServed(t, p, v, "configuration", true)
		each(t, v, "named by the configuration", answered)
	}
	host.Shell(t, s.Server.Host, "nft delete table inet vips")
	wantServed(t, p, &translations[0], "firewall", false)
}

// wantServed waits until an address is, or is not, served although no interface has it.
func wantServed(t *testing.T, p *product.Product, v *translation, source string, served bool) {
	t.Helper()
	for _, virtual := range v.virtual {
		await.Eventually(t, fmt.Sprintf("%s is served: %v", virtual, served), func() error {
			list := p.Status().Addresses
			is := slices.ContainsFunc(list, func(a product.Served) bool {
				return netip.MustParsePrefix(a.Network).Contains(virtual) && a.Source == source
			})
			if is != served {
				return fmt.Errorf("%v", list)
			}
			return nil
		})
	}
}
