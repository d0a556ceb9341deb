// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/bpf/internal/rig"
)

// The ways through the programs that a connection takes once, or seldom. Each packet but the
// last two changes what the next one would find: undo() puts that back before every run. As in
// the other cases all is in a cache; what memory costs in addition, floods and crowds show.
const (
	// Each packet has a flow of its own.
	portSYN = 6000 + iota
	portSYNACK
	portACK
	portInPlace
	portFIN
	portClosing
	portGSO
	portObserved

	flagsSYNACK = 0x12
	// boundFirst is that of a redirect with something to note, boundHandshake that of an entry:
	// three times what it takes, as for a flood.
	boundFirst     = 60
	boundHandshake = 600
	// segments of segmentSize: together less than an MTU, as BPF_PROG_TEST_RUN makes packets
	// without what tells the kernel's bpf_check_mtu() how large the segments of others are.
	segments    = 2
	segmentSize = 500
)

// connection has a datapath of its own, and one whose interfaces are only observed.
type connection struct {
	live, observed *bench
	sockets        []int
	wrappers       []*wrapper
}

func newConnection(b *bench) (group, error) {
	c := new(connection)
	for _, to := range []**bench{&c.live, &c.observed} {
		var err error
		if *to, err = b.beside(); err != nil {
			return nil, errors.Join(err, c.close())
		}
	}
	second := rig.Record(b.host.Devices[1], replication)
	second.Mode = uint8(bpf.DatapathModeMODE_OBSERVE)
	if err := c.observed.datapath.SetInterface(replication, second); err != nil {
		return nil, errors.Join(err, c.close())
	}
	return c, nil
}

func (c *connection) close() error {
	for _, w := range c.wrappers {
		w.close()
	}
	var errs []error
	for _, fd := range c.sockets {
		errs = append(errs, unix.Close(fd))
	}
	for _, b := range []*bench{c.live, c.observed} {
		if b != nil {
			errs = append(errs, b.datapath.Close())
		}
	}
	return errors.Join(errs...)
}

// cases follow a connection from its first packet to those after its end.
func (c *connection) cases() (all []testCase, err error) {
	for _, e := range []endpoints{v4, v6} {
		e.peer = e.one(0) // to whom there is a route
		for _, stage := range []func(endpoints) (testCase, error){
			c.syn, c.synACK, c.lastACK, c.inPlace, c.fin, c.closing, c.gso, c.observe,
		} {
			one, err := stage(e)
			if err != nil {
				return nil, err
			}
			all = append(all, one)
		}
	}
	return all, nil
}

// inbound is a case of a segment from the peer by the flow's interface.
func (c *connection) inbound(of string, bound, aim float64, e endpoints, port uint16, flags byte) testCase {
	second := c.live.host.Devices[1]
	return testCase{
		name:     fmt.Sprintf("ingress: tcp, %s, %s", of, e.family),
		bound:    bound,
		aim:      aim,
		program:  c.live.datapath.ReplypathIngress,
		baseline: c.live.empty,
		frame:    withFlags(inbound(e, layers.IPProtocolTCP, port, second.MAC), flags),
		ifindex:  second.Index,
		verdict:  tcActUnspec,
	}
}

// outbound is a case of a segment to the peer that is routed elsewhere.
func (c *connection) outbound(of string, bound, aim float64, e endpoints, port uint16, flags byte) testCase {
	first := c.live.host.Devices[0]
	return testCase{
		name:     fmt.Sprintf("egress redirect: tcp, %s, %s", of, e.family),
		bound:    bound,
		aim:      aim,
		program:  c.live.datapath.ReplypathEgress,
		baseline: c.live.empty,
		frame:    withFlags(outbound(e, layers.IPProtocolTCP, port, first.MAC), flags),
		ifindex:  first.Index,
		verdict:  tcActRedirect,
	}
}

// anew has a case begin anew with every run.
func (c *connection) anew(one *testCase, changes ...change) (testCase, error) {
	handovers = c.live.datapath.Handovers
	wrappers, err := one.undoEach(changes...)
	c.wrappers = append(c.wrappers, wrappers...)
	return *one, err
}

// syn finds room for a new half-open entry.
func (c *connection) syn(e endpoints) (testCase, error) {
	one := c.inbound("first SYN, there is room", boundHandshake, 0, e, portSYN, 0x02)
	flow, err := c.live.flow(e, layers.IPProtocolTCP, portSYN)
	if err != nil {
		return one, err
	}
	one.prepare = func() error { return c.live.wantCounted(&one, admittedHalfOpen, 1000) }
	return c.anew(&one, c.live.placeOf(c.live.datapath.Nursery, flow).without()...)
}

// synACK is the first answer of a connection.
func (c *connection) synACK(e endpoints) (testCase, error) {
	one := c.outbound("first SYN-ACK", boundFirst, aimRedirect, e, portSYNACK, flagsSYNACK)
	flow, err := c.live.flow(e, layers.IPProtocolTCP, portSYNACK)
	if err != nil {
		return one, err
	}
	if err := c.live.datapath.AddFlow(c.live.datapath.HalfOpen, flow); err != nil {
		return one, err
	}
	at := c.live.placeOf(c.live.datapath.HalfOpen, flow)
	one.prepare = func() error { return at.wantState(&one, bpf.DatapathFlowStateFLOW_ANSWERED) }
	return c.anew(&one, at.state(0))
}

