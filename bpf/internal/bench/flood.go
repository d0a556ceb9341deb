// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	"github.com/cilium/ebpf/asm"

	"replypath/bpf"
)

// What each packet of a flood counts as.
const (
	admittedHalfOpen       = bpf.DatapathEventEVENT_ADMITTED_HALF_OPEN
	admittedConnectionless = bpf.DatapathEventEVENT_ADMITTED_CONNECTIONLESS
	noSocket               = bpf.DatapathEventEVENT_IGNORED_NO_SOCKET
)

// A flood: every packet comes from a peer that never was, and finds the table full.
const (
	// floodPeers is how many addresses there are to choose from: so many that hardly
	// one comes again before its entry was pushed out.
	floodPeers = 1 << 28
	// floodBase is 16.0.0.0, and serves for the end of an IPv6 address as well.
	floodBase = 0x10000000
	// floodFill is how many packets for each place of the table leave no room in it.
	floodFill = 2
)

// floods are packets that each enter something.
func (b *bench) floods(e endpoints) {
	b.flood(e, "syn", admittedHalfOpen, withFlags(b.in(e, tcp, servicePort, replication), flagSYN))
	b.flood(e, "stray ack", noSocket, b.in(e, tcp, servicePort, replication))
	b.flood(e, "new udp", admittedConnectionless, b.in(e, udp, servicePort, replication))
	b.flood(e, "new echo request", admittedConnectionless, b.in(e, e.echo(), servicePort, replication))
}

// flood adds the case of a frame whose source is another one in every run. It runs until the table is full.
func (b *bench) flood(e endpoints, of string, event bpf.DatapathEvent, frame []byte) {
	c := b.ingress(e, fmt.Sprintf("ingress flood: %s, full table", of), flooded, replication, frame)
	c.writePeers(e, sourceOffset(e), floodPeers-1, floodBase)
	c.prove = func(c *testCase) error {
		if err := counts(event, floodFill*c.bench.datapath.Cells.MaxEntries())(c); err != nil {
			return fmt.Errorf("fill the table: %w", err)
		}
		return nil
	}
}

// writePeers makes a case write a random address into its packet before every run, and the empty program beside it too.
func (c *testCase) writePeers(e endpoints, offset int, mask, base int32) {
	c.before = func() asm.Instructions { return append(c.bench.unmark(), randomPeer(e, offset, mask, base)...) }
}
