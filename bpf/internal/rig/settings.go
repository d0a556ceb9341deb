// SPDX-License-Identifier: Apache-2.0

package rig

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"replypath/bpf"
)

// What the loader writes into the maps.

func put(m *ebpf.Map, key, value any) error {
	if err := m.Put(key, value); err != nil {
		return fmt.Errorf("write %v of %s: %w", key, m, err)
	}
	return nil
}

// SetSettings replaces the settings.
func (d *Datapath) SetSettings(settings bpf.DatapathSettings) error {
	return d.Configuration.Set(settings)
}

// SetInterface manages an interface under this id, on a thread inside the namespace of its device.
func (d *Datapath) SetInterface(id uint16, record bpf.DatapathInterface) error {
	place := bpf.PlaceOf(int(record.Ifindex))
	d.undo = append(d.undo, func() error {
		return errors.Join(put(d.Interfaces, place, bpf.DatapathInterface{}), d.Devices.Delete(uint32(id)))
	})
	err := put(d.Devices, uint32(id), record.Ifindex)
	if errors.Is(err, unix.EINVAL) { // there is none
		err = nil
	}
	record.Id = id
	return errors.Join(err, put(d.Interfaces, place, record), d.ForgetProof())
}

// SetDevice says which device is behind an interface, 0 for none. The programs see it
// as late as in the next jiffy; here they see it at once.
func (d *Datapath) SetDevice(id, ifindex uint32) error {
	if ifindex != 0 {
		return errors.Join(put(d.Devices, id, ifindex), d.ForgetProof())
	}
	return errors.Join(d.Devices.Delete(id), d.ForgetProof())
}

// ForgetProof has the programs ask the kernel at once whether an interface can be used.
func (d *Datapath) ForgetProof() error {
	return d.ChangeScratch(func(s *bpf.DatapathScratch) { s.Handover.ProvenJiffy = 0 })
}

// Exclusions are a set of all these, for the settings.
func Exclusions(rules ...bpf.DatapathExclusion) bpf.DatapathExclusionSet {
	set := bpf.DatapathExclusionSet{Count: uint32(len(rules))}
	copy(set.Rule[:], rules)
	return set
}

// Exclusion builds a rule; the zero value of each part matches everything.
func Exclusion(peer, self netip.Prefix, protocol uint8, selfPort uint16) bpf.DatapathExclusion {
	rule := bpf.DatapathExclusion{Protocol: protocol, SelfPort: Port(selfPort)} // 0 stays 0
	rule.Peer, rule.PeerMask = Masked(peer)
	rule.Self, rule.SelfMask = Masked(self)
	return rule
}

// Masked is a prefix as the maps hold it.
func Masked(prefix netip.Prefix) (want, mask [2]uint64) {
	if !prefix.IsValid() {
		return want, mask
	}
	address, ones := prefix.Masked().Addr().As16(), net.CIDRMask(int(mappedBits(prefix)), 128)
	for i := range want {
		want[i], mask[i] = binary.NativeEndian.Uint64(address[i*8:]), binary.NativeEndian.Uint64(ones[i*8:])
	}
	return want, mask
}

// SetGateway enters a gateway under this index of the array, found by its MAC
// for frames of its family.
func (d *Datapath) SetGateway(index uint32, gateway bpf.DatapathGateway) error {
	d.undo = append(d.undo, func() error { return put(d.Gateways, index, bpf.DatapathGateway{}) })
	return errors.Join(put(d.Gateways, index, gateway), put(d.Prefixes, GatewayKey(gateway), index))
}

// GatewayKey is what finds a gateway by its MAC.
func GatewayKey(gateway bpf.DatapathGateway) bpf.DatapathPrefixKey {
	family := uint8(6)
	if netip.AddrFrom16(gateway.Address).Is4In6() {
		family = 4
	}
	return macKey(bpf.DatapathPrefixKindPREFIX_GATEWAY, gateway.Ifindex, gateway.Mac, family)
}

func macKey(kind bpf.DatapathPrefixKind, ifindex uint32, mac [6]uint8, family uint8) bpf.DatapathPrefixKey {
	key := bpf.DatapathPrefixKey{Length: 64 + 48, Ifindex: ifindex, Kind: uint16(kind), Family: uint16(family)}
	copy(key.Address[:], mac[:])
	return key
}

