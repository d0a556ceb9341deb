// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/gopacket/gopacket/layers"

	"replypath/bpf"
)

const (
	portFragments = 6300
	// notFirst is what a fragment counts as of whose packet nobody knows the ports.
	notFirst = bpf.DatapathEventEVENT_UNPARSED_FRAGMENT

	fragmentOffset = 8 // of later ones, in units of eight bytes
)

// Identifications of packets: each case has its own.
const (
	idFirst = 1 + iota
	idLater
	idUnknown
)

// fragmentCases are those of a datagram in pieces, of which only the first one has ports.
func (r *rare) fragmentCases(e endpoints) ([]testCase, error) {
	if _, _, err := r.enter(e, layers.IPProtocolUDP, portFragments, replication); err != nil {
		return nil, err
	}
	out := outbound(e, layers.IPProtocolUDP, portFragments, r.device(production).MAC)
	first := r.moved("egress redirect: udp, first fragment, "+e.family, fragmentBound(e, boundFragment), 0, production,
		fragment(e, out, idFirst, 0))
	first.prove = func(c *testCase) error {
		return errors.Join(r.ends(bpf.DatapathOutcomeOUTCOME_ASYMMETRIC)(c), r.moves(c, fragment(e, out, idFirst, fragmentOffset)))
	}
	later := r.moved("egress redirect: udp, later fragment, "+e.family, fragmentBound(e, boundFragment), 0, production,
		fragment(e, out, idLater, fragmentOffset))
	later.prepare = func() error { return r.noteFirst(&later, fragment(e, out, idLater, 0)) }
	unknown := r.egress("egress pass: udp, later fragment of an unknown packet, "+e.family, fragmentBound(e, boundRedirect), 0, production,
		fragment(e, out, idUnknown, fragmentOffset))
	unknown.prove = r.counts(notFirst)

	in := inbound(e, layers.IPProtocolUDP, portFragments, r.device(replication).MAC)
	arriving := r.ingress("ingress refresh: udp, first fragment, "+e.family, fragmentBound(e, boundRefresh), 0, replication,
		fragment(e, in, idFirst, 0))
	arriving.prove = r.refreshes(e)
	rest := r.ingress("ingress pass: udp, later fragment, "+e.family, fragmentBound(e, boundPass), 0, replication,
		fragment(e, in, idLater, fragmentOffset))
	rest.prove = r.counts(notFirst)
	return []testCase{first, later, unknown, arriving, rest}, nil
}

// fragmentBound is that of a fragment which is bound so in IPv4.
func fragmentBound(e endpoints, ipv4 float64) float64 {
	if e.family == "ipv6" {
		return boundExtension
	}
	return ipv4
}

// moves wants the case to move another frame as well.
func (r *rare) moves(c *testCase, frame []byte) error {
	other := *c
	other.frame = frame
	return other.checkVerdict(1)
}

// noteFirst has the first fragment pass, and what is known of it last while this is measured.
func (r *rare) noteFirst(later *testCase, first []byte) error {
	if err := r.moves(later, first); err != nil {
		return err
	}
	now, err := r.datapath.Now()
	if err != nil {
		return err
	}
	noted := r.datapath.DatapathMaps.Fragments
	for index := range noted.MaxEntries() {
		var set bpf.DatapathFragmentSet
		if err := noted.Lookup(index, &set); err != nil {
			return fmt.Errorf("read fragments %d: %w", index, err)
		}
		for way := range set.Fragment {
			set.Fragment[way].Seen = now + lasting
		}
		if err := noted.Put(index, set); err != nil {
			return fmt.Errorf("write fragments %d: %w", index, err)
		}
	}
	return nil
}

// refreshes proves that a frame is one of the fragments' flow.
func (r *rare) refreshes(e endpoints) func(*testCase) error {
	return func(c *testCase) error {
		flow, err := r.flow(e, layers.IPProtocolUDP, portFragments)
		if err != nil {
			return err
		}
		return r.notes(r.datapath.Connectionless, flow, isActive)(c)
	}
}

// fragment makes a frame a piece of the packet with this identification, the first one where the offset
// is 0. What a later one carries does not matter.
func fragment(e endpoints, frame []byte, identification, offset uint16) []byte {
	if e.family == "ipv6" {
		return fragmentV6(frame, identification, offset)
	}
	const moreFragments, idAt, offsetAt = 0x2000, ethernetSize + 4, ethernetSize + 6
	frame = slices.Clone(frame)
	binary.BigEndian.PutUint16(frame[idAt:], identification)
	if offset == 0 {
		offset = moreFragments
	}
	binary.BigEndian.PutUint16(frame[offsetAt:], offset)
	return frame
}

// fragmentV6 puts an extension header between the IPv6 header and what follows it.
func fragmentV6(frame []byte, identification, offset uint16) []byte {
	const lengthAt, nextHeaderAt, headerSize, ipSize = ethernetSize + 4, ethernetSize + 6, 8, 40
	const moreFragments = 1
	offset <<= 3
	if offset == 0 {
		offset = moreFragments
	}
	header := []byte{frame[nextHeaderAt], 0}
	header = binary.BigEndian.AppendUint16(header, offset)
	header = binary.BigEndian.AppendUint32(header, uint32(identification))
	frame = slices.Insert(slices.Clone(frame), ethernetSize+ipSize, header...)
	frame[nextHeaderAt] = byte(layers.IPProtocolIPv6Fragment)
	binary.BigEndian.PutUint16(frame[lengthAt:], binary.BigEndian.Uint16(frame[lengthAt:])+headerSize)
	return frame
}
