// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"net/netip"
)

// Seeds is the secret of the digests. Tables are only readable with the seeds
// that they were filled with.
type Seeds [10]uint64

const digestMultiplier = 0x9e3779b97f4a7c15

// NewSeeds returns random seeds, each of them odd as tuple.h wants them.
func NewSeeds() (Seeds, error) {
	var (
		seeds Seeds
		bytes [8]byte
	)
	for i := range seeds {
		if _, err := rand.Read(bytes[:]); err != nil {
			return Seeds{}, fmt.Errorf("make seeds: %w", err)
		}
		seeds[i] = binary.NativeEndian.Uint64(bytes[:]) | 1
	}
	return seeds, nil
}

// Digest returns what the flow tables hold a tuple by, as digest() in
// src/tuple.h computes it.
func (s Seeds) Digest(tuple DatapathTuple) uint64 {
	return s.digest(tuple, netip.AddrFrom16(tuple.Peer).Is4In6())
}

// Ends returns what the table holds the record of a tuple's addresses by, as
// ends_digest() in src/tuple.h computes it.
func (s Seeds) Ends(tuple DatapathTuple) uint64 {
	return s.digest(DatapathTuple{Peer: tuple.Peer, Self: tuple.Self}, false)
}

// LeadKey returns what the map `leads` holds parts of a tuple by, as lead_key()
// in src/portless.h computes it.
func (s Seeds) LeadKey(parts DatapathTuple, kind DatapathLeadKind) uint64 {
	return s.digest(parts, false)&^uint64(DatapathLeadKindLEAD_KINDS-1) | uint64(kind)
}

func (s Seeds) digest(tuple DatapathTuple, v4 bool) uint64 {
	var bytes [40]byte
	copy(bytes[:], tuple.Peer[:])
	copy(bytes[16:], tuple.Self[:])
	binary.NativeEndian.PutUint16(bytes[32:], tuple.PeerPort)
	binary.NativeEndian.PutUint16(bytes[34:], tuple.SelfPort)
	bytes[36] = tuple.Protocol

	sum := uint64(0)
	for i, seed := range s {
		if v4 && i < 8 && i%4 != 3 { // what all IPv4 tuples have in common
			continue
		}
		sum += uint64(binary.NativeEndian.Uint32(bytes[i*4:])) * seed
	}
	product := (sum ^ sum>>32) * digestMultiplier
	return product ^ product>>32 | 1
}