// HoldGateway has the programs believe until a tick that the gateway with a MAC is held.
func (d *Datapath) HoldGateway(ifindex uint32, mac [6]uint8, family uint8, until uint32) error {
	return put(d.Prefixes, macKey(bpf.DatapathPrefixKindPREFIX_HELD, ifindex, mac, family), until)
}

// SetOwnAddress enters an address of this host with these flags.
func (d *Datapath) SetOwnAddress(address netip.Addr, flags bpf.DatapathOwnFlags) error {
	return put(d.OwnAddresses, address.As16(), uint32(flags))
}

// OnLinkRouted are the flags of a prefix that the kernel has a route to.
const OnLinkRouted = bpf.DatapathOnLinkFlagsON_LINK | bpf.DatapathOnLinkFlagsON_LINK_ROUTED

// SetOnLinkBy enters a prefix that is on the link of an interface, with these flags.
func (d *Datapath) SetOnLinkBy(ifindex uint32, prefix netip.Prefix, flags bpf.DatapathOnLinkFlags) error {
	return put(d.Prefixes, PrefixKey(bpf.DatapathPrefixKindPREFIX_ON_LINK, ifindex, prefix), uint32(flags))
}

// PrefixKey is where the map of prefixes has one of a kind and an interface, 0 for none.
func PrefixKey(kind bpf.DatapathPrefixKind, ifindex uint32, prefix netip.Prefix) bpf.DatapathPrefixKey {
	family := uint16(6)
	if prefix.Addr().Is4() {
		family = 4
	}
	return bpf.DatapathPrefixKey{
		Length: 64 + mappedBits(prefix), Ifindex: ifindex, Kind: uint16(kind), Family: family, Address: prefix.Addr().As16(),
	}
}

// mappedBits is the length of a prefix of IPv4-mapped addresses, where it is of IPv4.
func mappedBits(prefix netip.Prefix) uint32 {
	return uint32(prefix.Bits() + 128 - prefix.Addr().BitLen())
}

// SetRoute enters that a prefix is routed by a gateway of an interface, 0 for any.
func (d *Datapath) SetRoute(ifindex uint32, prefix netip.Prefix, gateway uint32) error {
	return put(d.Prefixes, PrefixKey(bpf.DatapathPrefixKindPREFIX_ROUTED, ifindex, prefix), gateway)
}

// SourceKey is where it has the gateway of an own address.
func SourceKey(own netip.Addr) bpf.DatapathPrefixKey {
	return PrefixKey(bpf.DatapathPrefixKindPREFIX_SOURCE, 0, netip.PrefixFrom(own, own.BitLen()))
}

// SetSource enters the gateway that takes packets from an own address.
func (d *Datapath) SetSource(own netip.Addr, gateway uint32) error {
	return put(d.Prefixes, SourceKey(own), gateway)
}

// Record is what the loader writes for a device that is up, at 1500 bytes, in
// enforce mode, with one gateway of each family: the one under this index.
func Record(device Device, gateway uint16) bpf.DatapathInterface {
	return bpf.DatapathInterface{
		Ifindex:   device.Index,
		Mtu:       1500,
		Mac:       MAC(device.MAC),
		Flags:     uint8(bpf.DatapathInterfaceFlagsINTERFACE_UP),
		Mode:      uint8(bpf.DatapathModeMODE_ENFORCE),
		Gateways4: 1,
		Gateways6: 1,
		Gateway4:  gateway,
		Gateway6:  gateway,
	}
}

// MAC is a hardware address as the maps hold it.
func MAC(address net.HardwareAddr) [6]byte { return [6]byte(address) }

// Listed is the set of recorded protocols as the settings hold it.
func Listed(protocols ...uint8) (set [32]uint8) {
	for _, p := range protocols {
		set[p/8] |= 1 << (p % 8)
	}
	return set
}

// Tuple is the tuple of a peer and an own address with their ports.
func Tuple(protocol uint8, peer, self netip.AddrPort) bpf.DatapathTuple {
	return bpf.DatapathTuple{
		Peer: peer.Addr().As16(), PeerPort: Port(peer.Port()),
		Self: self.Addr().As16(), SelfPort: Port(self.Port()),
		Protocol: protocol,
	}
}

// Port is a port in network byte order, as the maps hold it.
func Port(port uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, port))
}
