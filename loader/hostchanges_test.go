// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"slices"
	"strings"
	"testing"

	"replypath/loader/discover"
	"replypath/loader/status"
	"replypath/test/await"
)

// otherChanges are those that are not of the fallback route, nor of those behind it.
func otherChanges(s shown) []status.HostChange {
	return slices.DeleteFunc(slices.Clone(s.HostChanges), func(c status.HostChange) bool {
		return strings.Contains(c.Object, discover.OwnDevice) || strings.Contains(c.Object, "default route by") ||
			strings.Contains(c.Object, "which nobody has")
	})
}

// TestForeignFiltersAreLeft: a qdisc with filters of others stays, whoever made it, and so do they.
func TestForeignFiltersAreLeft(t *testing.T) {
	b := newAnsweringServer(t)
	nothing := b.trace()
	addFilter := func(prio string) {
		b.tc("filter add dev eth1 ingress " + prio + " protocol ip bpf bytecode '1,6 0 0 0,' flowid 1:1")
	}
	for what, prio := range map[string]string{"a foreign qdisc": "prio 7", "a foreign qdisc, at our priority": "prio 5"} {
		b.tc("qdisc add dev eth1 clsact")
		addFilter(prio)
		before := b.trace()
		r := b.start(byClsact)
		if changes := otherChanges(b.status()); len(changes) != 1 || !strings.Contains(changes[0].Object, "eth0") {
			t.Errorf("%s: host changes %+v", what, changes)
		}
		b.ping()
		r.stop()
		b.detach()
		await.Same(b, what+", after detach", before, b.trace())
		b.tc("qdisc del dev eth1 clsact")
	}

	r := b.start(byClsact) // a qdisc of ours
	addFilter("prio 7")
	r.stop()
	b.detach()
	b.tc("filter del dev eth1 ingress prio 7")
	got := b.trace()
	ours := slices.Index(got, "eth1 qdisc clsact")
	if ours < 0 {
		t.Fatal("the qdisc went with the filter of somebody else")
	}
	await.Same(b, "a qdisc of ours, after detach", nothing, slices.Delete(got, ours, ours+1))
}
