package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"regexp"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/vishvananda/netlink"

	"replypath/bpf"
	"replypath/bpf/internal/rig"
)

// Bounds in nanoseconds over an empty program.
const (
	boundPass     = 30
	boundRedirect = 45
	boundRefresh  = 40
	boundUntaken  = 150
	// recordedStranger is a tenth more than a segment of a stranger, for which more places are
	// looked at than for any other, takes on a Xeon (Sapphire Rapids): 29 to 33 ns, where the
	// reference takes 52.
	recordedStranger = 36
	// belowBound is how far below each of them the project wants to come.
	belowBound = 10
)

// sets is how many each flow table has: 262,144 entries, the default of
// flow_table.max_entries, in eight ways.
const sets = 262_144 / 8

// The array indexes of the two interfaces and of their gateways.
const (
	production = 1 + iota
	replication
)

var (
	gatewayMAC = net.HardwareAddr{2, 0, 0, 0, 1, 1} // of the replication interface
	routerMAC  = net.HardwareAddr{2, 0, 0, 0, 1, 0} // of the production interface

	v4 = endpoints{
		family:    "ipv4",
		peer:      netip.MustParseAddr("10.1.0.100"),
		self:      netip.MustParseAddr("10.4.0.100"),
		forwarded: netip.MustParseAddr("10.9.0.100"),
	}
	v6 = endpoints{
		family:    "ipv6",
		peer:      netip.MustParseAddr("fd00:1::100"),
		self:      netip.MustParseAddr("fd00:4::100"),
		forwarded: netip.MustParseAddr("fd00:9::100"),
	}
)

type endpoints struct {
	family     string
	peer, self netip.Addr
	forwarded  netip.Addr // is not the host's
}

// bench holds what all cases share.
type bench struct {
	host     *rig.Host
	datapath *rig.Datapath
	empty    *ebpf.Program
	// What the runs of one call must find anew for every packet; each has an
	// empty program called the same way beside it.
	egress, egressEmpty   *wrapper
	arrival, arrivalEmpty *wrapper
}

func newBench(host *rig.Host) (*bench, error) {
	b := &bench{host: host}
	if err := b.load(); err != nil {
		b.close()
		return nil, err
	}
	if err := errors.Join(b.fill(), b.route(v4), b.route(v6)); err != nil {
		b.close()
		return nil, err
	}
	return b, nil
}

