// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/gopacket/gopacket/layers"

	"replypath/bpf/internal/rig"
)

// A crowd of a million flows, half of each family, in a table that is made for as
// many: every run of a case meets another one, so that nothing of it is in a cache.
const (
	crowdBits = 19
	crowdSize = 1 << crowdBits // of each family
	// crowdSets is what the loader makes for a million flows: half as many ways
	// again, in sets of eight.
	crowdSets = 2 * crowdSize * 3 / 2 / 8
	// boundCrowd is how much more a random flow may cost than always the same one.
	boundCrowd = 100
	crowdPort  = 5432
)

// crowd has a datapath of its own.
type crowd struct {
	bench    *bench // for its frames and interfaces
	datapath *rig.Datapath
	wrappers []*wrapper
}

func newCrowd(b *bench) (group, error) {
	datapath, err := rig.Load(rig.Options{Sets: crowdSets})
	if err != nil {
		return nil, err
	}
	c := &crowd{bench: &bench{host: b.host, datapath: datapath, empty: b.empty}, datapath: datapath}
	if err := errors.Join(c.bench.fill(), c.enterFlows()); err != nil {
		return nil, errors.Join(err, c.close())
	}
	return c, nil
}

func (c *crowd) close() error {
	for _, w := range c.wrappers {
		w.close()
	}
	return c.datapath.Close()
}

// one is the address of one of the crowd: the last 32 bits count.
func (e endpoints) one(index uint32) netip.Addr {
	bytes := e.peer.AsSlice()
	last := bytes[len(bytes)-4:]
	binary.BigEndian.PutUint32(last, crowdBase|index)
	address, _ := netip.AddrFromSlice(bytes)
	return address
}

// crowdBase is 10.128.0.0, and serves for the end of an IPv6 address as well.
const crowdBase = 0x0a800000

// enterFlows fills the table. For one flow in some ten thousand there is no room: those of
// the floors go in while it is empty.
func (c *crowd) enterFlows() error {
	for _, e := range []endpoints{v4, v6} {
		if err := c.bench.addFlow(e, layers.IPProtocolTCP, crowdPort); err != nil {
			return fmt.Errorf("enter the flow of %s: %w", e.family, err)
		}
	}
	full := 0
	for _, e := range []endpoints{v4, v6} {
		for i := range uint32(crowdSize) {
			one := e
			one.peer = e.one(i)
			err := c.bench.addFlow(one, layers.IPProtocolTCP, crowdPort)
			switch {
			case errors.Is(err, rig.ErrFull):
				full++
			case err != nil:
				return fmt.Errorf("enter flow %d of %s: %w", i, e.family, err)
			}
		}
	}
	if full > 2*crowdSize/1000 {
		return fmt.Errorf("no room for %d of %d flows", full, 2*crowdSize)
	}
	return nil
}

// cases are those of bench that have flows, for a random one of the crowd, each with the
// least that it can cost.
func (c *crowd) cases() ([]testCase, error) {
	var all []testCase
	for _, e := range []endpoints{v4, v6} {
		for _, known := range []testCase{
			c.bench.ingressRefresh(e, layers.IPProtocolTCP),
			c.bench.egressRight(e, layers.IPProtocolTCP),
			c.redirect(e),
		} {
			random, err := c.random(known, e)
			if err != nil {
				return nil, err
			}
			floor, err := c.floor(known)
			if err != nil {
				return nil, err
			}
			all = append(all, random, floor)
		}
	}
	return all, nil
}

func (c *crowd) redirect(e endpoints) testCase {
	known := c.bench.egressRight(e, layers.IPProtocolTCP)
	first := c.bench.host.Devices[0]
	known.name = "egress redirect: tcp, " + e.family
	known.frame = outbound(e, layers.IPProtocolTCP, crowdPort, first.MAC)
	known.ifindex, known.verdict = first.Index, tcActRedirect
	known.bound, known.aim = boundRedirect, aimRedirect
	return known
}

// random makes a case meet another flow in every run.
func (c *crowd) random(known testCase, e endpoints) (testCase, error) {
	offset := sourceOffset(e)
	if known.program != c.datapath.ReplypathIngress {
		offset += len(e.peer.AsSlice()) // the destination's
	}
	known.name = known.name + ", one of 1,048,576"
	known.bound += boundCrowd
	known.aim += boundCrowd
	known.prepare = nil
	wrappers, err := known.writePeers(e, offset, crowdSize-1, crowdBase)
	c.wrappers = append(c.wrappers, wrappers...)
	return known, err
}
