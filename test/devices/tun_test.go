// SPDX-License-Identifier: Apache-2.0

package devices

import "testing"

// TestTun has one of the ways, or both, without an Ethernet header.
func TestTun(t *testing.T) {
	for name, ways := range map[string][2]way{
		"replication by tun": {ethernet, tun},
		"production by tun":  {tun, ethernet},
		"both by tun":        {tun, tun},
	} {
		t.Run(name, func(t *testing.T) {
			if name != "replication by tun" {
				longOnly(t)
			}
			newSite(t, ways[0], ways[1]).wantMended(t)
		})
	}
}
