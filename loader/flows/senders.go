// SPDX-License-Identifier: Apache-2.0

package flows

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/cilium/ebpf"

	"replypath/bpf"
	"replypath/loader/datapath"
	"replypath/loader/discover/dump"
	"replypath/loader/finding"
	"replypath/loader/pins"
)

// Ways of replies: by the rule of next_hop, or one that handshakes taught: to the MAC of the inbound frames, as routed.
const (
	WayRule         = "rule"
	WayLastHop      = "last-hop"
	WayDirectReturn = "direct-return"
)

// wayOf names the way that is in the flags of a flow.
func wayOf(flags uint16) string {
	switch bpf.DatapathFlowFlags(flags) & bpf.DatapathFlowFlagsFLOW_WAY {
	case bpf.DatapathFlowFlagsFLOW_LAST_HOP:
		return WayLastHop
	case bpf.DatapathFlowFlagsFLOW_AS_ROUTED:
		return WayDirectReturn
	}
	return WayRule
}

// Sender is who hands this host what is for an own address, and by which way replies through it were seen to arrive. The
// JSON names are fixed.
type Sender struct {
	Interface string    `json:"interface"`
	MAC       *string   `json:"mac"` // nil without Ethernet
	Self      string    `json:"self"`
	Way       string    `json:"way"`
	Settled   bool      `json:"settled"` // the rule's way is not tried once more
	LearntAt  time.Time `json:"learnt_at"`
	HeardAt   time.Time `json:"heard_at"` // of the last flow that began, to a minute

	Key        bpf.DatapathSender `json:"-"`
	hasGateway bool               // of the rule
}

// Because says why the way is not the rule's.
func (s *Sender) Because() string {
	rule := "by " + s.Interface
	if s.hasGateway {
		rule = "by the gateway"
	} else if s.Way == WayLastHop {
		rule = "directly" // to a neighbour
	}
	return fmt.Sprintf("as %s none was completed, learnt at %s", rule, finding.Moment(s.LearntAt, time.Now()))
}

// onLinkHop stands in place of the gateway of neighbours.
const onLinkHop = uint16(bpf.DatapathHopON_LINK_HOP)

// senderOf is the scratch sender of find_learnt() in bpf/src/handshake.h.
func (v *view) senderOf(f *bpf.DatapathFlow) bpf.DatapathSender {
	key := bpf.DatapathSender{Mac: f.Mac, Interface: f.Interface, Self: f.Tuple.Self, Gateway: f.Gateway}
	if key.Gateway == 0 && IsOnLink(v.maps, int(f.Ifindex), datapath.Address(f.Tuple.Peer)) {
		key.Gateway = onLinkHop
	}
	return key
}

// IsOnLink tells whether the programs take a peer for a neighbour by a device.
func IsOnLink(maps *bpf.Maps, device int, peer netip.Addr) bool {
	var flags uint32
	host := netip.PrefixFrom(peer, peer.BitLen())
	return maps.Prefixes.Lookup(datapath.PrefixKey(bpf.DatapathPrefixKindPREFIX_ON_LINK, device, host), &flags) == nil
}

// IsOfNeighbours tells whether the sender hands us what neighbours ask.
func (s *Sender) IsOfNeighbours() bool { return s.Key.Gateway == onLinkHop }

// Senders returns those of whom something was learnt that still holds: first those whose way is not the rule's, then as they
// were heard last. The maps are those that are pinned in the directory.
func Senders(dir string, maps *bpf.Maps) ([]Sender, error) {
	v, err := (&Table{dir: dir, maps: maps}).newView()
	if err != nil {
		return nil, err
	}
	learnt, err := readWays(maps)
	list := []Sender{}
	for key, value := range learnt {
		if v.stillHolds(&key, &value) {
			list = append(list, v.sender(&key, &value))
		}
	}
	slices.SortFunc(list, func(a, b Sender) int {
		return cmp.Or(cmp.Compare(rank(&a), rank(&b)), b.HeardAt.Compare(a.HeardAt), cmp.Compare(a.Self, b.Self), slices.Compare(a.Key.Mac[:], b.Key.Mac[:]))
	})
	return list, err
}

func rank(s *Sender) int { return slices.Index([]string{WayLastHop, WayDirectReturn, WayRule}, s.Way) }

