// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"testing"

	"replypath/test/harness"
	"replypath/test/topology"
)

// TestForbiddenRoute has the administrator forbid the way to the client: nothing
// leaves for it by any NIC, neither answers to new questions nor those of a
// conversation that goes on, until the route is taken away.
func TestForbiddenRoute(t *testing.T) {
	n := harness.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.StrictSource})
	harness.On(t, n.Server.Host).Start()
	nics := []*topology.Interface{n.Server.Eth1, n.Server.Eth0}
	byEth1 := exit{nics, n.Server.Eth1, n.Server.Eth1.Peer().MAC}
	for _, kind := range []string{"prohibit", "unreachable", "blackhole"} {
		for _, f := range harness.Families {
			t.Run(kind+"/"+f.String(), func(t *testing.T) {
				asked := n.Server.Eth1.Address(f)
				var begun []*harness.Conversation
				for _, k := range harness.Kinds {
					c := harness.NewConversation(t, k, n.ClientEth0, asked)
					harness.Ask(t, c)
					begun = append(begun, c)
				}
				route := fmt.Sprintf("%s %s", kind, map[topology.Family]string{topology.IPv4: "10.9.0.0/24", topology.IPv6: "2001:db8:9::/64"}[f])
				harness.Shell(t, n.Server.Host, "ip route add "+route)
				for _, c := range begun {
					wantNoAnswer(t, c, nics...)
				}
				for _, k := range harness.Kinds {
					wantNoAnswer(t, harness.NewConversation(t, k, n.ClientEth0, asked), nics...)
				}
				harness.Shell(t, n.Server.Host, "ip route del "+route)
				for _, k := range harness.Kinds {
					c := harness.NewConversation(t, k, n.ClientEth0, asked)
					byEth1.wantAnswers(t, c, c.Answers())
				}
			})
		}
	}
}
