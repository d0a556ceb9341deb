// SPDX-License-Identifier: Apache-2.0

package nexthop

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
	"time"

	"replypath/loader/pins"
	testawait "replypath/test/await"
	"replypath/test/host"
)

// prefixOption tells of a prefix (RFC 4861, 4.6.2), for so many seconds.
func prefixOption(prefix netip.Prefix, seconds uint32) []byte {
	option := make([]byte, sizeofPrefix)
	option[0], option[1], option[atBits] = optionPrefix, sizeofPrefix/8, byte(prefix.Bits())
	binary.BigEndian.PutUint32(option[atValid:], seconds)
	copy(option[atIt:], prefix.Addr().AsSlice())
	return option
}

// TestAnnounced: prefixes that a router announces are told of, each with the router, and when they are withdrawn.
func TestAnnounced(t *testing.T) {
	host.NeedAnnounced(t)
	p := newPair(t)
	ip(t, p.router, "addr add fe80::5/64 dev r0 nodad")
	events := p.watch(t)
	first, second := netip.MustParsePrefix("2001:db8:7::/64"), netip.MustParsePrefix("2001:db8:8::/48")
	server := []byte{25, 3, 0, 0, 0, 0, 0, 60, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x53} // of names, which is passed on as well
	advertise(t, p.r0, address("fe80::5"), prefixOption(first, 1800), server, prefixOption(second, lifetimeForever))
	advertise(t, p.r0, address("fe80::5"), prefixOption(first, 0))
	for _, want := range []Announced{{address("fe80::5"), first, 1800 * time.Second}, {address("fe80::5"), second, Forever}, {address("fe80::5"), first, 0}} {
		e := await(t, events, want.Prefix.String(), func(e Event) bool { return e.Kind == KindAnnounced })
		if e.Interface != p.eth0.Index || e.Announced != want {
			t.Errorf("by interface %d: %+v, not %+v", e.Interface, e.Announced, want)
		}
	}
}

// TestSources: whose packets the default routes by a gateway take, in any table, as far as they do not take
// everybody's.
func TestSources(t *testing.T) {
	p := newPair(t)
	for _, route := range []string{
		"default via 2001:db8:1::1",
		"default from 2001:db8:1::/64 via 2001:db8:1::2",
		"default from 2001:db8:7::/64 via 2001:db8:1::3 table 7",
		"default via 2001:db8:1::3 metric 7",
		"2001:db8:50::/48 from 2001:db8:8::/64 via 2001:db8:1::3",
	} {
		ip(t, p.server, "-6 route add "+route)
	}
	ip(t, p.server, "-6 rule add prio 40000 table 7")
	got := make(map[string][]string)
	for _, g := range p.gateways(t) {
		got[g.Address.String()] = nil
		for _, s := range g.Sources {
			got[g.Address.String()] = append(got[g.Address.String()], s.String())
		}
	}
	want := map[string][]string{
		"2001:db8:1::1": nil, "2001:db8:1::2": {"2001:db8:1::/64"}, "2001:db8:1::3": {"::/0", "2001:db8:7::/64"},
	}
	testawait.Same(t, "sources", want, got)
}

// TestNote: what is heard again is no news, but lasts longer; what is withdrawn, over, or of an interface that has gone
// is forgotten.
func TestNote(t *testing.T) {
	start, router := time.Unix(1000, 0), address("fe80::1")
	first, second := netip.MustParsePrefix("2001:db8:1::/64"), netip.MustParsePrefix("2001:db8:2::/64")
	var kept announcements
	note := func(device int, prefix netip.Prefix, valid, after time.Duration, wantNew bool, want ...pins.AnnouncedRecord) {
		t.Helper()
		isNew := kept.note(device, Announced{router, prefix, valid}, start.Add(after))
		if !slices.Equal(kept, want) || isNew != wantNew {
			t.Errorf("new: %v, kept: %v, not %v", isNew, kept, want)
		}
	}
	record := func(device int, prefix netip.Prefix, until time.Time) pins.AnnouncedRecord {
		return pins.AnnouncedRecord{Interface: device, Router: router, Prefix: prefix, Until: until}
	}
	once, good := record(3, first, start.Add(time.Minute)), record(3, second, time.Time{})
	note(3, first, time.Minute, 0, true, once)
	note(3, second, Forever, 0, true, once, good)
	longer := record(3, first, start.Add(2*time.Minute))
	note(3, first, time.Minute, time.Minute, false, good, longer)
	note(4, first, time.Minute, 0, true, good, longer, record(4, first, start.Add(time.Minute)))
	if got := kept.by(3, router); !slices.Equal(got, []netip.Prefix{first, second}) {
		t.Errorf("announced by 3: %v", got)
	}
	note(4, first, 0, 0, true, good, longer)
	note(4, first, 0, 0, false, good, longer)
	if kept.forget(start.Add(2 * time.Minute)); len(kept) != 2 {
		t.Errorf("at its end: %v", kept)
	}
	if kept.forget(start.Add(3 * time.Minute)); !slices.Equal(kept, announcements{good}) {
		t.Errorf("afterwards: %v", kept)
	}
	if kept.forgetDevice(3); len(kept) != 0 {
		t.Errorf("without the interface: %v", kept)
	}
}

// TestNoteOfManaged: what is heard by interfaces that are not managed is not kept, nor what was heard by one that has
// gone.
func TestNoteOfManaged(t *testing.T) {
	var journal []pins.AnnouncedRecord
	table := &Table{known: newKnowledge()}
	table.Keep(&journal)
	isManaged := func(index int) bool { return index == 3 }
	for _, device := range []int{3, 4} {
		e := Event{Kind: KindAnnounced, Interface: device, Announced: Announced{address("fe80::1"), netip.MustParsePrefix("2001:db8::/64"), Forever}}
		if look := table.Note(&e, isManaged); look != isManaged(device) || len(journal) != 1 {
			t.Errorf("by %d: look: %v, kept: %v", device, look, journal)
		}
	}
	for _, device := range []int{4, 3} {
		table.Note(&Event{Kind: KindLink, Interface: device, Removed: true}, isManaged)
		if isKept := len(journal) == 1; isKept == isManaged(device) {
			t.Errorf("without interface %d: %v", device, journal)
		}
	}
}

// TestNoteIsBounded: what was heard longest ago by the interface makes room.
func TestNoteIsBounded(t *testing.T) {
	var kept announcements
	network := func(n int) netip.Prefix {
		return netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 1, 0, 0, byte(n >> 8), byte(n)}), 64)
	}
	kept.note(4, Announced{address("fe80::1"), network(0), time.Minute}, time.Now())
	for n := range mostAnnounced + 1 {
		for _, prefix := range []netip.Prefix{network(n), network(0)} {
			kept.note(3, Announced{address("fe80::1"), prefix, time.Minute}, time.Now())
		}
	}
	if of := kept[1:]; len(of) != mostAnnounced || kept[0].Interface != 4 || of[0].Prefix != network(2) || of[len(of)-1].Prefix != network(0) {
		t.Errorf("%d are kept: %v", len(kept), kept)
	}
}
