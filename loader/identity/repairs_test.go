// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"cmp"
	"context"
	"testing"
	"time"

	"replypath/loader/hostsettings"
	"replypath/loader/pins"
	"replypath/test/await"
	"replypath/test/topology"
)

// A repair belongs to an interface that has kept its name or its MAC, not to whatever has got the index since.
func TestPresentRepair(t *testing.T) {
	s := newS1(t)
	eth1 := s.B.Eth1
	for what, test := range map[string]struct {
		index     int
		name, mac string
		same      bool
	}{
		"itself":           {eth1.Index, "eth1", eth1.MAC.String(), true},
		"renamed":          {eth1.Index, "old", eth1.MAC.String(), true},
		"with another mac": {eth1.Index, "eth1", "02:00:00:00:ff:ff", true},
		"another":          {eth1.Index, "old", "02:00:00:00:ff:ff", false},
		"without a mac":    {eth1.Index, "tun0", "", false},
		"gone":             {4711, "eth1", eth1.MAC.String(), false},
		"the host's":       {0, "", "", true},
	} {
		await.Must(t, s.B.Do(func() error {
			record := pins.SysctlRecord{Interface: test.index, Key: hostsettings.Key("ipv4", cmp.Or(test.name, "all"), "arp_ignore")}
			change, err := Repaired(&pins.RepairRecord{SysctlRecord: record, Name: test.name, MAC: test.mac})
			if same := change != nil; same != test.same {
				t.Errorf("%s: %v", what, same)
			}
			if change != nil && test.index != 0 && change.Key != "net.ipv4.conf.eth1.arp_ignore" {
				t.Errorf("%s: %v", what, change)
			}
			return err
		}))
	}
}

func newS1(t *testing.T) *topology.S1 {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	s, err := topology.NewS1(ctx, topology.S1Options{NoIPv6: true})
	await.Must(t, err)
	t.Cleanup(func() { await.Must(t, s.Close()) })
	return s
}