func (b *bench) load() (err error) {
	if b.datapath, err = rig.Load(rig.Options{Sets: sets}); err != nil {
		return err
	}
	if b.empty, err = emptyProgram(); err != nil {
		return fmt.Errorf("load empty program: %w", err)
	}
	arrive := arrive(b.datapath.Handovers, b.host.Devices[1].Index)
	for _, w := range []struct {
		wrapper **wrapper
		target  *ebpf.Program
		before  asm.Instructions
	}{
		{&b.egress, b.datapath.ReplypathEgress, unmark()},
		{&b.egressEmpty, b.empty, unmark()},
		{&b.arrival, b.datapath.ReplypathEgress, arrive},
		{&b.arrivalEmpty, b.empty, arrive},
	} {
		if *w.wrapper, err = newWrapper(w.target, w.before); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) close() {
	for _, w := range []*wrapper{b.egress, b.egressEmpty, b.arrival, b.arrivalEmpty} {
		if w != nil {
			w.close()
		}
	}
	for _, c := range []io.Closer{b.empty, b.datapath} {
		c.Close()
	}
}

// route gives the host its address and a route to peers, so that it can have sockets that are
// connected to them.
func (b *bench) route(e endpoints) error {
	second, first := b.host.Devices[1], e.one(0)
	peers := netlink.Route{
		LinkIndex: int(second.Index), Scope: netlink.SCOPE_LINK,
		Dst: &net.IPNet{IP: first.AsSlice(), Mask: net.CIDRMask(first.BitLen()-spoofBits, first.BitLen())},
	}
	if err := b.host.AddAddress(second, e.self); err != nil {
		return err
	}
	if err := netlink.RouteAdd(&peers); err != nil {
		return fmt.Errorf("route %s: %w", peers.Dst, err)
	}
	return nil
}

// beside is a bench with the same host and a datapath of its own.
func (b *bench) beside() (*bench, error) {
	datapath, err := rig.Load(rig.Options{Sets: sets})
	if err != nil {
		return nil, err
	}
	other := &bench{host: b.host, datapath: datapath, empty: b.empty}
	if err := other.fill(); err != nil {
		return nil, errors.Join(err, datapath.Close())
	}
	return other, nil
}

// fill writes what the loader would write for a host with two interfaces.
func (b *bench) fill() error {
	d := b.datapath
	gateway := func(device rig.Device, address string, mac net.HardwareAddr) bpf.DatapathGateway {
		return bpf.DatapathGateway{
			Address: netip.MustParseAddr(address).As16(),
			Ifindex: device.Index,
			Mac:     rig.MAC(mac),
			Usable:  1,
		}
	}
	first, second := b.host.Devices[0], b.host.Devices[1]
	return errors.Join(
		d.SetSettings(bpf.DatapathSettings{Protocols: rig.Listed(1, 6, 17, 58, 132)}),
		d.SetInterface(production, rig.Record(first, production)),
		d.SetInterface(replication, rig.Record(second, replication)),
		d.SetGateway(production, gateway(first, "10.3.0.1", routerMAC)),
		d.SetGateway(replication, gateway(second, "10.4.0.1", gatewayMAC)),
		d.SetOwnAddress(v4.self, bpf.DatapathOwnFlagsOWN_ADDRESS),
		d.SetOwnAddress(v6.self, bpf.DatapathOwnFlagsOWN_ADDRESS),
	)
}

// cases are those that a host with few flows has.
func (b *bench) cases() []testCase {
	all := []testCase{b.ingressARP(), b.egressARP()}
	for _, e := range []endpoints{v4, v6} {
		all = append(all,
			b.ingressAnswer(e),
			b.ingressStranger(e),
			b.ingressRefresh(e, layers.IPProtocolTCP),
			b.ingressRefresh(e, layers.IPProtocolUDP),
			b.ingressUntaken(e),
			b.egressHostOpened(e),
			b.egressHostSpokeFirst(e),
			b.egressRight(e, layers.IPProtocolTCP),
			b.egressRight(e, layers.IPProtocolUDP),
			b.egressRedirect(e, layers.IPProtocolTCP),
			b.egressRedirect(e, layers.IPProtocolUDP),
			b.egressArrived(e, layers.IPProtocolTCP),
			b.ingressForwarded(e),
			b.egressForwarded(e),
		)
	}
	return all
}

// matching are the cases whose name matches.
func matching(all []testCase, pattern string) ([]testCase, error) {
	match, err := regexp.Compile(pattern)
	if err != nil {
		return nil, fmt.Errorf("read -run: %w", err)
	}
	var chosen []testCase
	for _, c := range all {
		if match.MatchString(c.name) {
			chosen = append(chosen, c)
		}
	}
	return chosen, nil
}

func (b *bench) ingressARP() testCase {
	second := b.host.Devices[1]
	return testCase{
		name:     "ingress pass: arp",
		bound:    boundPass,
		program:  b.datapath.ReplypathIngress,
		baseline: b.empty,
		frame:    arp(gatewayMAC, second.MAC),
		ifindex:  second.Index,
		verdict:  tcActUnspec,
	}
}

func (b *bench) egressARP() testCase {
	first := b.host.Devices[0]
	return testCase{
		name:     "egress pass: arp",
		bound:    boundPass,
		program:  b.datapath.ReplypathEgress,
		baseline: b.empty,
		frame:    arp(first.MAC, routerMAC),
		ifindex:  first.Index,
		verdict:  tcActUnspec,
	}
}

// ingressAnswer is a segment of a connection that the host opened itself.
func (b *bench) ingressAnswer(e endpoints) testCase {
	c := b.ingressSegment("host-opened connection", e, 443)
	c.prepare = func() error {
		open := b.egressHostOpened(e)
		open.frame = outboundSYN(e, 443, b.host.Devices[0].MAC)
		return open.check()
	}
	return c
}

// ingressStranger is a segment that nobody here knows anything of, as in a flood:
// the first run asks for a socket, all others remember that there is none.
func (b *bench) ingressStranger(e endpoints) testCase {
	c := b.ingressSegment("stranger", e, 444)
	c.recorded = recordedStranger
	return c
}

func (b *bench) ingressSegment(of string, e endpoints, port uint16) testCase {
	first := b.host.Devices[0]
	return testCase{
		name:     fmt.Sprintf("ingress pass: tcp of a %s, %s", of, e.family),
		bound:    boundPass,
		program:  b.datapath.ReplypathIngress,
		baseline: b.empty,
		frame:    inbound(e, layers.IPProtocolTCP, port, first.MAC),
		ifindex:  first.Index,
		verdict:  tcActUnspec,
	}
}

func (b *bench) ingressRefresh(e endpoints, protocol layers.IPProtocol) testCase {
	const port = 5432
	second := b.host.Devices[1]
	return testCase{
		name:     fmt.Sprintf("ingress refresh: %s, %s", name(protocol), e.family),
		bound:    boundRefresh,
		program:  b.datapath.ReplypathIngress,
		baseline: b.empty,
		frame:    inbound(e, protocol, port, second.MAC),
		ifindex:  second.Index,
		verdict:  tcActUnspec,
		prepare:  func() error { return b.addFlow(e, protocol, port) },
	}
}

// ingressUntaken is a datagram that no socket of the host takes and nobody has answered so
// far, as a container's statistics are: each asks whether a socket is there by now.
func (b *bench) ingressUntaken(e endpoints) testCase {
	second := b.host.Devices[1]
	return testCase{
		name:     "ingress: udp, nobody takes it, " + e.family,
		bound:    boundUntaken,
		program:  b.datapath.ReplypathIngress,
		baseline: b.empty,
		frame:    inbound(e, layers.IPProtocolUDP, 8125, second.MAC),
		ifindex:  second.Index,
		verdict:  tcActUnspec,
	}
}

func (b *bench) egressHostOpened(e endpoints) testCase {
	first := b.host.Devices[0]
	return testCase{
		name:     "egress pass: tcp of a host-opened connection, " + e.family,
		bound:    boundPass,
		program:  b.datapath.ReplypathEgress,
		baseline: b.empty,
		frame:    outbound(e, layers.IPProtocolTCP, 443, first.MAC),
		ifindex:  first.Index,
		verdict:  tcActUnspec,
	}
}

// egressHostSpokeFirst is a query to a server: the first run notes it, all
// others find the note.
func (b *bench) egressHostSpokeFirst(e endpoints) testCase {
	first := b.host.Devices[0]
	return testCase{
		name:     "egress pass: udp, host spoke first, " + e.family,
		bound:    boundPass,
		program:  b.datapath.ReplypathEgress,
		baseline: b.empty,
		frame:    outbound(e, layers.IPProtocolUDP, 53, first.MAC),
		ifindex:  first.Index,
		verdict:  tcActUnspec,
	}
}

// ingressForwarded and egressForwarded are a datagram that the host forwards: the
// first run finds out that it is none of ours, all others remember it.
func (b *bench) ingressForwarded(e endpoints) testCase {
	e.self = e.forwarded
	first := b.host.Devices[0]
	return testCase{
		name:     "ingress pass: udp, forwarded, " + e.family,
		bound:    boundPass,
		program:  b.datapath.ReplypathIngress,
		baseline: b.empty,
		frame:    inbound(e, layers.IPProtocolUDP, 53, first.MAC),
		ifindex:  first.Index,
		verdict:  tcActUnspec,
	}
}

func (b *bench) egressForwarded(e endpoints) testCase {
	e.self = e.forwarded
	second := b.host.Devices[1]
	return testCase{
		name:     "egress pass: udp, forwarded, " + e.family,
		bound:    boundPass,
		program:  b.datapath.ReplypathEgress,
		baseline: b.empty,
		frame:    outbound(e, layers.IPProtocolUDP, 53, second.MAC),
		ifindex:  second.Index,
		arrived:  b.host.Devices[0].Index,
		verdict:  tcActUnspec,
	}
}

func (b *bench) egressRight(e endpoints, protocol layers.IPProtocol) testCase {
	const port = 5432
	second := b.host.Devices[1]
	return testCase{
		name:     fmt.Sprintf("egress pass: %s, already right, %s", name(protocol), e.family),
		bound:    boundPass,
		program:  b.datapath.ReplypathEgress,
		baseline: b.empty,
		frame:    outbound(e, protocol, port, second.MAC),
		ifindex:  second.Index,
		verdict:  tcActUnspec,
		prepare:  func() error { return b.addFlow(e, protocol, port) },
	}
}

func (b *bench) egressRedirect(e endpoints, protocol layers.IPProtocol) testCase {
	const port = 5432
	first := b.host.Devices[0]
	return testCase{
		name:     fmt.Sprintf("egress redirect: %s, %s", name(protocol), e.family),
		bound:    boundRedirect,
		program:  b.egress.program,
		baseline: b.egressEmpty.program,
		frame:    outbound(e, protocol, port, first.MAC),
		ifindex:  first.Index,
		verdict:  tcActRedirect,
		prepare:  func() error { return b.addFlow(e, protocol, port) },
	}
}

// egressArrived is the second run for a packet that was moved.
func (b *bench) egressArrived(e endpoints, protocol layers.IPProtocol) testCase {
	redirect, second := b.egressRedirect(e, protocol), b.host.Devices[1]
	return testCase{
		name:     fmt.Sprintf("egress pass: %s, arrived, %s", name(protocol), e.family),
		bound:    boundPass,
		program:  b.arrival.program,
		baseline: b.arrivalEmpty.program,
		frame:    redirect.frame,
		ifindex:  second.Index,
		verdict:  tcActUnspec,
		prepare:  redirect.check, // leaves the word that arrivals are counted by
	}
}

// addFlow enters a flow that came in by the replication interface.
func (b *bench) addFlow(e endpoints, protocol layers.IPProtocol, port uint16) error {
	table := b.datapath.Connectionless
	if protocol == layers.IPProtocolTCP {
		table = b.datapath.Established
	}
	flow, err := b.flow(e, protocol, port)
	if err != nil {
		return err
	}
	return b.datapath.AddFlow(table, flow)
}

// flow came in by the replication interface.
func (b *bench) flow(e endpoints, protocol layers.IPProtocol, port uint16) (bpf.DatapathFlow, error) {
	now, err := b.datapath.Now()
	return bpf.DatapathFlow{
		Tuple:     rig.Tuple(uint8(protocol), netip.AddrPortFrom(e.peer, peerPort), netip.AddrPortFrom(e.self, port)),
		Seen:      now + b.datapath.Seconds(600), // its peer goes on asking while this is measured
		Created:   now,
		Ifindex:   b.host.Devices[1].Index,
		Interface: replication,
		Gateway:   replication,
		Mac:       rig.MAC(gatewayMAC),
		Flags:     uint16(bpf.DatapathFlowFlagsFLOW_NEXT_HOP_GATEWAY),
	}, err
}

const (
	peerPort    = 40000
	payloadSize = 64
)

func name(protocol layers.IPProtocol) string {
	if protocol == layers.IPProtocolTCP {
		return "tcp"
	}
	return "udp"
}

// inbound is a frame from the peer, outbound one to it.
func inbound(e endpoints, protocol layers.IPProtocol, port uint16, to net.HardwareAddr) []byte {
	return frame(gatewayMAC, to, protocol, netip.AddrPortFrom(e.peer, peerPort), netip.AddrPortFrom(e.self, port))
}

func outbound(e endpoints, protocol layers.IPProtocol, port uint16, from net.HardwareAddr) []byte {
	return frame(from, routerMAC, protocol, netip.AddrPortFrom(e.self, port), netip.AddrPortFrom(e.peer, peerPort))
}

func frame(from, to net.HardwareAddr, protocol layers.IPProtocol, source, destination netip.AddrPort) []byte {
	return sizedFrame(from, to, protocol, source, destination, payloadSize)
}

func sizedFrame(from, to net.HardwareAddr, protocol layers.IPProtocol, source, destination netip.AddrPort, payload int) []byte {
	ethernet := &layers.Ethernet{SrcMAC: from, DstMAC: to, EthernetType: layers.EthernetTypeIPv4}
	var ip gopacket.SerializableLayer
	var network gopacket.NetworkLayer
	if source.Addr().Is4() {
		header := &layers.IPv4{Version: 4, TTL: 64, Protocol: protocol,
			SrcIP: source.Addr().AsSlice(), DstIP: destination.Addr().AsSlice()}
		ip, network = header, header
	} else {
		ethernet.EthernetType = layers.EthernetTypeIPv6
		header := &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: protocol,
			SrcIP: source.Addr().AsSlice(), DstIP: destination.Addr().AsSlice()}
		ip, network = header, header
	}
	return must(rig.Serialize(ethernet, ip, transport(protocol, network, source.Port(), destination.Port()),
		gopacket.Payload(make([]byte, payload))))
}

