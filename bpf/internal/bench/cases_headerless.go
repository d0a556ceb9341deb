// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net/netip"
	"slices"

	"github.com/cilium/ebpf/asm"
	"github.com/gopacket/gopacket/layers"

	"replypath/bpf"
)

// Addresses of packets without an Ethernet header: BPF_PROG_TEST_RUN takes the protocol from the 13th and
// 14th byte of what it is given, where an IP header has two of the source address.
var (
	headerless4 = endpoints{
		family: "ipv4",
		peer:   netip.MustParseAddr("8.0.2.100"),
		self:   netip.MustParseAddr("8.0.4.100"),
	}
	headerless6 = endpoints{
		family: "ipv6",
		peer:   netip.MustParseAddr("2001:db8:86dd:2::100"),
		self:   netip.MustParseAddr("2001:db8:86dd:4::100"),
	}
)

const (
	// Each packet has a flow of its own.
	portBareRefresh = 6100 + iota
	portBareSYN
	portBareStranger
	portBareOpened
	portBareRight
	portBareToBare
	portBareToEthernet
	portToBare

	// bareBatch is how often a packet can get a header that it has room for (NET_SKB_PAD, 64 bytes).
	bareBatch = 4
)

// headerlessCases are those of devices whose frames begin with the IP header, as those of tun and WireGuard do, and
// that of a reply to such a device.
func (r *rare) headerlessCases(e endpoints) (all []testCase, err error) {
	family := e
	e = headerless4
	if family.family == "ipv6" {
		e = headerless6
	}
	for _, one := range []func(endpoints) (testCase, error){
		r.bareRefresh, r.bareSYN, r.bareStranger, r.bareOpened, r.bareRight, r.bareToBare, r.bareToEthernet,
	} {
		c, err := one(e)
		if err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	c, err := r.toBare(family)
	return append(all, c), err
}

// bare is a frame without its Ethernet header, and with some padding: a test run wants a whole IP header
// after 14 bytes.
func bare(frame []byte) []byte {
	return append(slices.Clone(frame[ethernetSize:]), make([]byte, ethernetSize)...)
}

// bareIn and bareOut are cases of the programs for such devices.
func (r *rare) bareIn(name string, bound, aim float64, frame []byte) testCase {
	c := r.ingress(name, bound, aim, headerless, bare(frame))
	c.program, c.before = r.datapath.ReplypathIngressL3, toHost
	return c
}

func (r *rare) bareOut(name string, bound, aim float64, frame []byte) testCase {
	c := r.egress(name, bound, aim, headerless, bare(frame))
	c.program = r.datapath.ReplypathEgressL3
	return c
}

// in and out are frames of the peer and of the host, whose MACs do not count.
func (r *rare) in(e endpoints, protocol layers.IPProtocol, port uint16) []byte {
	return inbound(e, protocol, port, r.device(headerless).MAC)
}

func (r *rare) out(e endpoints, protocol layers.IPProtocol, port uint16) []byte {
	return outbound(e, protocol, port, r.device(headerless).MAC)
}

func (r *rare) bareRefresh(e endpoints) (testCase, error) {
	c := r.bareIn("ingress_l3 refresh: tcp, "+e.family, boundRefresh, aimRefresh, r.in(e, layers.IPProtocolTCP, portBareRefresh))
	table, flow, err := r.enter(e, layers.IPProtocolTCP, portBareRefresh, headerless)
	c.prove = r.notes(table, flow, isActive)
	return c, err
}

func (r *rare) bareSYN(e endpoints) (testCase, error) {
	c := r.bareIn("ingress_l3: tcp, first SYN, there is room, "+e.family, boundHandshake, 0,
		asSYN(r.in(e, layers.IPProtocolTCP, portBareSYN)))
	flow, err := r.flowBy(e, layers.IPProtocolTCP, portBareSYN, headerless)
	c.before = func() asm.Instructions {
		return append(toHost(), undo(r.placeOf(r.datapath.Nursery, flow).without())...)
	}
	c.prove = r.counts(admittedHalfOpen)
	return c, err
}

// bareStranger is as ingressStranger.
func (r *rare) bareStranger(e endpoints) (testCase, error) {
	c := r.bareIn("ingress_l3 pass: tcp of a stranger, "+e.family, boundPass, aimPass, r.in(e, layers.IPProtocolTCP, portBareStranger))
	c.recorded = recordedStranger
	c.prove = r.isStranger
	return c, nil
}

// bareOpened is of no flow.
func (r *rare) bareOpened(e endpoints) (testCase, error) {
	c := r.bareOut("egress_l3 pass: tcp of a host-opened connection, "+e.family, boundPass, aimPass,
		r.out(e, layers.IPProtocolTCP, portBareOpened))
	c.prove = r.countsNothing
	return c, nil
}

func (r *rare) bareRight(e endpoints) (testCase, error) {
	c := r.bareOut("egress_l3 pass: udp, already right, "+e.family, boundPass, aimPass, r.out(e, layers.IPProtocolUDP, portBareRight))
	table, flow, err := r.enter(e, layers.IPProtocolUDP, portBareRight, headerless)
	c.prove = r.notes(table, flow, isAnswered)
	return c, err
}

// bareToBare goes as it is.
func (r *rare) bareToBare(e endpoints) (testCase, error) {
	c := r.bareOut("egress_l3 redirect: tcp, to another without header, "+e.family, boundRedirect, aimRedirect,
		r.out(e, layers.IPProtocolTCP, portBareToBare))
	c.verdict, c.prove = tcActRedirect, r.ends(bpf.DatapathOutcomeOUTCOME_ASYMMETRIC)
	_, _, err := r.enter(e, layers.IPProtocolTCP, portBareToBare, headerlessToo)
	return c, err
}

// bareToEthernet gets a header. The packet grows by that with every run, and is made to begin as before; as it has
// room for few, every few runs are a call of their own, which the empty program takes as well.
func (r *rare) bareToEthernet(e endpoints) (testCase, error) {
	c := r.bareOut("egress_l3 redirect: tcp, gets a header, "+e.family, boundHeader, 0,
		r.out(e, layers.IPProtocolTCP, portBareToEthernet))
	c.verdict, c.prove = tcActRedirect, r.ends(bpf.DatapathOutcomeOUTCOME_ASYMMETRIC)
	c.batch = bareBatch
	c.before = func() asm.Instructions { return append(unmark(), rewrite(c.frame[:e.ipSize()+tcpSize])...) }
	_, _, err := r.enter(e, layers.IPProtocolTCP, portBareToEthernet, replication)
	return c, err
}

// toBare loses its header, after the program.
func (r *rare) toBare(e endpoints) (testCase, error) {
	c := r.moved("egress redirect: tcp, to one without header, "+e.family, boundRedirect, aimRedirect, production,
		outbound(e, layers.IPProtocolTCP, portToBare, r.device(production).MAC))
	_, _, err := r.enter(e, layers.IPProtocolTCP, portToBare, headerless)
	return c, err
}
