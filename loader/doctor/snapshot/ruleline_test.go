// SPDX-License-Identifier: Apache-2.0

package snapshot_test

import (
	"testing"

	"golang.org/x/sys/unix"

	"replypath/loader/doctor/snapshot"
	"replypath/test/testhost"
)

// A table may be written by a name.
func TestRuleLineAdds(t *testing.T) {
	rule := snapshot.Rule{Family: unix.AF_INET, Src: testhost.Prefix("10.4.0.100/32"), Table: 100}
	for _, test := range []struct {
		line snapshot.RuleLine
		adds bool
	}{
		{snapshot.RuleLine{Src: rule.Src, Table: "100"}, true},
		{snapshot.RuleLine{Src: rule.Src, Table: "replication"}, true}, // a name may stand for any table
		{snapshot.RuleLine{Src: rule.Src}, true},
		{snapshot.RuleLine{Src: rule.Src, Table: "101"}, false},
		{snapshot.RuleLine{Src: testhost.Prefix("10.4.0.0/24"), Table: "100"}, false},
		{snapshot.RuleLine{Src: rule.Src, IIF: "eth1", Table: "100"}, false},
		{snapshot.RuleLine{Src: rule.Src, Mark: "1", Table: "100"}, false},
		{snapshot.RuleLine{Table: "100"}, false},
	} {
		if got := test.line.Adds(&rule); got != test.adds {
			t.Errorf("%+v: %v", test.line, got)
		}
	}
}

// A mark is the same in both families.
func TestMarkLineAdds(t *testing.T) {
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		rule := snapshot.Rule{Family: family, Mark: 1, Mask: snapshot.AllBits, Table: 100}
		for said, adds := range map[int]bool{0: true, unix.AF_INET: family == unix.AF_INET, unix.AF_INET6: family == unix.AF_INET6} {
			line := snapshot.RuleLine{Mark: "1", Table: "100", Family: said}
			if got := line.Adds(&rule); got != adds {
				t.Errorf("%+v adds %+v: %v", line, rule, got)
			}
		}
	}
	// Marks are compared with their masks.
	for mark, adds := range map[string]bool{
		"0x80000/0xff0000": true, "524288/16711680": true, "0x80000": false, "0x80000/0xffffffff": false, "0x1/0xff0000": false, "0x80000/many": false, "": false,
	} {
		line := snapshot.RuleLine{Mark: mark, Table: "52", Src: testhost.Prefix("10.4.0.100/32")}
		rule := snapshot.Rule{Family: unix.AF_INET, Mark: 0x80000, Mask: 0xff0000, Table: 52, Src: line.Src}
		if got := line.Adds(&rule); got != adds {
			t.Errorf("%q adds %+v: %v", mark, rule, got)
		}
	}
}
