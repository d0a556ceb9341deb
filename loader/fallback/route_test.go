// SPDX-License-Identifier: Apache-2.0

package fallback

import (
	"sync"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TestEncodeBesideReaders has a route written while events of neighbours are read. It fails with the race detector
// only, as netlink.BpfEncap's own Encode does.
func TestEncodeBesideReaders(t *testing.T) {
	event := make([]byte, unix.SizeofNdMsg)
	// NDA_CACHEINFO: numbers in the machine's byte order.
	event = append(event, 20, 0, unix.NDA_CACHEINFO, 0)
	event = append(event, make([]byte, 16)...)
	encap := &programEncap{fd: 3, name: "test"}
	var both sync.WaitGroup
	both.Go(func() {
		if _, err := netlink.NeighDeserialize(event); err != nil {
			t.Error(err)
		}
	})
	both.Go(func() {
		if _, err := encap.Encode(); err != nil {
			t.Error(err)
		}
	})
	both.Wait()
}
