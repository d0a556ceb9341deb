// SPDX-License-Identifier: Apache-2.0

package rig

import (
	"fmt"

	"github.com/vishvananda/netlink"
)

// SetMTU gives a device this MTU, which helpers look at that know no interface's record.
func (h *Host) SetMTU(device Device, mtu int) error {
	return h.Do(func() error {
		link, err := netlink.LinkByIndex(int(device.Index))
		if err != nil {
			return fmt.Errorf("find %s: %w", device.Name, err)
		}
		if err := netlink.LinkSetMTU(link, mtu); err != nil {
			return fmt.Errorf("set the MTU of %s to %d: %w", device.Name, mtu, err)
		}
		return nil
	})
}
