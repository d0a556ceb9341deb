// SPDX-License-Identifier: Apache-2.0

package devices

import "testing"

// TestTun has one of the ways, or both, without an Ethernet header.
func TestTun(t *testing.T) {
	eachWays(t, []ways{
		{"replication by tun", ethernet, tun}, {"production by tun", tun, ethernet}, {"both by tun", tun, tun},
	})
}
