// SPDX-License-Identifier: Apache-2.0

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
	"github.com/gopacket/gopacket/layers"
	"github.com/vishvananda/netlink"

	"replypath/bpf"
	"replypath/bpf/internal/rig"
)

// sets is how many each flow table has: 262,144 entries, the default of
// flow_table.max_entries, in eight ways.
const sets = 262_144 / 8

// The array indexes of the interfaces and of their gateways: the device of each is the one before.
const (
	production = 1 + iota
	replication
	unplugged     // has no carrier
	unresolved    // has a gateway whose MAC nobody knows
	headerless    // its frames begin with the IP header
	headerlessToo // another one
	unmanaged     // holds the fallback route

	devices = unmanaged
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

// device is that of the interface with this array index.
func (b *bench) device(index int) rig.Device { return b.host.Devices[index-1] }

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
	handovers = b.datapath.Handovers
	arrive := arrive(b.host.Devices[1].Index)
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
	handovers = d.Handovers
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
