// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"replypath/loader/discover"
	"replypath/loader/fallback"
	"replypath/loader/nexthop"
	"replypath/test/harness"
	"replypath/test/topology"
)

// TestFallbackDeviceThatCannotBeLookedFor: that the kernel did not say whether the device is there is no sign that
// it is gone. The routes to it, and what gives way to them, stay as they are, and so do its programs.
func TestFallbackDeviceThatCannotBeLookedFor(t *testing.T) {
	s := newS1(t, topology.S1Options{})
	b := newBed(t, s.B.Host)
	r := b.start(nil)
	b.inside(func() error {
		r.mu.Lock()
		defer r.mu.Unlock()
		found, err := discover.Scan(r.netlink, r.config)
		harness.Must(t, err)
		routers, err := nexthop.Find(r.netlink, found.Interfaces, &r.table)
		harness.Must(t, err)
		before, eth0 := b.snapshot(), s.B.Eth0.Index
		wantWhole := func(when string) {
			t.Helper()
			hasDevice, err := r.routes.Renew()
			harness.Must(t, err)
			for _, family := range fallback.Families {
				if !hasDevice || !r.routes.GivesWay(eth0, family) {
					t.Errorf("%s: device %t, %s gives way %t", when, hasDevice, fallback.Name(family), r.routes.GivesWay(eth0, family))
				}
			}
			if diff := before.Diff(b.snapshot()); diff != "" {
				t.Errorf("%s (-before +after):\n%s", when, diff)
			}
		}
		wantWhole("to begin with")

		whole := r.netlink
		r.netlink = brokenNetlink(t)
		err = r.routes.Reconcile(&routers)
		r.netlink = whole
		if err == nil || !strings.Contains(err.Error(), "look for replypath0") {
			t.Errorf("error %v", err)
		}
		wantWhole("when it cannot be looked for")

		harness.Must(t, r.routes.Reconcile(&routers))
		wantWhole("when it can be looked for again")
		return nil
	})
}

// brokenNetlink returns a handle by which every request fails.
func brokenNetlink(t *testing.T) *netlink.Handle {
	t.Helper()
	handle, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	harness.Must(t, err)
	broken := *handle // the original forgets its sockets with their end, and would open new ones
	handle.Close()
	return &broken
}
