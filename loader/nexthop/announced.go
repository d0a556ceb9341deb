// SPDX-License-Identifier: Apache-2.0

package nexthop

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"replypath/loader/discover/dump"
	"replypath/loader/pins"
)

// Announced is a prefix in a router's advertisement (RFC 4861, 4.6.2). Whose addresses it has may send by that router (RFC 8028).
//
// The kernel passes it on since 6.6, where it accepts advertisements itself (accept_ra): ndisc_ra_useropt() in net/ipv6/ndisc.c.
// Until a fix in 6.11, which older series got too, it only did so for one between two other options for user space.
type Announced struct {
	Router netip.Addr
	Prefix netip.Prefix
	Valid  time.Duration // 0: it is withdrawn; Forever
}

// Forever is for a prefix without an end.
const Forever = time.Duration(math.MaxInt64)

// The format of RTM_NEWNDUSEROPT, from linux/rtnetlink.h, and of the option in it.
const (
	sizeofNduseroptmsg    = 16
	nduseroptSource       = 1 // NDUSEROPT_SRCADDR
	routerAdvertisement   = 134
	optionPrefix          = 3 // ND_OPT_PREFIX_INFO
	sizeofPrefix          = 32
	lifetimeForever       = math.MaxUint32
	atOptions, atDevice   = 2, 4 // in the message: length of the options, index of the interface
	atType                = 8    // of the ICMPv6 message
	atBits, atValid, atIt = 2, 4, 16
)

var errOptions = errors.New("is shorter than its options")

// parseAnnounced picks the prefixes among the options that the kernel leaves to others; the device is 0 for all else.
func parseAnnounced(message []byte) (device int, a Announced, err error) {
	length := int(binary.NativeEndian.Uint16(message[atOptions:]))
	option, attributes := message[sizeofNduseroptmsg:], []byte(nil)
	if len(option) < length {
		return 0, a, errOptions
	}
	option, attributes = option[:length], option[min(len(option), (length+unix.NLA_ALIGNTO-1)&^(unix.NLA_ALIGNTO-1)):]
	if message[0] != unix.AF_INET6 || message[atType] != routerAdvertisement || length != sizeofPrefix ||
		option[0] != optionPrefix || option[atBits] > 128 {
		return 0, a, nil
	}
	attrs, err := nl.ParseRouteAttrAsMap(attributes)
	if err != nil {
		return 0, a, fmt.Errorf("read who announced a prefix: %w", err)
	}
	a = Announced{
		Router: dump.Address(attrs[nduseroptSource].Value),
		Prefix: netip.PrefixFrom(netip.AddrFrom16([16]byte(option[atIt:])), int(option[atBits])).Masked(),
		Valid:  Forever,
	}
	if seconds := binary.BigEndian.Uint32(option[atValid:]); seconds != lifetimeForever {
		a.Valid = time.Duration(seconds) * time.Second
	}
	return int(binary.NativeEndian.Uint32(message[atDevice:])), a, nil
}

// announcements are what routers have announced. What was heard last comes last.
type announcements []pins.AnnouncedRecord

// mostAnnounced bounds what is kept of each interface: anybody on its link may announce prefixes.
const mostAnnounced = 64

// note notes what was heard by an interface, and returns whether it is new. What was heard longest ago makes room.
func (kept *announcements) note(device int, a Announced, now time.Time) (isNew bool) {
	r := pins.AnnouncedRecord{Interface: device, Router: a.Router, Prefix: a.Prefix}
	before := len(*kept)
	*kept = slices.DeleteFunc(*kept, func(k pins.AnnouncedRecord) bool {
		k.Until = time.Time{}
		return k == r
	})
	wasThere := len(*kept) < before
	if a.Valid <= 0 {
		return wasThere
	}
	if a.Valid != Forever {
		r.Until = now.Add(a.Valid)
	}
	kept.makeRoom(device)
	*kept = append(*kept, r)
	return !wasThere
}

// makeRoom forgets what was heard longest ago by an interface that has as much as it may have.
func (kept *announcements) makeRoom(device int) {
	ofDevice := func(k pins.AnnouncedRecord) bool { return k.Interface == device }
	count := 0
	for _, k := range *kept {
		if ofDevice(k) {
			count++
		}
	}
	if count >= mostAnnounced {
		oldest := slices.IndexFunc(*kept, ofDevice)
		*kept = slices.Delete(*kept, oldest, oldest+1)
	}
}

// forgetDevice forgets what was heard by an interface that has gone: its index may become another's.
func (kept *announcements) forgetDevice(device int) {
	*kept = slices.DeleteFunc(*kept, func(k pins.AnnouncedRecord) bool { return k.Interface == device })
}

// forget forgets what is over.
func (kept *announcements) forget(now time.Time) {
	*kept = slices.DeleteFunc(*kept, func(k pins.AnnouncedRecord) bool { return !k.Until.IsZero() && k.Until.Before(now) })
}

// by returns what a router has announced.
func (kept *announcements) by(device int, router netip.Addr) (prefixes []netip.Prefix) {
	for _, k := range *kept {
		if k.Interface == device && k.Router == router {
			prefixes = append(prefixes, k.Prefix)
		}
	}
	slices.SortFunc(prefixes, netip.Prefix.Compare)
	return prefixes
}
