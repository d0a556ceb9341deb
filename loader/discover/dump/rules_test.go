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
		some                    bool
	}
	var got []rule
	await.Must(t, h.Do(addRuleByDSCP))
	await.Must(t, h.Do(func() error {
		all, err := Rules(h.Netlink())
		for _, r := range all {
			got = append(got, rule{r.Family, r.Priority, r.Table, r.Action, r.SelectsSome()})
		}
		return err
	}))
	want := []rule{
		{unix.AF_INET, 0, unix.RT_TABLE_LOCAL, nl.FR_ACT_TO_TBL, false},
		{unix.AF_INET, 4, 100, nl.FR_ACT_TO_TBL, true},
		{unix.AF_INET, 5, 100, nl.FR_ACT_TO_TBL, false},
		{unix.AF_INET, 6, 0, nl.FR_ACT_PROHIBIT, false},
		{unix.AF_INET, 32766, unix.RT_TABLE_MAIN, nl.FR_ACT_TO_TBL, false},
		{unix.AF_INET, 32767, unix.RT_TABLE_DEFAULT, nl.FR_ACT_TO_TBL, false},
		{unix.AF_INET6, 0, unix.RT_TABLE_LOCAL, nl.FR_ACT_TO_TBL, false},
		{unix.AF_INET6, 7, 0, nl.FR_ACT_BLACKHOLE, false},
		{unix.AF_INET6, 8, 0, nl.FR_ACT_UNREACHABLE, false},
		{unix.AF_INET6, 32766, unix.RT_TABLE_MAIN, nl.FR_ACT_TO_TBL, false},
	}
	await.Same(t, "rules", want, got, cmp.AllowUnexported(rule{}))
}

// addRuleByDSCP adds a rule with a condition that the library does not know, or with a TOS before Linux 6.14.
func addRuleByDSCP() error {
	const fraDSCP = 25
	add := func(tos uint8, attrs ...*nl.RtAttr) error {
		request := nl.NewNetlinkRequest(unix.RTM_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK)
		request.AddData(&nl.RtMsg{RtMsg: unix.RtMsg{Family: unix.AF_INET, Tos: tos, Table: 100, Type: nl.FR_ACT_TO_TBL}})
		for _, a := range append(attrs, nl.NewRtAttr(nl.FRA_PRIORITY, nl.Uint32Attr(4))) {
			request.AddData(a)
		}
		_, err := request.Execute(unix.NETLINK_ROUTE, 0)
		return err
	}
	if add(0, nl.NewRtAttr(fraDSCP, []byte{8})) != nil {
		return add(0x10)
	}
	return nil
}
