package loader

import (
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"replypath/loader/discover"
	"replypath/loader/nexthop"
	"replypath/test/topology"
)

// TestFallbackDeviceThatCannotBeLookedFor: that the kernel did not say whether the device is there is no sign that
// it is gone. The routes to it, and what gives way to them, stay as they are, and so do its programs.
func TestFallbackDeviceThatCannotBeLookedFor(t *testing.T) {
	b := newBed(t, newS1(t, topology.S1Options{}).B.Host)
	r := b.start(nil)
	b.inside(func() error {
		r.mu.Lock()
		defer r.mu.Unlock()
		found, err := discover.Scan(r.netlink, r.config)
		must(t, err)
		routers, err := nexthop.Find(r.netlink, found.Interfaces)
		must(t, err)
		device, families, before := r.fallback.device, r.fallback.families, b.snapshot()
		if device == nil || len(families) != 2 || len(r.madeToGiveWay()) == 0 {
			t.Fatalf("to begin with: device %+v, families %v, %v gives way", device, families, r.madeToGiveWay())
		}

		whole := r.netlink
		r.netlink = brokenNetlink(t)
		r.tendFallback(&routers)
		r.netlink = whole
		if r.fallback.err == nil || !strings.Contains(r.fallback.err.Error(), "look for replypath0") {
			t.Errorf("error %v", r.fallback.err)
		}
		left := slices.Sorted(slices.Values(r.fallback.families))
		if r.fallback.device != device || !slices.Equal(left, families) {
			t.Errorf("device %+v, families %v; before %+v, %v", r.fallback.device, left, device, families)
		}
		if diff := before.Diff(b.snapshot()); diff != "" {
			t.Errorf("(-before +after):\n%s", diff)
		}

		if r.tendFallback(&routers); r.fallback.err != nil {
			t.Errorf("when it can be looked for again: %v", r.fallback.err)
		}
		if diff := before.Diff(b.snapshot()); diff != "" {
			t.Errorf("when it can be looked for again (-before +after):\n%s", diff)
		}
		return nil
	})
}

// brokenNetlink returns a handle by which every request fails.
func brokenNetlink(t *testing.T) *netlink.Handle {
	t.Helper()
	handle, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	must(t, err)
	broken := *handle // the original forgets its sockets with their end, and would open new ones
	handle.Close()
	return &broken
}
