// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"context"
	"fmt"
	"testing"

	"replypath/test/host"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
)

// newS3a builds S3a with a director that does what IPVS does with a frame for the virtual address: it gives it the
// real server's MAC and sends it on unchanged. The tests' kernel has no IPVS. With apart, the router drops sources of
// the real server's network that come from another.
func newS3a(t *testing.T, apart bool) *topology.S3a {
	t.Helper()
	s := traffic.Build(t, func(ctx context.Context) (*topology.S3a, error) { return topology.NewS3a(ctx, apart) })
	to := fmt.Sprintf("ether saddr set %s ether daddr set %s fwd to inside", s.DirectorInside.MAC, s.Eth0.MAC)
	host.Nft(t, s.Director.Host, `table netdev director {
		chain ingress { type filter hook ingress device outside priority filter;
			ip daddr 10.0.0.1 `+to+`
			ip6 daddr 2001:db8::1 `+to+`
		}
	}`)
	if apart {
		host.Nft(t, s.Router.Host, `table inet sources {
			chain prerouting { type filter hook prerouting priority raw;
				iifname inside ip saddr 192.168.1.0/24 drop
				iifname inside ip6 saddr 2001:db8:1::/64 drop
			}
		}`)
	}
	for _, f := range traffic.Families {
		traffic.Serve(t, s.Server, s.Virtual(f))
		traffic.Serve(t, s.Server, s.Eth0.Address(f))
	}
	return s
}

// wantSymmetric wants what loopback_addresses: symmetric does here: answers from the virtual address go to the
// director, which takes IPv4 ones for its own and drops them. IPv6 knows no such check, and this director forwards.
func wantSymmetric(t *testing.T, virtual asking, toDirector exit) {
	virtual.each(t, traffic.Families[:1], "virtual, symmetric", toDirector.wantLost)
	virtual.each(t, traffic.Families[1:], "virtual, symmetric", toDirector.wantAnswers)
}

// TestS3aOneNIC has the director and the router on the real server's one NIC. Answers from the virtual address go to
// the router, not to the director that the question came from: without replypath, with an empty configuration, and
// with next_hop last-hop. Only who asks for it gets them symmetric.
func TestS3aOneNIC(t *testing.T) {
	s := newS3a(t, false)
	nics := []*topology.Interface{s.Eth0}
	toRouter, toDirector := exit{nics, s.Eth0, s.RouterInside.MAC}, exit{nics, s.Eth0, s.DirectorInside.MAC}
	virtual, real := asking{client: s.ClientEth0, of: s.Virtual}, asking{client: s.ClientEth0, of: s.Eth0.Address}
	virtual.answered(t, "without replypath", toRouter)
	config := product.WriteConfig(t, "")
	d := product.On(t, s.Server).Start("--config", config)
	virtual.answered(t, "virtual", toRouter)
	real.answered(t, "real", toRouter)
	const lastHop = "interfaces: [{name: eth0, next_hop: last-hop}]\n"
	reload(t, d, config, lastHop)
	virtual.answered(t, "virtual, last-hop", toRouter)
	reload(t, d, config, lastHop+"loopback_addresses: symmetric\n")
	wantSymmetric(t, virtual, toDirector)
}

// TestS3aTwoNICs has the router on another NIC than the director. Answers from the real address leave by the wrong
// one without replypath, and are dropped; answers from the virtual address are right, and have to stay so, as with
// the rules of the recipe.
func TestS3aTwoNICs(t *testing.T) {
	s := newS3a(t, true)
	nics := []*topology.Interface{s.Eth0, s.Eth1}
	toRouter, toDirector := exit{nics, s.Eth1, s.RouterInside.MAC}, exit{nics, s.Eth0, s.DirectorInside.MAC}
	virtual, real := asking{client: s.ClientEth0, of: s.Virtual}, asking{client: s.ClientEth0, of: s.Eth0.Address}
	virtual.answered(t, "virtual without replypath", toRouter)
	real.lost(t, "real without replypath", toRouter)
	p, config := product.On(t, s.Server), product.WriteConfig(t, "")
	d := p.Start("--config", config)
	virtual.answered(t, "virtual", toRouter)
	real.answered(t, "real", toDirector)
	reload(t, d, config, "loopback_addresses: symmetric\n")
	wantSymmetric(t, virtual, toDirector)
	p.Expect(0, "detach", "--stop")
	real.lost(t, "real after detach", toRouter)
	host.ReadRecipe(t, "s3a-lvs-direct-routing").Run(s.Server, "With ip rule")
	virtual.answered(t, "virtual by rules", toRouter)
	real.answered(t, "real by rules", toDirector)
}
