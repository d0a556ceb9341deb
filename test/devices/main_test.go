// SPDX-License-Identifier: Apache-2.0

// Package devices runs replypath on network devices of several kinds, and beside others who hook into them: tunnels,
// qdiscs, filters and programs. Each network is first shown broken without it, then right with it.
//
// What the machine's kernel lacks is skipped by name. `make test-kernels` runs the
// kinds of devices (its suite kinds) on kernels that have everything.
package devices

import (
	"testing"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/product"
	_ "replypath/test/product/inprocess"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

func TestMain(m *testing.M) { product.Main(m) }

// needMechanism is needTCX where that is the mechanism.
func needMechanism(t *testing.T, mechanism string) {
	t.Helper()
	if mechanism == "tcx" {
		host.NeedTCX(t)
	}
}

// wantAllLost wants answers to questions at a server's eth1 to get lost without replypath.
func wantAllLost(t *testing.T, n *topology.TwoNIC, server *topology.Server) {
	t.Helper()
	traffic.EachQuestion(t, "without replypath", func(t *testing.T, f topology.Family, kind traffic.Kind) {
		wire.WantLost(t, server, traffic.NewConversation(t, kind, n.ClientEth0, server.Eth1.Address(f)))
	})
}

// wantAllByEth1 wants them by eth1 with replypath.
func wantAllByEth1(t *testing.T, n *topology.TwoNIC, server *topology.Server) {
	t.Helper()
	traffic.EachQuestion(t, "with replypath", func(t *testing.T, f topology.Family, kind traffic.Kind) {
		wire.WantByEth1(t, server, traffic.NewConversation(t, kind, n.ClientEth0, server.Eth1.Address(f)))
	})
}

// talks are conversations with the server's eth1 that go on, one of each family.
type talks struct {
	t    *testing.T
	all  []*traffic.Conversation
	kept []*traffic.Talk
}

func talkAll(t *testing.T, n *topology.TwoNIC) *talks {
	t.Helper()
	a := &talks{t: t}
	for _, f := range n.Families() {
		c := traffic.NewConversation(t, traffic.TCP, n.ClientEth0, n.Server.Eth1.Address(f))
		a.all, a.kept = append(a.all, c), append(a.kept, c.Keep(t))
	}
	return a
}

// awaitMore returns when each of them has had some more answers.
func (a *talks) awaitMore(wires *wire.Wires) {
	a.t.Helper()
	const more = 20
	for _, c := range a.all {
		seen := wires.Eth1.Count(c.Answers())
		_, err := wires.Eth1.WaitCount(await.Within(a.t, await.AnswerTime), seen+more, c.Answers())
		await.Must(a.t, err)
	}
}

// wantEth1 wants all answers by eth1.
func (a *talks) wantEth1(wires *wire.Wires) {
	a.t.Helper()
	for _, c := range a.all {
		wires.WantEth1(c.String(), c.Answers())
	}
}

// stop ends them, and returns how many answers there were.
func (a *talks) stop() (answers int) {
	a.t.Helper()
	for _, k := range a.kept {
		answers += k.Stop()
	}
	return answers
}
