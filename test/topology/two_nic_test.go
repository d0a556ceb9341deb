// SPDX-License-Identifier: Apache-2.0

package topology

import "testing"

func newTwoNIC(t *testing.T, options TwoNICOptions) *TwoNIC {
	t.Helper()
	needRoot(t)
	n, err := NewTwoNIC(within(t, setUpTime), options)
	must(t, err)
	closeAtEnd(t, n.Network)
	for _, f := range n.Families() {
		serveAll(t, n.Server.Host, n.Server.Eth0.Address(f))
		serveAll(t, n.Server.Host, n.Server.Eth1.Address(f))
	}
	return n
}

func TestTwoNIC(t *testing.T) {
	for _, policy := range []Policy{StrictSource, Stateful, AnySource} {
		t.Run(policy.String(), func(t *testing.T) {
			n := newTwoNIC(t, TwoNICOptions{Policy: policy})
			eachQuestion(t, n.Families(), func(t *testing.T, f Family, q question) {
				expectAnswer(t, q, n.Client, n.Server.Eth0.Address(f))
				eth0 := capture(t, n.Server.Eth0.Peer())
				eth1 := capture(t, n.Server.Eth1.Peer())
				asked := n.Server.Eth1.Address(f)
				err := askInVain(t, q, n.Client, asked, eth0)
				if (err == nil) != (policy == AnySource) {
					t.Errorf("asking eth1: %v", err)
				}
				answers := All(q.answer, From(asked))
				if eth0.Count(answers) == 0 || eth1.Count(answers) != 0 {
					t.Errorf("%d answers left by eth0, %d by eth1", eth0.Count(answers), eth1.Count(answers))
				}
			})
			drops := must1[uint64](t)(n.Production.Drops())
			if (drops == 0) != (policy == AnySource) {
				t.Errorf("the production router dropped %d packets", drops)
			}
		})
	}
}

func TestTwoNICSecondDefault(t *testing.T) {
	n := newTwoNIC(t, TwoNICOptions{Eth1Metric: 5000})
	// Without eth0, the second default serves eth1.
	must(t, n.Server.Eth0.SetDown())
	eachQuestion(t, n.Families(), func(t *testing.T, f Family, q question) {
		expectAnswer(t, q, n.Client, n.Server.Eth1.Address(f))
	})
}
