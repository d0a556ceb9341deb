// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"slices"
	"strings"
	"testing"

	"replypath/loader/config"
	"replypath/loader/discover"
	"replypath/loader/fallback"
	"replypath/loader/pins"
	"replypath/loader/status"
	"replypath/test/await"
)

func TestRPFilterIsLooseWhileManaged(t *testing.T) {
	b := newServer(t)
	b.setRPFilter("all", 1)
	b.setRPFilter("eth1", 0)
	r := b.start()
	want := status.HostChange{
		Object: "sysctl net.ipv4.conf.eth1.rp_filter", Before: "0", After: "2",
		Undo: "sysctl -w net.ipv4.conf.eth1.rp_filter=0",
	}
	status := b.status()
	if got := otherChanges(status); len(got) != 2 || got[1] != want {
		t.Errorf("host changes %+v", got)
	}
	if i := status.of("eth1"); i.RPFilter == nil || *i.RPFilter != 2 {
		t.Errorf("status %+v", i)
	}

	// The first value counts, whatever somebody sets and however often we start.
	b.setRPFilter("eth1", 1)
	eventually(t, "it is loose again", func() bool { return b.rpFilter("eth1") == "2" })
	b.awaitRepairs(repairSysctl, 1)
	r.stop()
	b.setRPFilter("eth1", 1)
	b.start().stop()
	b.wantRPFilter("after another start", "eth1", "2")
	b.detach()
	b.wantRPFilter("after detach", "eth1", "0")

	// What somebody sets afterwards stays.
	b.setRPFilter("eth1", 1)
	b.start().stop()
	b.setRPFilter("eth1", 0)
	b.detach()
	b.wantRPFilter("that somebody has set", "eth1", "0")
}

// otherChanges are those that are not of the fallback route, nor of those behind it.
func otherChanges(s shown) []status.HostChange {
	return slices.DeleteFunc(slices.Clone(s.HostChanges), func(c status.HostChange) bool {
		key, isSysctl := strings.CutPrefix(c.Object, "sysctl ")
		return strings.Contains(c.Object, discover.OwnDevice) || strings.Contains(c.Object, "default route by") ||
			strings.Contains(c.Object, "which nobody has") ||
			isSysctl && fallback.IsGivingWay(pins.SysctlRecord{Key: key})
	})
}

func TestRPFilterIsRestoredWhereNotManaged(t *testing.T) {
	b := newServer(t)
	b.setRPFilter("eth0", 1)
	b.setRPFilter("eth1", 1)
	r := b.start()
	await.Must(t, r.reload(func(c *config.Config) { c.Interfaces = []config.Interface{{Name: "eth1"}} }))
	b.wantRPFilter("without eth0", "eth0", "1")
	await.Must(t, r.reload(func(c *config.Config) { c.ManageRPFilter = false }))
	b.wantRPFilter("without manage_rp_filter", "eth1", "1")
	if changes := otherChanges(b.status()); len(changes) != 0 {
		t.Errorf("host changes %+v", changes)
	}
	r.stop()

	b.start().stop()
	b.start(func(o *Options) { o.Config.ManageRPFilter = false })
	b.wantRPFilter("after a start without manage_rp_filter", "eth0", "1")
	b.wantRPFilter("after a start without manage_rp_filter", "eth1", "1")
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
		wantSame(b, what+", after detach", before, b.trace())
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
	wantSame(b, "a qdisc of ours, after detach", nothing, slices.Delete(got, ours, ours+1))
}
