// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"net/netip"
	"testing"

	"replypath/test/host"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
)

// The tests' kernel has no IPVS. What a balancer does to packets, which is all that the real server sees of it, is
// done by nftables instead: translation with connection tracking here, without it in s3b_test.go.

// destinationNAT translates a balancer's virtual addresses into the server's, and back what comes through it.
func destinationNAT(t *testing.T, balancer *topology.Host, virtual, real func(topology.Family) netip.Addr) {
	t.Helper()
	var rules string
	for f, ip := range map[topology.Family]string{topology.IPv4: "ip", topology.IPv6: "ip6"} {
		rules += fmt.Sprintf("%s daddr %s dnat %s to %s\n", ip, virtual(f), ip, real(f))
	}
	host.Nft(t, balancer, `table inet balancer {
		chain prerouting { type nat hook prerouting priority dstnat;
`+rules+`}
	}`)
}

// TestS2 has clients ask the virtual address and the server itself. Without replypath a client in the server's own
// network is answered directly, by a stranger; with it, by next_hop last-hop, everybody is answered by the way of the
// question, as with the marks that the recipe shows beside it.
func TestS2(t *testing.T) {
	s, page := traffic.Build(t, topology.NewS2), host.ReadRecipe(t, "s2-load-balancer-nat")
	for _, f := range s.Families() {
		traffic.Serve(t, s.Server, s.ServerEth0.Address(f))
		traffic.Serve(t, s.Client, s.ClientEth0.Address(f))
	}
	destinationNAT(t, s.Balancer.Host, s.Virtual, s.ServerEth0.Address)
	toClient := exit{[]*topology.Interface{s.ServerEth0}, s.ServerEth0, s.ClientEth0.MAC}
	toBalancer := exit{toClient.nics, s.ServerEth0, s.BalancerEth0.MAC}
	through := asking{s.ClientEth0, s.Virtual, s.ServerEth0.Address}
	outside := asking{s.OutsideEth0, s.Virtual, s.ServerEth0.Address}
	directly := asking{client: s.ClientEth0, of: s.ServerEth0.Address}
	seen := page.Watch(s.Server, "What goes wrong")
	through.lost(t, "without replypath", toClient)
	seen()

	p := product.On(t, s.Server)
	p.Start("--config", page.Config("With replypath"))
	through.answered(t, "through the balancer", toBalancer)
	outside.answered(t, "from outside", toBalancer)
	directly.answered(t, "directly", toClient)
	traffic.EachQuestion(t, "the server asks", func(t *testing.T, f topology.Family, kind traffic.Kind) {
		toClient.wantQuestions(t, traffic.NewConversation(t, kind, s.ServerEth0, s.ClientEth0.Address(f)))
	})

	p.Expect(0, "detach", "--stop")
	through.lost(t, "after detach", toClient)
	page.Run(s.Server, "With connmark")
	through.answered(t, "through the balancer, by marks", toBalancer)
	directly.answered(t, "directly, by marks", toClient)
}
