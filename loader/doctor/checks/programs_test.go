// SPDX-License-Identifier: Apache-2.0

package checks

import (
	"testing"

	"replypath/loader/doctor/snapshot"
	"replypath/test/testhost"
)

func TestOtherPrograms(t *testing.T) {
	ours := func(egress, tcx bool) snapshot.Hook {
		return testhost.Hook(testhost.Eth1, egress, tcx, "replypath_x", true)
	}
	theirs := func(egress, tcx bool) snapshot.Hook {
		return testhost.Hook(testhost.Eth1, egress, tcx, "theirs", false)
	}
	redirecting := func(h snapshot.Hook) snapshot.Hook { h.Redirects = true; return h }
	hooks := func(hooks ...snapshot.Hook) func(*snapshot.Host) { return func(h *snapshot.Host) { h.Hooks = hooks } }
	const (
		in, out     = false, true
		tcx, filter = true, false
		behind      = " at egress runs behind replypath: it does not see replies that are moved away from here"
		before      = " at ingress runs before replypath, which does not see what it takes away or redirects"
		sees        = " at ingress sees what replypath has seen"
		seesFirst   = " at egress sees what the kernel sends here, before replypath, which does not see what it redirects"
		first       = "; replypath is first again once it is attached again ?? bpftool net show dev eth1"
		last        = "; replypath is last again once it is attached again ?? bpftool net show dev eth1"
		look        = " ?? tc filter show dev eth1 "
		shaper      = "note: attached by clsact: a shaper's \"tc qdisc add dev ... ingress\" is refused on managed interfaces. Its filters can go into clsact: " +
			"tc filter add dev ... ingress, not parent ffff:. A qdisc of its own takes tcx (kernel 6.6), or an interface that is left to it (ignore_interfaces)" +
			" ?? tc qdisc show dev eth1 clsact"
	)
	testhost.Check(t, OtherPrograms, []testhost.Wants{
		{"ours", hooks(ours(in, tcx), ours(out, tcx)), nil},
		{"in their places", hooks(ours(in, tcx), theirs(in, tcx), theirs(in, filter), theirs(out, tcx), ours(out, tcx)), []string{
			"ok eth1: tcx program theirs" + sees, "ok eth1: filter theirs" + sees, "ok eth1: tcx program theirs" + seesFirst,
		}},
		{"the other way round", hooks(theirs(in, tcx), ours(in, tcx), ours(out, tcx), theirs(out, tcx), theirs(out, filter)), []string{
			"note eth1: tcx program theirs" + before + first, "note eth1: tcx program theirs" + behind + last,
			"note eth1: filter theirs" + behind + look + "egress",
		}},
		{"filters both", hooks(theirs(in, filter), ours(in, filter), theirs(out, filter), ours(out, filter)), []string{
			shaper, "note eth1: filter theirs" + before + look + "ingress", "ok eth1: filter theirs" + seesFirst,
		}},
		{"a filter that redirects", hooks(redirecting(theirs(out, filter)), ours(out, filter)), []string{
			shaper, "warning eth1: filter theirs at egress runs before replypath, which does not see what it redirects" + look + "egress",
		}},
		{"before the first start", hooks(theirs(in, tcx), theirs(in, filter), theirs(out, tcx), theirs(out, filter)), []string{
			"ok eth1: tcx program theirs" + sees, "ok eth1: filter theirs" + sees,
			"ok eth1: tcx program theirs" + seesFirst, "note eth1: filter theirs" + behind + look + "egress",
		}},
		{"before the first start, without tcx", func(h *snapshot.Host) { h.TCX = false; h.Hooks = []snapshot.Hook{theirs(out, filter)} }, []string{"ok eth1: filter theirs" + seesFirst}},
	})
}
