// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"testing"

	"golang.org/x/sys/unix"

	"replypath/loader/doctor/snapshot"
	"replypath/loader/netfilter"
	"replypath/test/await"
	"replypath/test/testhost"
)

// TestAnswersBack: by which interface a rule sends answers back, and whether it is needed for them; "" where it does something else.
func TestAnswersBack(t *testing.T) {
	const replaced, needed = "eth1 not-needed", "eth1 needed"
	bySource := func(r snapshot.Rule) snapshot.Rule {
		r.Src, r.Table = testhost.Prefix("10.4.0.100/32"), 100
		return r
	}
	byMark := func(mark, mask uint32) snapshot.Rule { return snapshot.Rule{Mark: mark, Mask: mask, Table: 100} }
	marked := byMark(1, snapshot.AllBits)
	marked6, inverted, inMain, elsewhere := marked, marked, marked, marked
	marked6.Family, inverted.Invert, inMain.Table, elsewhere.Table = unix.AF_INET6, true, unix.RT_TABLE_MAIN, 101
	restores := func(family string) netfilter.Chain {
		return netfilter.Chain{Family: family, Table: "mangle", Name: "OUTPUT", Rules: []netfilter.Rule{{Restores: true}}}
	}
	gives := netfilter.Chain{Family: "inet", Table: "mangle", Name: "in", Rules: []netfilter.Rule{{
		In: []string{"eth1"}, Marks: []uint32{0x1, 0x101}, Gives: []uint32{0x1, 0x101},
	}}}
	both := testhost.Chains(gives, restores("inet"))
	for _, test := range []struct {
		name   string
		rule   snapshot.Rule
		change func(*snapshot.Host)
		want   string
	}{
		{"an own address", bySource(snapshot.Rule{}), nil, replaced},
		{"ipv6, the network", snapshot.Rule{Family: unix.AF_INET6, Src: testhost.Prefix("2001:db8:4::/64"), Table: 100}, nil, replaced},
		{"the default route leads by an interface that catches replies", bySource(snapshot.Rule{}), func(h *snapshot.Host) {
			h.Caught, h.Interfaces = h.Interfaces[:1], h.Interfaces[1:]
		}, replaced},
		{"by another interface", snapshot.Rule{Src: testhost.Prefix("10.3.0.100/32"), Table: 100}, nil, ""},
		{"somebody else's address", snapshot.Rule{Src: testhost.Prefix("192.0.2.1/32"), Table: 100}, nil, ""},
		{"to somebody", bySource(snapshot.Rule{Dst: testhost.Prefix("192.0.2.0/24")}), nil, ""},
		{"with no mark of tailscale's", bySource(snapshot.Rule{Mask: 0xff0000}), nil, ""},
		{"not", bySource(snapshot.Rule{Invert: true}), nil, ""},
		{"more conditions", bySource(snapshot.Rule{Other: true}), nil, ""},
		{"connmark", marked, both, replaced},
		{"with a mask", byMark(0x100, 0xf00), both, replaced},
		{"ipv6", marked6, both, replaced},
		{"ipv6, by a chain of its own", marked6, testhost.Chains(restores("ip"), restores("ip6")), needed},
		{"ipv6, and connections bring it back for ipv4 only", marked6, testhost.Chains(restores("ip")), ""},
		{"and connections bring it back for ipv6 only", marked, testhost.Chains(restores("ip6")), ""},
		{"a mark that no connection brings back", marked, nil, ""},
		{"another mark, by its mask", byMark(0x200, 0xf00), both, ""},
		{"another mark than the same bits", byMark(0x100, snapshot.AllBits), both, ""},
		{"to the main table", inMain, both, ""},
		{"all but a mark, as wg-quick has it", inverted, both, ""},
		{"a table without a managed interface", elsewhere, both, ""},
	} {
		h := testhost.New()
		testhost.Rule(test.rule)(h)
		if test.change != nil {
			test.change(h)
		}
		judged, is := (&judge{Host: h}).rule(&h.Rules[len(h.Rules)-1]), ""
		if judged.by != nil {
			is = judged.by.Name + " " + judged.verdict
		}
		await.Same(t, test.name, test.want, is)
	}
}
