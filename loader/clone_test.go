// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"testing"

	"replypath/loader/pins"
)

// TestClone: what a start changes in the lists of its journal is not in the one that a failure puts back.
func TestClone(t *testing.T) {
	before := pins.Journal{
		Interfaces: make([]pins.InterfaceRecord, 1), Gateways: make([]pins.GatewayRecord, 1), Announced: make([]pins.AnnouncedRecord, 1),
		Sysctls: make([]pins.SysctlRecord, 1), Qdiscs: make([]pins.QdiscRecord, 1),
	}
	c := clone(&before)
	for list, isShared := range map[string]bool{
		"interfaces": &c.Interfaces[0] == &before.Interfaces[0], "gateways": &c.Gateways[0] == &before.Gateways[0],
		"announced": &c.Announced[0] == &before.Announced[0], "sysctls": &c.Sysctls[0] == &before.Sysctls[0],
		"qdiscs": &c.Qdiscs[0] == &before.Qdiscs[0],
	} {
		if isShared {
			t.Errorf("both have the same %s", list)
		}
	}
}