// lastACK ends the handshake: the connection has a socket by then.
func (c *connection) lastACK(e endpoints) (testCase, error) {
	one := c.inbound("last ACK of a handshake", boundHandshake, 0, e, portACK, 0x10)
	flow, err := c.live.flow(e, layers.IPProtocolTCP, portACK)
	if err != nil {
		return one, err
	}
	fd, err := restore(netip.AddrPortFrom(e.self, portACK), netip.AddrPortFrom(e.peer, peerPort))
	if err != nil {
		return one, err
	}
	c.sockets = append(c.sockets, fd)
	flow.State = uint8(bpf.DatapathFlowStateFLOW_ANSWERED)
	flow.SndUna-- // frames have 0, the number after it
	if err := c.live.datapath.AddFlow(c.live.datapath.HalfOpen, flow); err != nil {
		return one, err
	}
	one.prepare = func() error { return c.live.wantCounted(&one, admittedEstablished, 1000) }
	return c.anew(&one, append(
		c.live.placeOf(c.live.datapath.HalfOpen, flow).with(),
		c.live.placeOf(c.live.datapath.Established, flow).without()...)...)
}

// inPlace ends a handshake in the nursery.
func (c *connection) inPlace(e endpoints) (testCase, error) {
	one := c.inbound("last ACK of a request's handshake", boundRefresh, aimRefresh, e, portInPlace, 0x10)
	flow, err := c.live.flow(e, layers.IPProtocolTCP, portInPlace)
	if err != nil {
		return one, err
	}
	const answered = bpf.DatapathFlowStateFLOW_ANSWERED | bpf.DatapathFlowStateFLOW_REQUESTED
	flow.State, flow.Flags = uint8(answered), flow.Flags|uint16(bpf.DatapathFlowFlagsFLOW_HANDSHAKE)
	flow.SndUna-- // frames have 0, the number after it
	if err := c.live.datapath.AddFlow(c.live.datapath.Nursery, flow); err != nil {
		return one, err
	}
	one.prepare = func() error { return c.live.wantCounted(&one, admittedEstablished, 1000) }
	at := c.live.placeOf(c.live.datapath.Nursery, flow)
	return c.anew(&one, append(at.wayOf(flow), at.state(answered))...)
}

// fin is the host's, which notes it. The peer's is to the programs as any other segment.
func (c *connection) fin(e endpoints) (testCase, error) {
	const counted = bpf.DatapathFlowStateFLOW_ASYMMETRIC | bpf.DatapathFlowStateFLOW_CORRECTED
	one := c.outbound("first FIN", boundFirst, aimRedirect, e, portFIN, flagsFIN)
	flow, err := c.live.established(e, portFIN, 0)
	if err != nil {
		return one, err
	}
	at := c.live.placeOf(c.live.datapath.Established, flow)
	one.prepare = func() error { return at.wantState(&one, bpf.DatapathFlowStateFLOW_CLOSING) }
	return c.anew(&one, at.state(counted))
}

// closing is a segment after the host's FIN, which might end the next handshake: that is looked for.
func (c *connection) closing(e endpoints) (testCase, error) {
	one := c.inbound("its connection is closing", boundRefresh, aimRefresh, e, portClosing, 0x10)
	_, err := c.live.established(e, portClosing, bpf.DatapathFlowStateFLOW_CLOSING)
	return one, err
}

// gso is a packet that is still to be cut into segments.
func (c *connection) gso(e endpoints) (testCase, error) {
	first := c.live.host.Devices[0]
	one := c.outbound("two segments in one packet (GSO)", boundFirst, aimRedirect, e, portGSO, 0x10)
	one.frame = sizedFrame(first.MAC, routerMAC, layers.IPProtocolTCP, netip.AddrPortFrom(e.self, portGSO),
		netip.AddrPortFrom(e.peer, peerPort), segments*segmentSize)
	one.segment = segmentSize
	if _, err := c.live.established(e, portGSO, 0); err != nil {
		return one, err
	}
	one.prepare = func() error { return c.live.wantOutcome(&one, bpf.DatapathOutcomeOUTCOME_ASYMMETRIC, segments) }
	return c.anew(&one)
}

// observe counts a reply that it would redirect.
func (c *connection) observe(e endpoints) (testCase, error) {
	one := c.outbound("", boundRedirect, aimRedirect, e, portObserved, 0x10)
	one.name = "egress observe: tcp, " + e.family
	one.program, one.verdict = c.observed.datapath.ReplypathEgress, tcActUnspec
	if _, err := c.observed.established(e, portObserved, 0); err != nil {
		return one, err
	}
	one.prepare = func() error { return c.observed.wantOutcome(&one, bpf.DatapathOutcomeOUTCOME_OBSERVE, 1) }
	return c.anew(&one)
}
