// SPDX-License-Identifier: Apache-2.0

package nexthop

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestShadowed(t *testing.T) {
	for name, test := range map[string]struct {
		family int
		setUp  string // commands of ip, with commas between them
		want   string
	}{
		"a default route of main":        {unix.AF_INET, "route add default via 10.1.0.1", ""},
		"none":                           {unix.AF_INET, "addr show", ""},
		"table default":                  {unix.AF_INET, "route add default via 10.1.0.1 table 253", "of table 253"},
		"beside one of main":             {unix.AF_INET, "route add default via 10.1.0.1, route add default via 10.1.0.2 table 253", "of table 253"},
		"not a default route":            {unix.AF_INET, "route add 10.9.0.0/16 via 10.1.0.1 table 253", ""},
		"an unreachable one":             {unix.AF_INET, "route add unreachable default table 253", ""},
		"a table that nobody asks":       {unix.AF_INET, "route add default via 10.1.0.1 table 7", ""},
		"one that is asked before":       {unix.AF_INET, "route add default via 10.1.0.1 table 7, rule add from 10.1.0.100 table 7", ""},
		"one that is asked later":        {unix.AF_INET, "route add default via 10.1.0.1 table 7, rule add prio 40000 table 7", "of table 7"},
		"main is asked earlier":          {unix.AF_INET, "route add default via 10.1.0.1 table 7, rule add prio 50 table main, rule add prio 60 table 7", "of table 7"},
		"main's networks alone are":      {unix.AF_INET, "route add default via 10.1.0.1 table 7, rule add prio 50 table main suppress_prefixlength 0, rule add prio 60 table 7", ""},
		"main is asked earlier by some":  {unix.AF_INET, "route add default via 10.1.0.1 table 7, rule add prio 50 fwmark 1 table main, rule add prio 60 table 7", ""},
		"the fallback route's metric":    {unix.AF_INET, "route add default via 10.1.0.1 metric 4294967294", "of metric 4294967294"},
		"the last metric":                {unix.AF_INET, "route add default via 10.1.0.1 metric 4294967295", "of metric 4294967295"},
		"the one before the fallback":    {unix.AF_INET, "route add default via 10.1.0.1 metric 4294967293", ""},
		"one of replypath's own":         {unix.AF_INET, "route add default via 10.1.0.1 metric 4294967295 proto 114", ""},
		"IPv6: of main":                  {unix.AF_INET6, "route add default via 2001:db8:1::1", ""},
		"IPv6: asked later":              {unix.AF_INET6, "route add default via 2001:db8:1::1 table 7, -6 rule add prio 40000 table 7", "of table 7"},
		"IPv6: for a source":             {unix.AF_INET6, "route add default from 2001:db8:1::/64 via 2001:db8:1::1", "for some sources only"},
		"IPv6: for a source and for all": {unix.AF_INET6, "route add default from 2001:db8:1::/64 via 2001:db8:1::1, route add default via 2001:db8:1::2", ""},
		"IPv6: for a source, and ours":   {unix.AF_INET6, "route add default from 2001:db8:1::/64 via 2001:db8:1::1, route add default via 2001:db8:1::2 proto 114", "for some sources only"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPair(t)
			for command := range strings.SplitSeq(test.setUp, ", ") {
				ip(t, p.server, command)
			}
			got := ""
			for _, s := range p.find(t).Shadowed {
				if got += s.Which; s.Family != test.family {
					t.Errorf("family %d", s.Family)
				}
			}
			if got != test.want {
				t.Errorf("shadowed is the default route %q, want %q", got, test.want)
			}
		})
	}
}
