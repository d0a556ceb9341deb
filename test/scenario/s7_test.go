// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"net/netip"
	"testing"

	"replypath/test/harness"
	"replypath/test/topology"
)

// Ports of the published service.
const (
	publishedPort = 80
	containerPort = 8080
)

// newS7 builds S7, with the container's echo server published as its recipe
// shows.
func newS7(t *testing.T, policy topology.Policy) (*topology.S7, *harness.Recipe) {
	t.Helper()
	s := harness.NewS7(t, topology.TwoNICOptions{Policy: policy})
	return s, publish(t, s)
}

// publish publishes the container's echo server as the recipe shows.
func publish(t *testing.T, s *topology.S7) *harness.Recipe {
	t.Helper()
	for _, f := range s.Families() {
		harness.ServeAt(t, s.Container, netip.AddrPortFrom(s.ContainerEth0.Address(f), containerPort))
	}
	recipe := harness.ReadRecipe(t, "s7-published-port")
	recipe.Run(s.Server.Host, "The published port")
	return recipe
}

// published prepares a conversation with the published port of an interface of
// the server. Pings are answered by the host.
func published(t *testing.T, s *topology.S7, kind harness.Kind, at *topology.Interface, f topology.Family) *harness.Conversation {
	t.Helper()
	c := harness.NewConversation(t, kind, s.ClientEth0, at.Address(f))
	if kind != harness.Ping {
		c.Self = netip.AddrPortFrom(c.Self.Addr(), publishedPort)
	}
	return c
}

// TestS7 asks a published port by both of the host's addresses. Without replypath
// all answers leave by eth0, with it by the interface that was asked.
func TestS7(t *testing.T) {
	for _, policy := range []topology.Policy{topology.StrictSource, topology.Stateful} {
		t.Run(policy.String(), func(t *testing.T) {
			s, recipe := newS7(t, policy)
			lost := func(t *testing.T, f topology.Family, kind harness.Kind) {
				wantLost(t, s.Server, published(t, s, kind, s.Server.Eth1, f), s.ClientEth0)
			}
			harness.EachQuestionOf(t, s.Families(), "without replypath", lost)
			p := harness.On(t, s.Server.Host)
			p.Start()
			harness.EachQuestionOf(t, s.Families(), "with replypath", func(t *testing.T, f topology.Family, kind harness.Kind) {
				wantAnswers(t, s.Server, published(t, s, kind, s.Server.Eth1, f), true)
				wantAnswers(t, s.Server, published(t, s, kind, s.Server.Eth0, f), false)
			})
			recipe.RunWith(p, "With replypath")
			p.Expect(0, "detach", "--stop")
			harness.EachQuestionOf(t, s.Families(), "after detach", lost)
		})
	}
}

// TestS7IPRule sets up what the recipe shows beside replypath: a rule by source
// mends the host's own answers and not the container's.
func TestS7IPRule(t *testing.T) {
	s, recipe := newS7(t, topology.StrictSource)
	recipe.Run(s.Server.Host, "With ip rule")
	harness.EachQuestionOf(t, s.Families(), "ip rule", func(t *testing.T, f topology.Family, kind harness.Kind) {
		c := published(t, s, kind, s.Server.Eth1, f)
		if kind == harness.Ping {
			wantAnswers(t, s.Server, c, true)
		} else {
			wantLost(t, s.Server, c, s.ClientEth0)
		}
	})
}

// TestS7Connmark is the recipe's other set-up, which helps.
func TestS7Connmark(t *testing.T) {
	s, recipe := newS7(t, topology.StrictSource)
	recipe.Run(s.Server.Host, "With connmark")
	harness.EachQuestionOf(t, s.Families(), "connmark", func(t *testing.T, f topology.Family, kind harness.Kind) {
		wantAnswers(t, s.Server, published(t, s, kind, s.Server.Eth1, f), true)
		wantAnswers(t, s.Server, published(t, s, kind, s.Server.Eth0, f), false)
	})
}

// goesOnBy wants more answers of a running conversation to leave by eth1, or by
// eth0.
func goesOnBy(t *testing.T, wires *harness.Wires, c *harness.Conversation, eth1 bool) {
	t.Helper()
	const more = 20
	by, name := wires.Eth0, "eth0"
	if eth1 {
		by, name = wires.Eth1, "eth1"
	}
	answers := topology.All(c.Answers(), topology.Going(topology.Received))
	_, err := by.WaitCount(harness.Within(t, harness.AnswerTime), by.Count(answers)+more, answers)
	if err != nil {
		t.Fatalf("%s does not go on by %s: %v", c, name, err)
	}
}

// TestContainerLongLived has conversations with a container go on while the
// daemon dies and comes back.
func TestContainerLongLived(t *testing.T) {
	s, _ := newS7(t, topology.StrictSource)
	p := harness.On(t, s.Server.Host)
	d := p.Start()
	wires := harness.Tap(t, s.Server)
	talks := make(map[*harness.Conversation]*harness.Talk)
	for _, f := range s.Families() {
		for _, kind := range harness.Kinds {
			c := published(t, s, kind, s.Server.Eth1, f)
			talks[c] = c.Keep(t)
		}
	}
	for range 2 {
		for c := range talks {
			goesOnBy(t, wires, c, true)
		}
		d.Kill()
		for c := range talks {
			goesOnBy(t, wires, c, true)
		}
		d = p.Start()
	}
	for c, talk := range talks {
		talk.Stop()
		wires.WantEth1(c.String(), c.Answers())
	}
}
