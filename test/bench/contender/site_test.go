// SPDX-License-Identifier: Apache-2.0

package contender

import (
	"testing"
)

func TestCheckWay(t *testing.T) {
	for _, c := range []struct {
		way        Way
		eth0, eth1 uint64
		right      bool
	}{
		{ByEth1, 0, 1000, true}, {ByEth1, 15, 1000, true}, {ByEth1, 500, 1000, false}, {ByEth1, 1000, 0, false},
		{ByEth0, 1000, 0, true}, {ByEth0, 0, 1000, false}, {ByEth1, 0, 0, false},
	} {
		contender := Contender{Name: "x", Way: c.way}
		err := contender.CheckWay(Sent{Eth0: 5, Eth1: 7}, Sent{Eth0: 5 + c.eth0, Eth1: 7 + c.eth1})
		if (err == nil) != c.right {
			t.Errorf("way %d, %d by eth0, %d by eth1: %v", c.way, c.eth0, c.eth1, err)
		}
	}
}
