// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"context"
	"fmt"
	"testing"

	"replypath/test/harness"
	"replypath/test/topology"
)

const s3aPage = "s3a-lvs-direct-routing"

// newS3a builds S3a with a director that does what IPVS does with a frame for the
// virtual address: it gives it the real server's MAC and sends it on unchanged.
// The tests' kernel has no IPVS. With apart, the router drops sources of the real
// server's network that come from another.
func newS3a(t *testing.T, apart bool) *topology.S3a {
	t.Helper()
	s := harness.Build(t, func(ctx context.Context) (*topology.S3a, error) { return topology.NewS3a(ctx, apart) })
	to := fmt.Sprintf("ether saddr set %s ether daddr set %s fwd to inside", s.DirectorInside.MAC, s.Eth0.MAC)
	harness.Nft(t, s.Director.Host, `table netdev director {
		chain ingress { type filter hook ingress device outside priority filter;
			ip daddr 10.0.0.1 `+to+`
			ip6 daddr 2001:db8::1 `+to+`
		}
	}`)
	if apart {
		harness.Nft(t, s.Router.Host, `table inet sources {
			chain prerouting { type filter hook prerouting priority raw;
				iifname inside ip saddr 192.168.1.0/24 drop
				iifname inside ip6 saddr 2001:db8:1::/64 drop
			}
		}`)
	}
	for _, f := range []topology.Family{topology.IPv4, topology.IPv6} {
		harness.Serve(t, s.Server, s.Virtual(f))
		harness.Serve(t, s.Server, s.Eth0.Address(f))
	}
	return s
}

// s3a are the conversations of a client with the virtual and the real address, and
// the ways of their answers.
type s3a struct {
	*topology.S3a
	toRouter, toDirector exit
}

func waysOfS3a(s *topology.S3a) s3a {
	nics, byDefault := []*topology.Interface{s.Eth0}, s.Eth0
	if s.Eth1 != nil {
		nics, byDefault = append(nics, s.Eth1), s.Eth1
	}
	return s3a{s, exit{nics, byDefault, s.RouterInside.MAC}, exit{nics, s.Eth0, s.DirectorInside.MAC}}
}

func (s s3a) virtual(run func(*testing.T, *harness.Conversation, topology.Filter)) func(*testing.T, topology.Family, harness.Kind) {
	return func(t *testing.T, f topology.Family, kind harness.Kind) {
		c := harness.NewConversation(t, kind, s.ClientEth0, s.Virtual(f))
		run(t, c, c.Answers())
	}
}

func (s s3a) real(run func(*testing.T, *harness.Conversation, topology.Filter)) func(*testing.T, topology.Family, harness.Kind) {
	return func(t *testing.T, f topology.Family, kind harness.Kind) {
		c := harness.NewConversation(t, kind, s.ClientEth0, s.Eth0.Address(f))
		run(t, c, c.Answers())
	}
}

// symmetric wants what loopback_addresses: symmetric does here: answers from the
// virtual address go to the director, which takes IPv4 ones for its own and drops
// them. IPv6 knows no such check, and this director forwards.
func (s s3a) symmetric(t *testing.T, f topology.Family, kind harness.Kind) {
	want := s.toDirector.wantLost
	if f == topology.IPv6 {
		want = s.toDirector.wantAnswers
	}
	s.virtual(want)(t, f, kind)
}

// TestS3aOneNIC has the director and the router on the real server's one NIC.
// Answers from the virtual address go to the router, not to the director that the
// question came from: without replypath, with an empty configuration, and with
// next_hop last-hop. Only who asks for it gets them symmetric.
func TestS3aOneNIC(t *testing.T) {
	s := waysOfS3a(newS3a(t, false))
	harness.EachQuestion(t, "without replypath", s.virtual(s.toRouter.wantAnswers))
	p := harness.On(t, s.Server)
	d := p.Start()
	harness.EachQuestion(t, "virtual", s.virtual(s.toRouter.wantAnswers))
	harness.EachQuestion(t, "real", s.real(s.toRouter.wantAnswers))
	p.Expect(0, "detach", "--stop")
	d.WaitEnd()

	p.Start("--config", harness.WriteConfig(t, "interfaces: [{name: eth0, next_hop: last-hop}]\n"))
	harness.EachQuestion(t, "virtual, last-hop", s.virtual(s.toRouter.wantAnswers))
	p.Expect(0, "detach", "--stop")

	p.Start("--config", harness.WriteConfig(t, "interfaces: [{name: eth0, next_hop: last-hop}]\nloopback_addresses: symmetric\n"))
	harness.EachQuestion(t, "virtual, symmetric", s.symmetric)
}

// TestS3aTwoNICs has the router on another NIC than the director. Answers from the
// real address leave by the wrong one without replypath, and are dropped; answers
// from the virtual address are right, and have to stay so.
func TestS3aTwoNICs(t *testing.T) {
	s := waysOfS3a(newS3a(t, true))
	harness.EachQuestion(t, "virtual without replypath", s.virtual(s.toRouter.wantAnswers))
	harness.EachQuestion(t, "real without replypath", s.real(s.toRouter.wantLost))
	p := harness.On(t, s.Server)
	p.Start()
	harness.EachQuestion(t, "virtual", s.virtual(s.toRouter.wantAnswers))
	harness.EachQuestion(t, "real", s.real(s.toDirector.wantAnswers))
	p.Expect(0, "detach", "--stop")

	p.Start("--config", harness.WriteConfig(t, "loopback_addresses: symmetric\n"))
	harness.EachQuestion(t, "virtual, symmetric", s.symmetric)
}

// TestS3aRules runs the set-up that replypath replaces.
func TestS3aRules(t *testing.T) {
	s := waysOfS3a(newS3a(t, true))
	harness.ReadRecipe(t, s3aPage).Run(s.Server, "With ip rule")
	harness.EachQuestion(t, "virtual", s.virtual(s.toRouter.wantAnswers))
	harness.EachQuestion(t, "real", s.real(s.toDirector.wantAnswers))
}