func outboundSYN(e endpoints, port uint16, from net.HardwareAddr) []byte {
	return asSYN(outbound(e, layers.IPProtocolTCP, port, from))
}

// asSYN makes a segment the first one of a connection.
func asSYN(frame []byte) []byte { return withFlags(frame, 0x02) }

// withFlags gives a segment other control bits.
func withFlags(frame []byte, flags byte) []byte {
	frame[len(frame)-payloadSize-20+13] = flags // in the TCP header, which is the last
	return frame
}

func transport(protocol layers.IPProtocol, network gopacket.NetworkLayer, source, destination uint16) gopacket.SerializableLayer {
	switch protocol {
	case layers.IPProtocolUDP:
		udp := &layers.UDP{SrcPort: layers.UDPPort(source), DstPort: layers.UDPPort(destination)}
		udp.SetNetworkLayerForChecksum(network)
		return udp
	case layers.IPProtocolICMPv4:
		return &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(layers.ICMPv4TypeEchoRequest, 0), Id: source}
	case layers.IPProtocolICMPv6:
		icmp := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(layers.ICMPv6TypeEchoRequest, 0)}
		icmp.SetNetworkLayerForChecksum(network)
		return icmp // its identifier is the beginning of the payload
	}
	tcp := &layers.TCP{SrcPort: layers.TCPPort(source), DstPort: layers.TCPPort(destination), ACK: true, Window: 1024}
	tcp.SetNetworkLayerForChecksum(network)
	return tcp
}

func arp(from, to net.HardwareAddr) []byte {
	return must(rig.Serialize(
		&layers.Ethernet{SrcMAC: from, DstMAC: to, EthernetType: layers.EthernetTypeARP},
		&layers.ARP{
			AddrType:          layers.LinkTypeEthernet,
			Protocol:          layers.EthernetTypeIPv4,
			HwAddressSize:     6,
			ProtAddressSize:   4,
			Operation:         layers.ARPReply,
			SourceHwAddress:   from,
			SourceProtAddress: net.IPv4(10, 4, 0, 1).To4(),
			DstHwAddress:      to,
			DstProtAddress:    net.IPv4(10, 4, 0, 100).To4(),
		}))
}

// must is for frames made of constants: they can be built or the program is wrong.
func must(frame []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return frame
}
