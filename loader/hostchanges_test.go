// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"replypath/loader/config"
	"replypath/loader/discover"
	"replypath/loader/fallback"
	"replypath/loader/pins"
	"replypath/loader/status"
	"replypath/test/harness"
	"replypath/test/topology"
)

func TestRPFilterIsLooseWhileManaged(t *testing.T) {
	s := newS1(t, topology.S1Options{})
	b := newBed(t, s.B.Host)
	b.setRPFilter("all", 1)
	b.setRPFilter("eth1", 0)
	r := b.start(nil)
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
	pingB(t, s)

	// The first value counts, whatever somebody sets and however often we start.
	b.setRPFilter("eth1", 1)
	eventually(t, "it is loose again", func() bool { return b.rpFilter("eth1") == "2" })
	eventually(t, "the repair is written down", func() bool { return b.repairs(repairSysctl) == 1 })
	r.stop()
	b.setRPFilter("eth1", 1)
	b.start(nil).stop()
	if got := b.rpFilter("eth1"); got != "2" {
		t.Errorf("after another start it is %s", got)
	}
	b.detach()
	if got := b.rpFilter("eth1"); got != "0" {
		t.Errorf("after detach it is %s", got)
	}
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

func (b *bed) repairs(object string) uint64 {
	b.Helper()
	return b.journal().Repairs[object]
}

func TestRPFilterOfOthersIsLeft(t *testing.T) {
	s := newS1(t, topology.S1Options{})
	b := newBed(t, s.B.Host)
	b.setRPFilter("eth1", 1)
	b.start(nil).stop()
	b.setRPFilter("eth1", 0)
	b.detach()
	if got := b.rpFilter("eth1"); got != "0" {
		t.Errorf("rp_filter that somebody has set is %s after detach", got)
	}
}

func TestRPFilterIsRestoredWhereNotManaged(t *testing.T) {
	s := newS1(t, topology.S1Options{})
	b := newBed(t, s.B.Host)
	b.setRPFilter("eth0", 1)
	b.setRPFilter("eth1", 1)
	r := b.start(nil)
	harness.Must(t, r.reload(func(c *config.Config) { c.Interfaces = []config.Interface{{Name: "eth1"}} }))
	if got := b.rpFilter("eth0"); got != "1" {
		t.Errorf("rp_filter of eth0 is %s", got)
	}
	harness.Must(t, r.reload(func(c *config.Config) { c.ManageRPFilter = false }))
	if got := b.rpFilter("eth1"); got != "1" {
		t.Errorf("rp_filter of eth1 is %s", got)
	}
	if changes := otherChanges(b.status()); len(changes) != 0 {
		t.Errorf("host changes %+v", changes)
	}
	r.stop()

	b.start(nil).stop()
	b.start(func(o *Options) { o.Config.ManageRPFilter = false })
	for _, name := range []string{"eth0", "eth1"} {
		if got := b.rpFilter(name); got != "1" {
			t.Errorf("after a start without manage_rp_filter that of %s is %s", name, got)
		}
	}
}

// A qdisc with filters of others stays, whoever made it, and so do they.
func TestForeignFiltersAreLeft(t *testing.T) {
	const filter = "filter add dev eth1 ingress prio 7 protocol ip bpf bytecode '1,6 0 0 0,' flowid 1:1\n"
	t.Run("in a foreign qdisc", func(t *testing.T) {
		s := newS1(t, topology.S1Options{})
		b := newBed(t, s.B.Host)
		b.tc("qdisc add dev eth1 clsact\n" + filter)
		before := b.trace()
		r := b.start(byClsact)
		if changes := otherChanges(b.status()); len(changes) != 1 || !strings.Contains(changes[0].Object, "eth0") {
			t.Errorf("host changes %+v", changes)
		}
		pingB(t, s)
		r.stop()
		b.detach()
		if diff := cmp.Diff(before, b.trace()); diff != "" {
			t.Errorf("after detach (-want +got):\n%s", diff)
		}
	})
	t.Run("in a qdisc of ours", func(t *testing.T) {
		s := newS1(t, topology.S1Options{})
		b := newBed(t, s.B.Host)
		before := b.trace()
		r := b.start(byClsact)
		b.tc(filter)
		r.stop()
		b.detach()
		b.tc("filter del dev eth1 ingress prio 7\n")
		got := b.trace()
		if diff := cmp.Diff(append([]string{}, before...), without(got, "eth1 qdisc clsact")); diff != "" {
			t.Errorf("after detach (-want +got):\n%s", diff)
		}
		if len(got) != len(before)+1 {
			t.Error("the qdisc went with the filter of somebody else")
		}
	})
	t.Run("at our priority", func(t *testing.T) {
		s := newS1(t, topology.S1Options{})
		b := newBed(t, s.B.Host)
		b.tc("qdisc add dev eth1 clsact\nfilter add dev eth1 ingress prio 5 protocol ip bpf bytecode '1,6 0 0 0,' flowid 1:1\n")
		before := b.trace()
		b.start(byClsact).stop()
		pingB(t, s)
		b.detach()
		if diff := cmp.Diff(before, b.trace()); diff != "" {
			t.Errorf("after detach (-want +got):\n%s", diff)
		}
	})
}

func without(lines []string, unwanted string) []string {
	var left []string
	for _, line := range lines {
		if line != unwanted {
			left = append(left, line)
		}
	}
	return left
}

// Programs that somebody takes off are put back, and it stays the same interface.
func TestLostProgramsAreAttachedAgain(t *testing.T) {
	for mechanism, options := range mechanisms {
		t.Run(string(mechanism), func(t *testing.T) {
			s := newS1(t, topology.S1Options{})
			b := newBed(t, s.B.Host)
			r := b.start(options)
			lives := b.idsOf("eth1")
			r.mu.Lock() // so that nothing is put back meanwhile
			b.takeOff(r, "eth1")
			attached := b.status().of("eth1").Attached
			r.mu.Unlock()
			if attached {
				t.Fatal("still attached")
			}
			b.awaitAttached("eth1")
			eventually(t, "the repair is written down", func() bool { return b.repairs(repairProgram) == 1 })
			if diff := cmp.Diff(lives, b.idsOf("eth1")); diff != "" {
				t.Errorf("ids (-before +after):\n%s", diff)
			}
			pingB(t, s)
		})
	}
}
