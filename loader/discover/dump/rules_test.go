// SPDX-License-Identifier: Apache-2.0

package dump

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/traffic"
)

func TestRules(t *testing.T) {
	h := traffic.NewHost(t)
	host.Shell(t, h, `
ip rule add from 10.4.0.100 lookup 100 priority 5
ip rule add to 10.9.0.0/24 prohibit priority 6
ip -6 rule add from 2001:db8::1 blackhole priority 7
ip -6 rule add from 2001:db8::2 unreachable priority 8
`)
	type rule struct {
		family, priority, table int
		action                  uint8
	}
	var got []rule
	await.Must(t, h.Do(func() error {
		all, err := Rules(h.Netlink())
		for _, r := range all {
			got = append(got, rule{r.Family, r.Priority, r.Table, r.Action})
		}
		return err
	}))
	want := []rule{
		{unix.AF_INET, 0, unix.RT_TABLE_LOCAL, nl.FR_ACT_TO_TBL},
		{unix.AF_INET, 5, 100, nl.FR_ACT_TO_TBL},
		{unix.AF_INET, 6, 0, nl.FR_ACT_PROHIBIT},
		{unix.AF_INET, 32766, unix.RT_TABLE_MAIN, nl.FR_ACT_TO_TBL},
		{unix.AF_INET, 32767, unix.RT_TABLE_DEFAULT, nl.FR_ACT_TO_TBL},
		{unix.AF_INET6, 0, unix.RT_TABLE_LOCAL, nl.FR_ACT_TO_TBL},
		{unix.AF_INET6, 7, 0, nl.FR_ACT_BLACKHOLE},
		{unix.AF_INET6, 8, 0, nl.FR_ACT_UNREACHABLE},
		{unix.AF_INET6, 32766, unix.RT_TABLE_MAIN, nl.FR_ACT_TO_TBL},
	}
	await.Same(t, "rules", want, got, cmp.AllowUnexported(rule{}))
}
