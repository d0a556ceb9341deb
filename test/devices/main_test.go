// Package devices runs replypath on network devices of several kinds, and beside
// others who hook into them: tunnels, qdiscs, filters and programs.
package devices

import (
	"testing"

	"replypath/test/harness"
	"replypath/test/topology"
)

func TestMain(m *testing.M) { harness.Main(m) }

// wireExact turns off what makes a captured frame stand for several on the
// wire, so that frames and counters can be compared exactly.
var wireExact = topology.Offloads{NoSegmentation: true, NoReceive: true}

// eachKind runs a subtest for each family and kind of question.
func eachKind(t *testing.T, name string, run func(*testing.T, topology.Family, harness.Kind)) {
	for _, f := range []topology.Family{topology.IPv4, topology.IPv6} {
		for _, kind := range harness.Kinds {
			t.Run(name+"/"+f.String()+"/"+string(kind), func(t *testing.T) { run(t, f, kind) })
		}
	}
}

// ask wants answers to questions of several sizes.
func ask(t *testing.T, c *harness.Conversation) {
	t.Helper()
	for _, size := range []int{1, 1000, 60_000} {
		if c.Kind != harness.TCP && size > 1000 {
			continue // would be fragmented
		}
		if err := c.AskFor(harness.Within(t, harness.AnswerTime), size); err != nil {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
}

// wantByEth1 asks, and wants every answer to leave by the server's eth1.
func wantByEth1(t *testing.T, server *topology.Server, c *harness.Conversation) {
	t.Helper()
	wires := harness.Tap(t, server)
	ask(t, c)
	wires.WantEth1(c.String(), c.Answers())
}

// awaitMore returns when a conversation that goes on has had some more answers.
func awaitMore(t *testing.T, wires *harness.Wires, c *harness.Conversation) {
	t.Helper()
	const more = 20
	seen := wires.Eth1.Count(c.Answers())
	_, err := wires.Eth1.WaitCount(harness.Within(t, harness.AnswerTime), seen+more, c.Answers())
	harness.Must(t, err)
}
