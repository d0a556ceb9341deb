// SPDX-License-Identifier: Apache-2.0

package hostsettings

import (
	"errors"
	"io/fs"
	"testing"

	"replypath/test/await"
)

func TestPlan(t *testing.T) {
	h := host(t, "eth1")
	inside(t, h, func() error {
		key := Key("ipv4", "eth1", "arp_ignore")
		if change, err := Plan(key, "0"); change != nil || err != nil {
			t.Errorf("it is 0 already: %v, %v", change, err)
		}
		change, err := Plan(key, "1")
		if err != nil {
			return err
		}
		want := &Change{Interface: indexIn(t, h, "eth1"), Key: key, Before: "0", After: "1"}
		await.Same(t, "values", want, change)
		if value, err := Read(key); value != "0" || err != nil {
			t.Errorf("planning it has made it %s, %v", value, err)
		}
		if err := change.Make(); err != nil {
			return err
		}
		if value, err := ReadNumber(key); value != 1 || err != nil {
			t.Errorf("it is %d, %v", value, err)
		}
		all, err := Plan(Key("ipv4", "all", "arp_ignore"), "2")
		if err != nil || all.Interface != 0 {
			t.Errorf("of all: %v, %v", all, err)
		}
		if change, err := Plan(Key("ipv4", "eth7", "arp_ignore"), "1"); change != nil || !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("of no interface: %v, %v", change, err)
		}
		return nil
	})
}
