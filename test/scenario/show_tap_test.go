// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"testing"

	"replypath/test/harness"
	"replypath/test/topology"
)

// TestTap captures on the server itself, as an operator does with tcpdump: a moved
// answer is seen at the interface that it leaves by, with the MACs that it leaves
// with, and nowhere else. docs/guide/troubleshooting.md says so.
func TestTap(t *testing.T) {
	n := harness.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.AnySource})
	server := n.Server
	p := harness.On(t, server.Host)
	for _, mechanism := range []string{"tcx", "clsact"} {
		args := []string{"--mechanism", mechanism}
		if mechanism == "tcx" { // the choice where there is one; kernels before 6.6 have none
			args = nil
		}
		d := p.Start(args...)
		for _, f := range n.Families() {
			t.Run(mechanism+"/"+f.String(), func(t *testing.T) {
				eth0, eth1 := harness.Capture(t, server.Eth0), harness.Capture(t, server.Eth1)
				c := harness.NewConversation(t, harness.UDP, n.ClientEth0, server.Eth1.Address(f))
				harness.Ask(t, c)
				sent := topology.All(c.Answers(), topology.Going(topology.Sent))
				if frames := eth0.Frames(sent); len(frames) != 0 {
					t.Errorf("a moved answer is seen at the interface of the route: %s", harness.Describe(frames))
				}
				moved := topology.All(sent, topology.FromMAC(server.Eth1.MAC), topology.ToMAC(server.Eth1.Peer().MAC))
				if all, right := eth1.Count(sent), eth1.Count(moved); all == 0 || right != all {
					t.Errorf("%d answers are seen at the flow's interface, %d of them with its MACs", all, right)
				}
				if eth1.Count(topology.All(c.Questions(), topology.Going(topology.Received))) == 0 {
					t.Error("no question is seen where it comes in")
				}
			})
		}
		d.Kill()
		p.Detach()
	}
}
