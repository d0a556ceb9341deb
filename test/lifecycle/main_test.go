// SPDX-License-Identifier: Apache-2.0

// Package lifecycle tests how the daemon comes and goes, what it tells, and what
// it leaves alone.
package lifecycle

import (
	"testing"

	"replypath/test/harness"
	_ "replypath/test/harness/inprocess"
	"replypath/test/topology"
)

func TestMain(m *testing.M) { harness.Main(m) }

// newServer builds the network of a server with two interfaces, where every
// router takes any source: answers arrive whichever way they go.
func newServer(t *testing.T) *topology.TwoNIC {
	t.Helper()
	return harness.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.AnySource, Offloads: topology.WireExact})
}

// conversation prepares one between the client and the server's eth1.
func conversation(t *testing.T, n *topology.TwoNIC, kind harness.Kind, f topology.Family) *harness.Conversation {
	t.Helper()
	return harness.NewConversation(t, kind, n.ClientEth0, n.Server.Eth1.Address(f))
}

// mechanisms are the two ways to attach.
var mechanisms = []string{"tcx", "clsact"}

// start starts the daemon so that it attaches by a mechanism. Where there is a
// choice the product takes tcx.
func start(p *harness.Product, mechanism string, args ...string) *harness.Daemon {
	if mechanism != "tcx" {
		args = append(args, "--mechanism", mechanism)
	}
	return p.Start(args...)
}