// Sender returns what was learnt of the sender of a flow that goes by such a way, nil for nothing.
func (t *Table) Sender(f *bpf.DatapathFlow) (*Sender, error) {
	v, err := t.newView()
	if err != nil {
		return nil, err
	}
	key, value := v.senderOf(f), bpf.DatapathLearnt{}
	err = t.maps.Ways.Lookup(key, &value)
	if errors.Is(err, ebpf.ErrKeyNotExist) || err == nil && (wayOf(value.Way) != wayOf(f.Flags) || !v.stillHolds(&key, &value)) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read what was learnt of a sender: %w", err)
	}
	return new(v.sender(&key, &value)), nil
}

func (v *view) sender(key *bpf.DatapathSender, learnt *bpf.DatapathLearnt) Sender {
	at := func(tick uint32) time.Time { return time.Now().Add(-v.clock.Since(tick)).Round(time.Second) }
	s := Sender{
		Interface: v.interfaces[key.Interface], Self: datapath.Address(key.Self).String(), Way: wayOf(learnt.Way),
		Settled: learnt.Settled != 0, LearntAt: at(learnt.Since), HeardAt: at(learnt.Heard),
		Key: *key, hasGateway: learnt.Gateway != [6]uint8{},
	}
	if key.Mac != [6]uint8{} {
		s.MAC = new(net.HardwareAddr(key.Mac[:]).String())
	}
	return s
}

// stillHolds is may_learn() and still_holds() in bpf/src/handshake.h.
func (v *view) stillHolds(key *bpf.DatapathSender, learnt *bpf.DatapathLearnt) bool {
	entry, isServed := v.known[key.Interface]
	if !isServed || entry.NextHop != uint8(bpf.DatapathNextHopModeNEXT_HOP_AUTO) ||
		v.clock.Since(learnt.Heard) > time.Duration(bpf.DatapathIdleSecondsIDLE_SENDER)*time.Second || learnt.Downs != v.timesDown(&entry) {
		return false
	}
	g := v.gateway(key.Gateway)
	return key.Gateway == 0 || key.Gateway == onLinkHop || g.Ifindex == entry.Ifindex && (g.Usable == 0 || g.Mac == learnt.Gateway)
}

// timesDown is times_down() in bpf/src/handshake.h, whose programs do not read it on every kernel. Of an interface that is gone
// nothing holds.
func (v *view) timesDown(i *bpf.DatapathInterface) uint16 {
	isBlind := func(f pins.FeatureRecord) bool { return f.Name == pins.FeatureProbeRead && !f.Available }
	downs, known := v.downs[i.Id]
	if !known && !slices.ContainsFunc(v.journal.Features, isBlind) {
		count, _ := dump.TimesDown(int(i.Ifindex))
		downs = uint16(count)
	}
	v.downs[i.Id] = downs
	return downs
}

// readWays reads what was learnt of all senders.
func readWays(maps *bpf.Maps) (map[bpf.DatapathSender]bpf.DatapathLearnt, error) {
	var (
		all    = make(map[bpf.DatapathSender]bpf.DatapathLearnt)
		key    bpf.DatapathSender
		learnt bpf.DatapathLearnt
	)
	entries := maps.Ways.Iterate()
	for entries.Next(&key, &learnt) {
		all[key] = learnt
	}
	if err := entries.Err(); err != nil {
		return nil, fmt.Errorf("read by which ways replies arrive: %w", err)
	}
	return all, nil
}

// ForgetSenders forgets what was learnt of some senders, and returns how many there were; and by which way handshakes began
// of whom nothing is known.
func ForgetSenders(maps *bpf.Maps, isOne func(bpf.DatapathSender) bool) (forgotten int, err error) {
	all, err := readWays(maps)
	errs := []error{err}
	forget := func(of *ebpf.Map, key bpf.DatapathSender) (was bool) {
		if !isOne(key) {
			return false
		}
		err := of.Delete(key)
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			errs = append(errs, fmt.Errorf("forget by which way replies arrive: %w", err))
		}
		return err == nil
	}
	for key := range all {
		if forget(maps.Ways, key) {
			forgotten++
		}
	}
	var (
		key   bpf.DatapathSender
		begun bpf.DatapathBegun
		known []bpf.DatapathSender
	)
	entries := maps.BegunBy.Iterate()
	for entries.Next(&key, &begun) {
		known = append(known, key)
	}
	for _, key := range known {
		forget(maps.BegunBy, key)
	}
	return forgotten, errors.Join(append(errs, entries.Err())...)
}
