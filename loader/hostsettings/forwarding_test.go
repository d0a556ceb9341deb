// SPDX-License-Identifier: Apache-2.0

package hostsettings

import (
	"testing"

	"replypath/test/await"
)

// TestForwardsNothing: each setting by which the kernel forwards what comes in by an interface, and those that are others'.
func TestForwardsNothing(t *testing.T) {
	for setting, want := range map[string][2]bool{
		"":                                     {true, true},
		"net/ipv4/conf/eth1/forwarding":        {false, true},
		"net/ipv4/ip_forward":                  {false, true},
		"net/ipv6/conf/eth1/forwarding":        {true, false},
		"net/ipv6/conf/all/forwarding":         {true, false},
		"net/ipv4/conf/eth0/forwarding":        {true, true},
		"net/ipv6/conf/eth0/forwarding":        {true, true},
		"net/ipv6/conf/lo/accept_source_route": {true, true},
	} {
		h := host(t, "eth0", "eth1")
		if setting != "" {
			await.Must(t, h.SetSysctl(setting, "1"))
		}
		inside(t, h, func() error {
			ipv4, ipv6 := ForwardsNothing("eth1")
			await.Same(t, "with "+setting, want, [2]bool{ipv4, ipv6})
			return nil
		})
	}
	inside(t, host(t), func() error {
		if ipv4, ipv6 := ForwardsNothing("eth7"); ipv4 || ipv6 {
			t.Error("an interface that is gone is said to forward nothing")
		}
		return nil
	})
}
