// SPDX-License-Identifier: Apache-2.0

package guide

import (
	"os"
	"testing"

	"replypath/test/await"
	testhost "replypath/test/host"
	"replypath/test/traffic"
	"replypath/test/wire"
)

func init() { runners["docs/guide/kubernetes.md"] = runKubernetes }

// clusterVariable names the directory in which test/guide/cluster has put what a cluster consists of.
const clusterVariable = "REPLYPATH_CLUSTER"

// runKubernetes has the host be the only node of a cluster.
func runKubernetes(t *testing.T, p *page) {
	dir := os.Getenv(clusterVariable)
	if dir == "" {
		t.Skip("make test-kubernetes runs it")
	}
	h := newHost(t)
	h.joinCluster(dir)
	before := testhost.TakeSnapshot(t, h.s.B.Host, "eth0", "eth1")
	h.wantMended(false)
	p.run(h, "Install")
	h.wantMended(false)
	p.run(h, "Enforce")
	h.wantMended(true)
	h.wantSaid("cat /proc/$(pidof replypath)/status", "Seccomp:\t2") // a filter: that of the runtime
	p.run(h, "Take it away")
	h.wantUnchanged(before)
	p.run(h, "Without Helm")
	h.wantMended(true)
	p.run(h, "Take it away without Helm")
	h.wantUnchanged(before)
}

// wantUnchanged wants nothing to be left on the host of what replypath has changed.
func (h *host) wantUnchanged(before testhost.Snapshot) {
	h.t.Helper()
	h.wantMended(false)
	await.Same(h.t, "the node has changed", before, testhost.TakeSnapshot(h.t, h.s.B.Host, "eth0", "eth1"))
}

// wantMended wants replies to leave by eth1, or by eth0 as they do without the product.
func (h *host) wantMended(mended bool) {
	h.t.Helper()
	for _, f := range h.s.Families() {
		wire.WantBy(h.t, h.s.B, traffic.NewConversation(h.t, traffic.TCP, h.s.A.Eth0, h.s.B.Eth1.Address(f)), mended)
	}
}
