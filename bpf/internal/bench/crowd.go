// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// A crowd of a million flows, half of each family, in a table that is made for as
// many: every run of a case meets another one, so that nothing of it is in a cache.
const (
	crowdBits = 19
	crowdSize = 1 << crowdBits // of each family
	// crowdBase is 10.128.0.0, and serves for the end of an IPv6 address as well.
	crowdBase = 0x0a800000
)

// one is the address of one of the crowd: the last 32 bits count.
func (e endpoints) one(index uint32) netip.Addr {
	bytes := e.peer.AsSlice()
	binary.BigEndian.PutUint32(bytes[len(bytes)-4:], crowdBase|index)
	address, _ := netip.AddrFromSlice(bytes)
	return address
}

// crowd adds what most packets do, for a random one of the crowd.
func (b *bench) crowd(e endpoints) {
	b.try(b.enterCrowd(e))
	source := sourceOffset(e)
	destination := source + len(e.peer.AsSlice())
	for _, known := range []struct {
		*testCase
		peerAt int
	}{
		{b.ingress(e, "ingress refresh: tcp", refresh, replication, b.in(e, tcp, servicePort, replication)), source},
		{b.egress(e, "egress pass: tcp, already right", right, replication, b.out(e, tcp, servicePort, replication)), destination},
		{b.moved(e, "egress redirect: tcp", redirect, production, b.out(e, tcp, servicePort, production)), destination},
	} {
		known.name += ", one of 1,048,576"
		known.bound, known.aim = known.bound+crowded.bound, known.aim+crowded.aim
		known.writePeers(e, known.peerAt, crowdSize-1, crowdBase)
	}
}

// enterCrowd fills the table.
func (b *bench) enterCrowd(e endpoints) error {
	for i := range uint32(crowdSize) {
		one := e
		one.peer = e.one(i)
		if err := b.datapath.AddFlow(b.datapath.Established, b.flow(one, tcp, servicePort, replication)); err != nil {
			return fmt.Errorf("enter flow %d of %s: %w", i, e.family, err)
		}
	}
	return nil
}
