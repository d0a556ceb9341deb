// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/json"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"replypath/bpf"
	"replypath/loader/discover"
	"replypath/loader/identity"
	"replypath/loader/nexthop"
	"replypath/loader/pins"
	"replypath/loader/status"
	"replypath/test/await"
)

// TestClashingIndexIsNotServed, as the programs find an interface by the low bits of its index.
func TestClashingIndexIsNotServed(t *testing.T) {
	b := newServer(t)
	b.start()
	before := b.entry(b.eth1.Index)
	b.addEth2(b.eth1.Index + 1<<16)
	eventually(t, "eth2 is refused", func() bool {
		return slices.ContainsFunc(b.status().Unmanaged, func(u status.Unmanaged) bool {
			return u.Name == "eth2" && strings.Contains(u.Reason, "eth1")
		})
	})
	await.Same(b, "the entry of eth1", before, b.entry(b.eth1.Index))
	if !b.status().of("eth1").Attached {
		t.Error("eth1 is not attached any more")
	}
}

// TestJournalIsBounded: thousands of lives of an interface with gateways leave a small journal. Whom flows and counters name
// stays, and ids that are given again are nobody else's.
func TestJournalIsBounded(t *testing.T) {
	b := newAnsweringServer(t)
	r := b.start()
	b.ping()
	before := ofPairs(r.counters())
	b.ip("link del eth1")
	b.awaitGone("eth1")
	eth1 := b.idsOf("eth1")
	const lives, atOnce = 4500, 10 // more than there are ids
	const most = 12 << 10
	r.locked(func() error {
		given := make(map[uint16]string)
		for life := 0; life < lives; life += atOnce {
			var found []discover.Interface
			var routers nexthop.Routers
			for n := range atOnce {
				index := 1<<20 + life + n
				found = append(found, discover.Interface{Index: index, Name: "eth9", MAC: net.HardwareAddr{2, 0, 0, 0, 0, 9}})
				for _, address := range []string{"10.9.0.1", "fe80::9"} {
					routers.Gateways = append(routers.Gateways, nexthop.Gateway{Interface: index, Address: netip.MustParseAddr(address)})
				}
			}
			err := errors.Join(r.interfaces.Adopt(found, bpf.DatapathModeMODE_CONFIGURED), r.gateways.Track(&routers), r.reconcile())
			if err != nil {
				return err
			}
		}
		for _, i := range r.state.Interfaces {
			if other, twice := given[i.ID]; twice {
				t.Errorf("id %d is that of %s and of %s", i.ID, other, i.Name)
			}
			given[i.ID] = i.Name
		}
		size := len(await.Must1[[]byte](t)(json.Marshal(&r.state)))
		t.Logf("%d lives: a journal of %d bytes, %d interfaces, %d gateways", lives, size, len(given), len(r.state.Gateways))
		if size > most {
			t.Errorf("what is gone stays in the journal: %d bytes, more than %d", size, most)
		}
		return nil
	})
	await.Same(t, "ids of eth1", eth1, b.idsOf("eth1"))
	await.Same(b, "what was counted for eth1", before, ofPairs(r.counters()))
	r.stop()
	await.Same(b, "in a trial", before, ofPairs(b.start(func(o *Options) { o.Trial = time.Hour }).counters()))
}

// TestRecordsOutliveWhatIsTaught: a record goes after what handshakes by its interface taught, also where that cannot be forgotten
// at first: who gets its id next would inherit it.
func TestRecordsOutliveWhatIsTaught(t *testing.T) {
	b := newServer(t)
	r := b.start()
	r.locked(func() error {
		for id := range uint16(100) {
			r.state.Interfaces = append(r.state.Interfaces, pins.InterfaceRecord{ID: 1000 + id, Name: "eth9"})
		}
		known := slices.Clone(r.state.Interfaces)
		whole := r.datapath.Ways
		closed, err := whole.Clone()
		await.Must(t, errors.Join(err, bpf.Close(closed)))
		r.datapath.Ways = closed
		err = r.gone.Drop(&r.state, r.datapath)
		r.datapath.Ways = whole
		if err == nil {
			t.Error("what was taught is forgotten without its map")
		}
		await.Same(t, "records", known, r.state.Interfaces)
		await.Must(t, r.gone.Drop(&r.state, r.datapath))
		if left := len(r.state.Interfaces); left >= len(known) {
			t.Errorf("%d records are left", left)
		}
		return nil
	})
}

// TestSuspectUntilAsked: where nobody could tell whether an interface is still the one that had its index, as events were lost,
// that is asked again.
func TestSuspectUntilAsked(t *testing.T) {
	b := newServer(t)
	b.addEth2(0)
	r := b.start()
	b.awaitAttached("eth2")
	index := b.linkOf("eth2").Attrs().Index
	r.locked(func() error {
		var found []discover.Interface
		for _, m := range r.interfaces.Served() {
			found = append(found, m.Interface)
		}
		b.ip("link del eth2")
		b.addEth2(index)
		r.interfaces.Suspect()
		record := identity.Record(r.state.Interfaces, index)
		record.Index = -index // about which the kernel answers nothing (EINVAL)
		_, err := r.interfaces.Release(found)
		record.Index = index
		if err == nil {
			t.Error("the kernel could be asked")
		}
		before := record.ID
		await.Must(t, r.reconcile())
		if now := identity.Record(r.state.Interfaces, index); now.ID == before {
			t.Errorf("eth2 has the id %d of the one before", before)
		}
		return nil
	})
}
