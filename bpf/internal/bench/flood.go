// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/gopacket/gopacket/layers"

	"replypath/bpf"
)

// What each packet of a flood counts as.
const (
	admittedHalfOpen       = bpf.DatapathEventEVENT_ADMITTED_HALF_OPEN
	admittedConnectionless = bpf.DatapathEventEVENT_ADMITTED_CONNECTIONLESS
	admittedEstablished    = bpf.DatapathEventEVENT_ADMITTED_ESTABLISHED
	noSocket               = bpf.DatapathEventEVENT_IGNORED_NO_SOCKET
	contested              = bpf.DatapathEventEVENT_REFUSED_CONTESTED
)

// A flood: every packet comes from a peer that never was, and finds the table full.
const (
	floodPort = 5432
	// floodPeers is how many addresses there are to choose from: so many that hardly
	// one comes again before its entry was pushed out.
	floodPeers = 1 << 28
	// floodBase is 16.0.0.0, and serves for the end of an IPv6 address as well.
	floodBase = 0x10000000
	// floodFill is how many packets for each way of a table leave none of them free.
	floodFill = 4
	// boundFlood is mostly that of two sets and an entry that are in no cache.
	boundFlood = 2000
)

// flood has datapaths of its own: handshakes push out strays, so that each needs its
// own to find the table full of its kind.
type flood struct {
	handshakes, strays *bench
	wrappers           []*wrapper
}

func newFlood(b *bench) (group, error) {
	f := new(flood)
	for _, to := range []**bench{&f.handshakes, &f.strays} {
		var err error
		if *to, err = b.beside(); err != nil {
			return nil, errors.Join(err, f.close())
		}
	}
	return f, nil
}

func (f *flood) close() error {
	for _, w := range f.wrappers {
		w.close()
	}
	var errs []error
	for _, b := range []*bench{f.handshakes, f.strays} {
		if b != nil {
			errs = append(errs, b.datapath.Close())
		}
	}
	return errors.Join(errs...)
}

// cases are a packet of each flood that enters something.
func (f *flood) cases() ([]testCase, error) {
	var all []testCase
	for _, e := range []endpoints{v4, v6} {
		for _, c := range []struct {
			of    string
			bench *bench
			table *ebpf.Map
			event bpf.DatapathEvent
			frame []byte
		}{
			{"syn", f.handshakes, f.handshakes.datapath.HalfOpen, admittedHalfOpen, f.syn(e)},
			{"stray ack", f.strays, f.strays.datapath.HalfOpen, noSocket, f.frame(e, layers.IPProtocolTCP)},
			{"new udp", f.handshakes, f.handshakes.datapath.Connectionless, admittedConnectionless, f.frame(e, layers.IPProtocolUDP)},
			{"new echo request", f.handshakes, f.handshakes.datapath.Connectionless, admittedConnectionless, f.frame(e, echoProtocol(e))},
		} {
			strangers, err := f.fromStrangers(c.bench, e, c.frame)
			if err != nil {
				return nil, err
			}
			strangers.name = fmt.Sprintf("ingress flood: %s, full table, %s", c.of, e.family)
			strangers.prepare = func() error { return c.bench.fillUp(&strangers, c.table, c.event) }
			all = append(all, strangers)
		}
	}
	return all, nil
}

func (f *flood) frame(e endpoints, protocol layers.IPProtocol) []byte {
	return inbound(e, protocol, floodPort, f.handshakes.host.Devices[1].MAC)
}

func echoProtocol(e endpoints) layers.IPProtocol {
	if e.family == "ipv6" {
		return layers.IPProtocolICMPv6
	}
	return layers.IPProtocolICMPv4
}

func (f *flood) syn(e endpoints) []byte { return asSYN(f.frame(e, layers.IPProtocolTCP)) }

// fromStrangers is the case of a frame whose source is another one in every run.
func (f *flood) fromStrangers(b *bench, e endpoints, frame []byte) (testCase, error) {
	c := testCase{
		bound:    boundFlood,
		program:  b.datapath.ReplypathIngress,
		baseline: b.empty,
		frame:    frame,
		ifindex:  b.host.Devices[1].Index,
		verdict:  tcActUnspec,
	}
	wrappers, err := c.writePeers(e, sourceOffset(e), floodPeers-1, floodBase)
	f.wrappers = append(f.wrappers, wrappers...)
	return c, err
}

// fillUp runs the case until its table is full of such packets.
func (b *bench) fillUp(c *testCase, table *ebpf.Map, event bpf.DatapathEvent) error {
	ways := table.MaxEntries() * uint32(bpf.DatapathWaysWAYS)
	if err := b.wantCounted(c, event, floodFill*ways); err != nil {
		return fmt.Errorf("fill the table: %w", err)
	}
	var index uint32
	var set bpf.DatapathFlowSet
	all := table.Iterate()
	for all.Next(&index, &set) {
		if slices.Contains(set.Digest[:], 0) {
			return fmt.Errorf("set %d of %s is not full", index, table)
		}
	}
	return all.Err()
}
