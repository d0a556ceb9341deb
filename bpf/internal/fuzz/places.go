// SPDX-License-Identifier: Apache-2.0

package fuzz

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/bpf/internal/model"
	"replypath/bpf/internal/rig"
)

// comparePlaces compares what is remembered beside the flow tables: of fragments, of what is
// none of the host's, and of who asked. What had to make room is none of the model's: it may
// be missing where others fill its set.
func (x *run) comparePlaces(what *strings.Builder, late uint32) error {
	if err := x.places.Fragments.Read(); err != nil {
		return err
	}
	x.compareFragments(what, late)
	if err := x.places.Foreign.Read(); err != nil {
		return err
	}
	x.compareForeign(what)
	if err := x.places.Asked.Read(); err != nil {
		return err
	}
	x.compareAsked(what)
	return nil
}

// fragmentDigest is what the datapath knows a packet of several fragments by.
func (x *run) fragmentDigest(key model.FragmentKey) uint64 {
	t := model.Tuple{Peer: key.To.As16(), Self: key.From.As16(), Protocol: key.Protocol}
	id := binary.BigEndian.AppendUint32(nil, key.ID)
	if key.From.Is4() { // whose identification has two bytes
		id = binary.NativeEndian.AppendUint32(nil, uint32(rig.Port(uint16(key.ID))))
	} else {
		t.Protocol = unix.IPPROTO_FRAGMENT
	}
	t.PeerPort, t.SelfPort = binary.NativeEndian.Uint16(id), binary.NativeEndian.Uint16(id[2:])
	return x.d.Seeds.Digest(t)
}

func (x *run) compareFragments(what *strings.Builder, late uint32) {
	got := make(map[uint64]bpf.DatapathFragment)
	for i := range x.places.Fragments.Elements {
		for _, f := range x.places.Fragments.Elements[i].Fragment {
			if _, twice := got[f.Key]; twice && f.Key != 0 {
				fmt.Fprintf(what, "fragments: %#x is known twice\n", f.Key)
			}
			got[f.Key] = f
		}
	}
	delete(got, 0) // free
	shared := make(map[uint32]int)
	for key := range x.m.Fragments {
		shared[x.fragmentSet(x.fragmentDigest(key))]++
	}
	for key, first := range x.m.Fragments {
		digest := x.fragmentDigest(key)
		f, ok := got[digest]
		want := bpf.DatapathFragment{Key: digest, Digest: x.d.Seeds.Digest(first.Tuple), Seen: f.Seen,
			Table: uint8(first.Table), Outcome: uint8(first.Outcome), Protocol: f.Protocol}
		if first.Table == bpf.DatapathTableTABLE_ORIGINATED { // of a flow, its entry tells
			want.Protocol = first.Tuple.Protocol
		}
		switch {
		case !ok && shared[x.fragmentSet(digest)] > 1: // the ways are taken in turn
		case !ok || f != want || f.Seen-first.Seen > late:
			fmt.Fprintf(what, "fragments: %+v: %+v, found %v; in the model %+v\n", key, f, ok, first)
		}
		delete(got, digest)
	}
	for digest, f := range got {
		fmt.Fprintf(what, "fragments: %#x is not in the model: %+v\n", digest, f)
	}
}

func (x *run) fragmentSet(digest uint64) uint32 {
	first, _ := bpf.Sets(digest, uint32(len(x.places.Fragments.Elements)))
	return first
}

// compareForeign compares the addresses and tuples by which nothing begins.
func (x *run) compareForeign(what *strings.Builder) {
	want, addresses := make(map[uint64]string), make(map[uint64]bool)
	for place := range x.m.Foreign {
		digest := x.placeDigest(place)
		want[digest], addresses[digest] = place.Address.String(), true
	}
	for t := range x.m.Refused {
		want[x.d.Seeds.Digest(t)] = tupleText(t)
	}
	got := make(map[uint64]bool)
	for i := range x.places.Foreign.Elements {
		for _, mark := range x.places.Foreign.Elements[i].Mark {
			if mark == 0 {
				continue
			}
			digest := x.addressOf(mark, addresses)
			if want[digest] == "" {
				fmt.Fprintf(what, "foreign: %#x is not in the model\n", digest)
			}
			got[digest] = true
		}
	}
	for digest, name := range want {
		set := digest >> 1 % uint64(len(x.places.Foreign.Elements))
		if !got[digest] && slices.Contains(x.places.Foreign.Elements[set].Mark[:], 0) {
			fmt.Fprintf(what, "foreign: not in the datapath: %s\n", name)
		}
	}
}

// placeDigest is self_digest() in bpf/src/digest.h.
func (x *run) placeDigest(p model.Place) uint64 {
	var ports [4]byte // which the interface takes the place of
	binary.NativeEndian.PutUint32(ports[:], p.Ifindex)
	return x.d.Seeds.Digest(model.Tuple{Self: p.Address.As16(),
		PeerPort: binary.NativeEndian.Uint16(ports[:]), SelfPort: binary.NativeEndian.Uint16(ports[2:])})
}

const ticksOfMoment = 8 // moment() in bpf/src/negative_cache.h

// addressOf is what a mark is of: one of these addresses, which are marked by the moment, or else
// a tuple, which is marked by the period.
func (x *run) addressOf(mark uint64, addresses map[uint64]bool) uint64 {
	for digest := range addresses {
		since := uint32((mark^digest)>>32) - x.start/ticksOfMoment
		if since <= x.d.Seconds(1)/ticksOfMoment+1 && uint32(mark^digest) == uint32(x.period) {
			return digest
		}
	}
	return mark ^ x.period
}

// compareAsked compares by which flow each asker asked last, or the host began with it. Where that
// is over it makes room for any other.
func (x *run) compareAsked(what *strings.Builder) {
	got := make(map[uint64]uint64)
	full := make(map[uint32]bool)
	for i := range x.places.Asked.Elements {
		set := &x.places.Asked.Elements[i]
		full[uint32(i)] = !slices.Contains(set.Asker[:], 0)
		for way, asker := range set.Asker {
			if _, twice := got[asker]; twice && asker != 0 {
				fmt.Fprintf(what, "asked: %#x is known twice\n", asker)
			}
			got[asker] = set.Flow[way]
		}
	}
	delete(got, 0) // free
	for asker, t := range x.m.Asked {
		digest := x.d.Seeds.Digest(model.Tuple{Peer: asker.Peer, PeerPort: asker.PeerPort, SelfPort: asker.SelfPort})
		index, _ := bpf.Sets(digest, uint32(len(x.places.Asked.Elements)))
		flow, ok := got[digest]
		f := x.m.Connectionless[t]
		over := (f.Tuple != t || !x.m.IsConnectionless(f)) && !x.m.IsBegun(t)
		switch {
		case !ok && (over || full[index]):
		case !ok || flow != x.d.Seeds.Digest(t):
			fmt.Fprintf(what, "asked: %s: by %#x, found %v\n", tupleText(t), flow, ok)
		}
		delete(got, digest)
	}
	for digest := range maps.Keys(got) {
		fmt.Fprintf(what, "asked: %#x is not in the model\n", digest)
	}
}
