// SPDX-License-Identifier: Apache-2.0

// Package lifecycle tests how the daemon comes and goes, what it tells, and what it leaves alone.
package lifecycle

import (
	"os"
	"strings"
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

// conversation prepares one between the client and the server's eth1.
func conversation(t *testing.T, n *topology.TwoNIC, kind traffic.Kind, f topology.Family) *traffic.Conversation {
	t.Helper()
	return traffic.NewConversation(t, kind, n.ClientEth0, n.Server.Eth1.Address(f))
}

// conversations prepares those of every kind and family.
func conversations(t *testing.T, n *topology.TwoNIC) (all []*traffic.Conversation) {
	t.Helper()
	for _, f := range n.Families() {
		for _, kind := range traffic.Kinds {
			all = append(all, conversation(t, n, kind, f))
		}
	}
	return all
}

// wantAll wants answers of every kind and family by eth1, or by eth0.
func wantAll(t *testing.T, n *topology.TwoNIC, eth1 bool) {
	t.Helper()
	for _, c := range conversations(t, n) {
		wire.WantBy(t, n.Server, c, eth1)
	}
}

// wantTCP wants the answers of a connection of each family by eth1, or by eth0.
func wantTCP(t *testing.T, n *topology.TwoNIC, eth1 bool) {
	t.Helper()
	for _, f := range n.Families() {
		wire.WantBy(t, n.Server, conversation(t, n, traffic.TCP, f), eth1)
	}
}

// mechanisms are the two ways to attach.
var mechanisms = []string{"tcx", "clsact"}

// start starts the daemon so that it attaches by a mechanism. Where there is a choice the product takes tcx.
func start(p *product.Product, mechanism string, args ...string) *product.Daemon {
	if mechanism != "tcx" {
		args = append(args, "--mechanism", mechanism)
	}
	return p.Start(args...)
}

func snapshot(t *testing.T, n *topology.TwoNIC) host.Snapshot {
	t.Helper()
	return host.TakeSnapshot(t, n.Server.Host, "eth0", "eth1")
}

// wantOneLine wants an error message of one line in lower case that has all of the words.
func wantOneLine(t *testing.T, r *product.Result, words ...string) {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(r.Stderr), "\n")
	message := lines[len(lines)-1]
	if len(lines) != 1 || !strings.HasPrefix(message, "replypath: ") {
		t.Errorf("not one line of error: %s", r)
	}
	await.Says(t, "the error", message, words...)
}

// rewrite gives a configuration file another text.
func rewrite(t *testing.T, path, text string) {
	t.Helper()
	await.Must(t, os.WriteFile(path, []byte(text), 0o644))
}
