// SPDX-License-Identifier: Apache-2.0

// Package server is what tests of a server with two interfaces share: its network, and conversations with it that go on, whatever happens
// to it meanwhile.
package server

import (
	"testing"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/product"
	"replypath/test/short"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// New builds the network of a server with two interfaces, and returns the product on it, which does not run yet. Its
// routers take any source: a reply that goes astray arrives, and is captured.
func New(t testing.TB) (*topology.TwoNIC, *product.Product) {
	t.Helper()
	return newServer(t, topology.TwoNICOptions{Policy: topology.AnySource})
}

// NewExact is New, with each frame captured as it is on the wire.
func NewExact(t testing.TB) (*topology.TwoNIC, *product.Product) {
	t.Helper()
	return newServer(t, topology.TwoNICOptions{Policy: topology.AnySource, Offloads: topology.WireExact})
}

func newServer(t testing.TB, options topology.TwoNICOptions) (*topology.TwoNIC, *product.Product) {
	t.Helper()
	n := traffic.NewTwoNIC(t, options)
	return n, product.On(t, n.Server.Host)
}

// Live is how many more answers of a conversation show that it goes on.
const Live = 30

// Talk is a conversation of a client that goes on, and is answered by the server's eth1.
type Talk struct {
	testing.TB
	*traffic.Conversation
	Wires  *wire.Wires
	server *topology.Server
	talk   *traffic.Talk
}

// Talks are several.
type Talks []*Talk

// Keep begins conversations with a server.
func Keep(t testing.TB, server *topology.Server, conversations ...*traffic.Conversation) (all Talks) {
	t.Helper()
	for _, c := range conversations {
		k := &Talk{TB: t, Conversation: c, Wires: wire.Tap(t, server), server: server}
		traffic.Ask(t, c)
		k.talk = c.Keep(t)
		all = append(all, k)
	}
	all.GoOn()
	return all
}

// KeepTCP begins a connection of each family with the server's eth1.
func KeepTCP(t testing.TB, n *topology.TwoNIC) Talks {
	t.Helper()
	var all []*traffic.Conversation
	for _, f := range n.Families() {
		all = append(all, traffic.NewConversation(t, traffic.TCP, n.ClientEth0, n.Server.Eth1.Address(f)))
	}
	return Keep(t, n.Server, all...)
}

// GoesOn wants more answers by eth1.
func (k *Talk) GoesOn() {
	k.Helper()
	seen := k.Wires.Eth1.Count(k.Answers())
	_, err := k.Wires.Eth1.WaitCount(await.Within(k, await.AnswerTime), seen+Live, k.Answers())
	if err != nil {
		eth0, _ := k.Wires.Left(k.Answers())
		k.Fatalf("%s does not go on by eth1: %v; by eth0 left %s", k, err, wire.Describe(eth0))
	}
}

func (k *Talk) String() string { return k.Conversation.String() }

// WantEth1 wants every answer by eth1.
func (k *Talk) WantEth1() []*topology.Frame {
	k.Helper()
	return k.Wires.WantEth1(k.String(), k.Answers())
}

// Stop wants that every question was answered, whichever way, and asks no more.
func (k *Talk) Stop() (answers int) { return k.talk.Stop() }

// End is Stop, and wants every answer by eth1.
func (k *Talk) End() []*topology.Frame {
	k.Helper()
	k.Stop()
	return k.WantEth1()
}

// GoOn wants more answers by eth1 of each.
func (all Talks) GoOn() {
	for _, k := range all {
		k.Helper()
		k.GoesOn()
	}
}

// Afresh wants more answers by eth1 of each from now on, and none by eth0: what left before counts no more.
func (all Talks) Afresh() {
	for _, k := range all {
		k.Helper()
		k.Wires = wire.Tap(k, k.server)
		k.GoesOn()
		k.WantEth1()
	}
}

// Stop stops each, and returns how many answers there were.
func (all Talks) Stop() (answers int) {
	for _, k := range all {
		k.Helper()
		answers += k.Stop()
	}
	return answers
}

// End ends each, and returns how many frames of answers there were, all by eth1.
func (all Talks) End() (frames int) {
	for _, k := range all {
		k.Helper()
		frames += len(k.End())
	}
	return frames
}

// EachMechanism runs a subtest for either way to attach that the kernel has, a quick run for the usual one.
func EachMechanism(t *testing.T, run func(t *testing.T, mechanism string)) {
	t.Helper()
	for _, mechanism := range []string{"tcx", "clsact"} {
		t.Run(mechanism, func(t *testing.T) {
			if mechanism == "tcx" {
				host.NeedTCX(t)
			}
			run(t, mechanism)
		})
		if short.Run(t) {
			return
		}
	}
}
