// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"net"
	"testing"

	"replypath/test/harness"
	"replypath/test/topology"
)

// routers is a server whose eth1 has several routers.
type routers struct {
	*topology.Routers
	nics []*topology.Interface
}

func newRouters(t *testing.T) routers {
	t.Helper()
	r := routers{Routers: harness.Build(t, topology.NewRouters)}
	r.nics = []*topology.Interface{r.Server.Eth0, r.Server.Eth1}
	for _, f := range r.Families() {
		harness.Serve(t, r.Server.Host, r.Server.Eth1.Address(f))
	}
	return r
}

// bring has one of the routers bring what the client sends to eth1.
func (r routers) bring(t *testing.T, router int) {
	t.Helper()
	harness.Shell(t, r.Client, fmt.Sprintf(`
		ip -4 route replace 192.168.1.0/24 via 10.9.0.%[1]d
		ip -6 route replace 2001:db8:1::/64 via 2001:db8:9::%[1]d`, router+1))
}

// to is the exit by eth1 to a MAC.
func (r routers) to(mac net.HardwareAddr) exit { return exit{r.nics, r.Server.Eth1, mac} }

// TestSeveralRouters has three routers bring questions by eth1, all of which stand
// in routes: each flow goes back through its own, also when the next question of
// another flow comes by another. A flow whose questions come by another router
// from then on goes there.
func TestSeveralRouters(t *testing.T) {
	r := newRouters(t)
	for i := range r.At {
		harness.Shell(t, r.Server.Host, fmt.Sprintf(`
			ip -4 route add default via 192.168.1.%[1]d metric 500%[1]d
			ip -6 route add default via 2001:db8:1::%[1]d metric 500%[1]d`, i+1))
	}
	harness.On(t, r.Server.Host).Start()
	var begun []*harness.Conversation
	var by []int
	for i := range r.At {
		r.bring(t, i)
		for _, f := range harness.Families {
			for _, kind := range harness.Kinds {
				c := harness.NewConversation(t, kind, r.ClientEth0, r.Server.Eth1.Address(f))
				exits := harness.TapAll(t, r.nics...)
				harness.Ask(t, c)
				r.to(r.Inside[i].MAC).want(exits, c.String(), c.Answers())
				begun, by = append(begun, c), append(by, i)
			}
		}
	}
	for n, c := range begun {
		r.bring(t, by[n])
		r.to(r.Inside[by[n]].MAC).wantAnswers(t, c, c.Answers())
	}
}

// TestPeerChangesRouter has a connection's questions come by another router of the
// same NIC: the answer to the first of them goes there.
func TestPeerChangesRouter(t *testing.T) {
	r := newRouters(t)
	harness.On(t, r.Server.Host).Start()
	for _, f := range harness.Families {
		c := harness.NewConversation(t, harness.TCP, r.ClientEth0, r.Server.Eth1.Address(f))
		for _, router := range []int{0, 1, 2, 0} {
			r.bring(t, router)
			exits := harness.TapAll(t, r.nics...)
			harness.Ask(t, c)
			r.to(r.Inside[router].MAC).want(exits, c.String(), c.Answers())
		}
	}
}

// TestRouterOfOneHost has a router beside the one that brings the questions, to which a route for a single host leads, as those to a
// cloud's metadata do: answers go to the router that brought the question, before that route is there and after it.
func TestRouterOfOneHost(t *testing.T) {
	r := newRouters(t)
	p := harness.On(t, r.Server.Host)
	p.Start()
	r.bring(t, 0)
	answered := 0
	ask := func(conversations ...*harness.Conversation) {
		t.Helper()
		for _, c := range conversations {
			exits := harness.TapAll(t, r.nics...)
			harness.Ask(t, c)
			r.to(r.Inside[0].MAC).want(exits, c.String(), c.Answers())
			answered++
		}
	}
	all := func() (list []*harness.Conversation) {
		for _, f := range harness.Families {
			for _, kind := range harness.Kinds {
				list = append(list, harness.NewConversation(t, kind, r.ClientEth0, r.Server.Eth1.Address(f)))
			}
		}
		return list
	}
	open := all()
	ask(open...)
	harness.Shell(t, r.Server.Host, `
		ip -4 route add 169.254.169.254 via 192.168.1.2 dev eth1
		ip -6 route add fd00:ec2::254 via 2001:db8:1::2 dev eth1`)
	isKnown := func() error {
		known := map[string]string{}
		for _, g := range p.Status().Interface("eth1").Gateways {
			known[g.Address] = g.State
		}
		if known["192.168.1.2"] != "reachable" || known["2001:db8:1::2"] != "reachable" {
			return fmt.Errorf("eth1's gateways are %v", known)
		}
		return nil
	}
	harness.Eventually(t, "the other router is known", isKnown)
	ask(open...)
	ask(all()...)
	// Its entries get old, and are checked: events of which none tells what its routes are.
	for _, address := range []string{"192.168.1.2", "2001:db8:1::2"} {
		harness.Shell(t, r.Server.Host, fmt.Sprintf("ip neigh change %s lladdr %s dev eth1 nud stale", address, r.Inside[1].MAC))
	}
	harness.Eventually(t, "the other router has answered again", isKnown)
	ask(open...)
	ask(all()...)
	if !t.Failed() {
		t.Logf("%d answers to the router that brought the question, 0 to the other", answered)
	}
}
